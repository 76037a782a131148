// The session API: encode an image once, ask about it as often as you like; runtimes/session.py in JavaScript.

import { InputError } from "./errors.js";
import { noImage } from "./image_kv.js";
import { firstTextPosition, visionRows } from "./model.js";
import { sampler } from "./sampling.js";

/** Times of an answer in milliseconds; an image stage is 0 if its ImageKV was given. */
export const newStats = () => ({
  preprocess: 0, vision_encoder: 0, vision_injector: 0, prefill: 0, ttft: 0, inter_token: [],
  prompt_tokens: 0, vision_tokens: 0, new_tokens: 0, finish_reason: "",
}); // prettier-ignore

export class Session {
  owner = null; // the chat whose tokens are in the cache
  #busy = false;

  /** @param text a TextProcessor; @param engine what `openEngine` returned. */
  constructor(manifest, text, engine) {
    [this.manifest, this.text, this.engine] = [manifest, text, engine];
    this.capacity = engine.capacity;
  }

  /** Run `work` with the engine to itself. Throws an InputError if it is at work: there is one cache. */
  async alone(work) {
    if (this.#busy) throw new InputError("the model is computing something else; wait until that has ended");
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#busy = false;
    }
  }

  /**
   * An image's keys and values.
   *
   * @param load async () -> Uint8Array (S, S, 3), the resized pixels; counted as preprocessing.
   * @returns {Promise<ImageKV>}
   */
  async encodeImage(load, stats = newStats()) {
    const clock = stopwatch();
    const pixels = await load();
    stats.preprocess += clock();
    const { key, value, shape } = await this.alone(async () => {
      const features = await this.engine.encode(pixels, this.manifest.preprocessing.image_size);
      stats.vision_encoder += clock();
      return this.engine.inject(features);
    });
    stats.vision_injector += clock();
    const nextPosition = firstTextPosition(this.manifest.model, shape[2]);
    return { key, value, shape, modelId: this.manifest.image_kv_id, nextPosition };
  }

  /** A conversation about an ImageKV, or about none. */
  chat(image = null) {
    const { model, image_kv_id: id } = this.manifest;
    const rows = visionRows(model).filter((row) => row !== null);
    const [heads, size] = [model.num_key_value_heads, model.head_dim];
    if (image && image.modelId !== id) throw new InputError("this image was read by another model; encode it again");
    return new Chat(this, image ?? noImage(id, new Set(rows).size, heads, size));
  }
}

/** A conversation. Several may exist on one session; the one that speaks takes over the cache. */
export class Chat {
  #session;
  #image;
  #history = []; // token ids in the cache behind the image
  #pending = []; // said, but not in the cache yet: the last token of an answer
  #turn = 0; // of the question that is being answered

  constructor(session, image) {
    [this.#session, this.#image] = [session, image];
  }

  /**
   * Say something and stream the answer as {text, tokenId}; text is empty inside a character of several tokens.
   *
   * @param options maxNewTokens, temperature, topP, random: left out, the model's defaults. stats: filled in.
   *   began: performance.now() from which TTFT counts. ignoreStop: go on past a stop token.
   */
  async *send(prompt, options = {}) {
    const { manifest, text, capacity } = this.#session;
    const defaults = manifest.generation;
    const { maxNewTokens = defaults.max_new_tokens, temperature = defaults.temperature, topP = defaults.top_p } = options;
    const { stats = newStats(), began = performance.now() } = options;
    const pick = sampler(temperature, topP, options.random);
    if (!(Number.isInteger(maxNewTokens) && maxNewTokens >= 1)) throw new InputError(`the longest answer is ${maxNewTokens} tokens; it must be 1 or more`);
    const turn = ++this.#turn;
    const visionTokens = this.#image.shape[2];
    const used = visionTokens + this.#history.length;
    text.checkLength(prompt, capacity - used);
    const ids = this.#history.length
      ? [...this.#pending, ...text.encodeNextTurn(prompt)]
      : text.encodeChat([{ role: "user", content: prompt }]);
    const room = capacity - used - ids.length;
    if (room < 1) {
      throw new InputError(
        `the question does not fit: ${used} of the ${capacity} cache slots are used, it needs ${ids.length} and one ` +
          "for an answer; shorten it or start a new conversation",
      );
    }
    Object.assign(stats, { prompt_tokens: ids.length, vision_tokens: visionTokens });
    yield* this.#answer(turn, ids, pick, Math.min(maxNewTokens, room), stats, began, options.ignoreStop);
  }

  async *#answer(turn, ids, pick, limit, stats, began, ignoreStop) {
    const { stopIds } = this.#session.text;
    const stream = this.#session.text.stream();
    const clock = stopwatch();
    let logits = await this.#feed(ids);
    this.#pending = []; // it was the first of `ids`
    stats.prefill = clock();
    stats.finish_reason = "length";
    while (stats.new_tokens < limit) {
      const tokenId = pick(logits);
      if (stopIds.has(tokenId) && !ignoreStop) {
        stats.finish_reason = "stop";
        return;
      }
      this.#pending = [tokenId];
      stats.new_tokens += 1;
      const text = stream.step(tokenId) + (stats.new_tokens === limit ? stream.rest() : "");
      if (text && !stats.ttft) stats.ttft = performance.now() - began;
      yield { text, tokenId };
      if (turn !== this.#turn) throw new InputError("this answer was left: its conversation was asked something else");
      if (stats.new_tokens < limit) {
        clock();
        logits = await this.#feed(this.#pending);
        this.#pending = [];
        stats.inter_token.push(clock());
      }
    }
  }

  /** Append `ids` to the cache; if it holds another conversation, put this one's tokens back first. */
  async #feed(ids) {
    const session = this.#session;
    return session.alone(async () => {
      const takesOver = session.owner !== this;
      session.owner = null; // should it fail, what the cache holds is not known
      if (takesOver) session.engine.start(this.#image);
      const logits = await session.engine.step(takesOver ? [...this.#history, ...ids] : ids);
      session.owner = this;
      this.#history = [...this.#history, ...ids];
      return logits;
    });
  }
}

/** A function that gives the milliseconds since its last call. */
export function stopwatch() {
  let then = performance.now();
  return () => {
    const now = performance.now();
    const elapsed = now - then;
    then = now;
    return elapsed;
  };
}
