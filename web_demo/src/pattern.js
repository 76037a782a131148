// Which regular expressions of a tokenizer may run. JavaScript's search backtracks: `(a+)+$` takes exponential time on
// forty letters. himix_edge/patterns.py tells more of them apart; the published ones (GPT-2, Llama 3, Qwen) pass both.

const KNOWN = new Set([String.raw`\d{1,3}(?=(?:\d{3})*\b)`]); // digits in threes from the right
const MAX_LENGTH = 8192;
const ATOM = /\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\[\]()|]/suy;
const QUANTIFIER = /[*+?][+?]?|\{\d*,?\d*\}[+?]?/uy;

/** Whether a search takes quadratic time at most: see `alternative`. */
export function isBounded(pattern) {
  if (KNOWN.has(pattern)) return true;
  if (pattern.length > MAX_LENGTH) return false;
  const state = { pattern, at: 0 };
  return alternatives(state, 0) !== null && state.at === pattern.length;
}

/** Reads up to the group's end -> whether it has an unbounded repeat; null if it is refused. */
function alternatives(state, depth) {
  let repeats = false;
  do {
    const found = depth > 8 ? null : alternative(state, depth);
    if (found === null) return null;
    repeats ||= found;
  } while (take(state, "|"));
  return repeats;
}

/** At most two unbounded repeats, none of them of a group or in one, and after two nothing that can fail. */
function alternative(state, depth) {
  let count = 0;
  while (state.at < state.pattern.length && !"|)".includes(state.pattern[state.at])) {
    const group = state.pattern[state.at] === "(";
    const look = group && /^\(\?<?[=!]/.test(state.pattern.slice(state.at, state.at + 4));
    if (!(group ? takeGroup(state, depth) : match(state, ATOM))) return null;
    const quantifier = match(state, QUANTIFIER);
    const unbounded = /^[*+]|^\{\d*,\}/.test(quantifier);
    const many = /^\{\d*,?(\d+)\}/.exec(quantifier);
    if ((group && quantifier && !quantifier.startsWith("?")) || (many && many[1] > 64)) return null;
    if (count === 2 && !look && !quantifier.startsWith("?")) return null;
    if (unbounded && ++count > 2) return null;
  }
  return count > 0;
}

/** A group without an unbounded repeat of its own. */
function takeGroup(state, depth) {
  const opening = /\((?:\?(?:[ims-]*:|<?[=!]|>))?/uy;
  if (!match(state, opening)) return false;
  return alternatives(state, depth + 1) === false && take(state, ")");
}

function match(state, regex) {
  regex.lastIndex = state.at;
  const found = regex.exec(state.pattern)?.[0] ?? "";
  state.at += found.length;
  return found;
}

function take(state, character) {
  if (state.pattern[state.at] !== character) return false;
  state.at += 1;
  return true;
}
