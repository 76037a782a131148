// Text in and out: a tokenizer.json and a declarative chat template; himix_edge/text.py in JavaScript. What a user
// types is never read as a special token.

import { Tokenizer } from "../node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";

import { InputError } from "./errors.js";

// Python's str.strip; String.prototype.trim strips a byte order mark too, and not the separators U+001C..U+001F, U+0085
const SPACE = "[\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const EDGES = new RegExp(`^${SPACE}|${SPACE}$`, "g");
const NORMALIZING = 4; // composed characters are shorter than their parts
const INCOMPLETE = "\ufffd"; // what bytes of an unfinished character decode to

export class TextProcessor {
  #tokenizer;
  #template;
  #special; // content -> id
  #specialIds;
  #pattern;
  #longest; // characters of a token

  /**
   * @param json a parsed tokenizer.json.
   * @param template the manifest's chat_template.
   */
  constructor(json, template) {
    const special = json.added_tokens.filter((token) => token.special);
    // without its special tokens the library reads them as text, as `encode_special_tokens` does in Python
    const plain = { ...json, added_tokens: json.added_tokens.filter((token) => !token.special), post_processor: null };
    try {
      this.#tokenizer = new Tokenizer(plain, {});
    } catch {
      throw new InputError("tokenizer.json: this page does not know its kind of tokenizer");
    }
    this.#template = template;
    const tokens = Array.isArray(json.model.vocab) ? json.model.vocab.map(([token]) => token) : Object.keys(json.model.vocab);
    this.#longest = tokens.reduce((most, token) => Math.max(most, token.length), 1);
    this.#special = new Map(special.map((token) => [token.content, token.id]));
    this.#specialIds = new Set(this.#special.values());
    const longestFirst = [...this.#special.keys()].sort((a, b) => b.length - a.length).map(escape);
    this.#pattern = longestFirst.length ? new RegExp(`(${longestFirst.join("|")})`) : null;
    this.stopIds = new Set(template.stop.map((token) => this.#specialId(token)));
  }

  /** Token ids of a whole conversation, [{role, content}], up to where the assistant's next answer starts. */
  encodeChat(messages) {
    const { default_system: system, bos, assistant } = this.#template;
    const turns = system && messages[0]?.role !== "system" ? [{ role: "system", content: system }, ...messages] : messages;
    return this.#encode([fixed(bos), ...turns.flatMap((turn) => this.#turn(turn)), fixed(assistant[0])]);
  }

  /** Token ids of a further user message behind a finished answer; the answer's stop token comes first. */
  encodeNextTurn(content) {
    const { assistant } = this.#template;
    return this.#encode([fixed(assistant[1]), ...this.#turn({ role: "user", content }), fixed(assistant[0])]);
  }

  /** Throws an InputError for a prompt that cannot be `room` tokens, before it is cut into them. */
  checkLength(prompt, room) {
    if (prompt.length / NORMALIZING > room * this.#longest) {
      throw new InputError(
        `the question does not fit: it has ${prompt.length} characters, the cache has ${room} free slots; ` +
          "shorten it or start a new conversation",
      );
    }
  }

  /** Token ids of plain text. */
  encodePlain(text) {
    return text ? this.#tokenizer.encode(wellFormed(text), { add_special_tokens: false }).ids : [];
  }

  /** Text of token ids, special tokens left out. */
  decode(ids) {
    const plain = ids.filter((id) => !this.#specialIds.has(id));
    return plain.length ? this.#tokenizer.decode(plain, { clean_up_tokenization_spaces: false }) : "";
  }

  /** An incremental decoder for one answer: {step(id) -> the text that it completes, rest() -> what it held back}. */
  stream() {
    let context = []; // tokens of the last piece: what the next one joins
    let pending = [];
    return {
      step: (id) => {
        pending.push(id);
        const before = this.decode(context);
        const text = this.decode([...context, ...pending]);
        if (text.length <= before.length || text.endsWith(INCOMPLETE)) return "";
        context = pending;
        pending = [];
        return text.slice(before.length);
      },
      rest: () => this.decode([...context, ...pending]).slice(this.decode(context).length),
    };
  }

  #turn({ role, content }) {
    const text = content.replace(EDGES, "");
    if (role === "user" && !text) throw new InputError("the prompt is empty; ask something about the image");
    if (!this.#template[role]) throw new InputError(`this model's chat template has no ${role} messages`);
    const [prefix, suffix] = this.#template[role];
    const said = role === "assistant" ? (this.#template.said ?? "") : "";
    return [fixed(prefix + said), { text, template: false }, fixed(suffix)];
  }

  /** A run of text between two of the template's special tokens is encoded in one go. */
  #encode(parts) {
    const ids = [];
    let run = "";
    for (const { text, template } of parts) {
      const pieces = template && this.#pattern ? text.split(this.#pattern) : [text];
      pieces.forEach((piece, i) => {
        if (i % 2) {
          ids.push(...this.encodePlain(run), this.#specialId(piece));
          run = "";
        } else run += piece;
      });
    }
    return [...ids, ...this.encodePlain(run)];
  }

  #specialId(token) {
    const id = this.#special.get(token) ?? this.#tokenizer.token_to_id(token);
    if (id === undefined) {
      throw new InputError(`manifest.json: chat_template: ${JSON.stringify(token)} is not a token of tokenizer.json`);
    }
    return id;
  }
}

const fixed = (text) => ({ text, template: true });
const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
/** Half a surrogate pair is no character; Python never sees one. */
const wellFormed = (text) => text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, INCOMPLETE);
