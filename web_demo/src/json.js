// JSON from a file that nobody vouches for: as its standard has it, every name once, not too deep, text that is text.

import { InputError } from "./errors.js";

const MAX_DEPTH = 64;
const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],:]/gs;

/** The value in `raw`, UTF-8. Throws an InputError naming `where`. */
export function parseJson(raw, where) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw);
  } catch {
    throw new InputError(`${where}: not valid JSON (not UTF-8)`);
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new InputError(`${where}: not valid JSON`);
  }
  const wrong = problem(text);
  if (wrong) throw new InputError(`${where}: not valid JSON (${wrong})`);
  return value;
}

/** What JSON.parse lets pass in a text that it could read; empty if nothing. */
function problem(text) {
  const open = []; // for each object the names so far, for each array null
  let isName = false;
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === "{" || token === "[") {
      if (open.push(token === "{" ? new Set() : null) > MAX_DEPTH) return `nested deeper than ${MAX_DEPTH}`;
      isName = token === "{";
    } else if (token === "}" || token === "]") {
      open.pop();
      isName = false;
    } else if (token === ",") {
      isName = open.at(-1) !== null && open.length > 0;
    } else if (token !== ":") {
      const content = token.includes("\\") ? JSON.parse(token) : token.slice(1, -1);
      if (!isWellFormed(content)) return "half a surrogate pair";
      if (isName && open.at(-1).has(content)) return `${JSON.stringify(content.slice(0, 80))} appears twice`;
      if (isName) open.at(-1).add(content);
      isName = false;
    }
  }
  return "";
}

const HALF = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const isWellFormed = (text) => !HALF.test(text);
