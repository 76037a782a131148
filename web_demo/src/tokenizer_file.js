// tokenizer.json as the page trusts it: ids that the model has, and no step that could take endless time or memory.

import { InputError } from "./errors.js";
import { parseJson } from "./json.js";
import { isBounded } from "./pattern.js";

const MAX_STEPS = 64;
const MAX_GROWTH = 8; // characters that the steps together make of one
const STEPS = { normalizer: "normalizers", pre_tokenizer: "pretokenizers", decoder: "decoders" };

/**
 * The tokenizer in `content`; `rows` of the model's embedding: no id lies beyond.
 *
 * Throws an InputError naming `where`.
 */
export function parseTokenizer(content, where, rows) {
  const json = parseJson(content, where);
  const wrong = (what) => new InputError(`${where}: ${what}`);
  if (!isObject(json) || !isObject(json.model)) throw wrong("not a tokenizer.json (it has no model)");
  json.added_tokens ??= [];
  if (!Array.isArray(json.added_tokens)) throw wrong("added_tokens: must be a list");
  const ids = vocabulary(json.model, rows, wrong);
  merges(json.model, ids, wrong);
  addedTokens(json.added_tokens, ids, rows, wrong);
  for (const [name, items] of Object.entries(STEPS)) steps(json[name], name, items, wrong);
  return { ...json, padding: null, truncation: null, post_processor: null };
}

const isObject = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
const isId = (x, rows) => Number.isInteger(x) && x >= 0 && x < rows;

/** Map of token -> id. */
function vocabulary({ vocab }, rows, wrong) {
  const entries = Array.isArray(vocab) ? vocab.map((entry, id) => [entry?.[0], id]) : Object.entries(vocab ?? {});
  if (!entries.length || typeof vocab !== "object") throw wrong("model: vocab: no vocabulary");
  const taken = new Set();
  for (const [token, id] of entries) {
    if (typeof token !== "string") throw wrong("model: vocab: an entry is no token");
    if (!isId(id, rows)) throw wrong(`model: vocab: the id ${JSON.stringify(id)} is not one of the model's ${rows}`);
    if (taken.has(id)) throw wrong(`model: vocab: two tokens have the id ${id}`);
    taken.add(id);
  }
  return new Map(entries);
}

function merges({ type, merges: pairs, unk_token: unknown, dropout }, ids, wrong) {
  if (!["BPE", "Unigram"].includes(type ?? "BPE")) throw wrong(`model: type ${JSON.stringify(type)} is not supported`);
  if (dropout) throw wrong("model: dropout is not supported");
  if (typeof unknown === "string" && !ids.has(unknown)) throw wrong("model: unk_token is not a token");
  if (type === "Unigram") return;
  if (!Array.isArray(pairs)) throw wrong("model: merges: must be a list");
  for (const pair of pairs) {
    const [left, right, ...more] = typeof pair === "string" ? pair.split(" ") : Array.isArray(pair) ? pair : [];
    const known = [left, right].every((token) => typeof token === "string" && ids.has(token));
    if (!known || more.length || !ids.has(left + right)) {
      throw wrong(`model: merges: ${JSON.stringify(pair)?.slice(0, 80)} is not a pair of tokens of the vocabulary`);
    }
  }
}

function addedTokens(tokens, ids, rows, wrong) {
  const byContent = new Map(ids);
  const byId = new Map([...ids].map(([content, id]) => [id, content]));
  for (const token of tokens) {
    if (!isObject(token) || typeof token.content !== "string" || !token.content) {
      throw wrong("added_tokens: one has no content");
    }
    const { content, id, special } = token;
    if (typeof special !== "boolean") throw wrong(`added token ${content}: special must be true or false`);
    if (!isId(id, rows)) throw wrong(`added token ${content}: its id ${JSON.stringify(id)} is not one of the model's ${rows}`);
    if ((byContent.get(content) ?? id) !== id || (byId.get(id) ?? content) !== content) {
      throw wrong(`added token ${content}: its id ${id} is not its own`);
    }
    byContent.set(content, id);
    byId.set(id, content);
  }
}

function steps(component, name, items, wrong) {
  let [count, growth] = [0, 1];
  const visit = (step) => {
    if (!isObject(step) || typeof step.type !== "string") throw wrong(`${name}: not a component with a type`);
    if (step.type === "Sequence") {
      if (!Array.isArray(step[items])) throw wrong(`${name}: a Sequence without ${items}`);
      if ((count += step[items].length) > MAX_STEPS) throw wrong(`${name}: more than ${MAX_STEPS} steps; refused`);
      step[items].forEach(visit);
    } else if (step.type === "Split" || step.type === "Replace") {
      const { String: fixed, Regex: regex } = isObject(step.pattern) ? step.pattern : {};
      const pattern = fixed ?? regex;
      if (typeof pattern !== "string" || !pattern) throw wrong(`${name}: ${step.type}: its pattern is missing or empty`);
      if (fixed === undefined && !isBounded(regex)) {
        throw wrong(`${name}: ${step.type}: the pattern ${JSON.stringify(pattern.slice(0, 60))} is refused: it could take endless time`); // prettier-ignore
      }
      const content = step.type === "Replace" ? step.content : "";
      if (typeof content !== "string") throw wrong(`${name}: Replace: its content is missing`);
      growth *= Math.max(1, content.length / (fixed?.length ?? 1));
    }
  };
  if (component !== null && component !== undefined) visit(component);
  if (growth > MAX_GROWTH) throw wrong(`${name}: makes up to ${growth} characters of one; refused`);
}
