// The page's side of worker.js.

import { InputError } from "./errors.js";

export class ModelClient {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #calls = new Map();
  #count = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = () => {
      const error = new InputError("the model's worker could not start or ran out of memory; reload the page");
      for (const call of this.#calls.values()) call.reject(error);
      this.#calls.clear();
    };
  }

  /** What worker.js's `method` returns; its events go to `onEvent`. Throws an InputError with a readable message. */
  call(method, params = {}, onEvent = () => {}) {
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, onEvent });
      this.#worker.postMessage({ id, method, params });
    });
  }

  /** End the running answer or benchmark at its next step. */
  cancel() {
    this.#worker.postMessage({ method: "cancel" });
  }

  #receive({ id, event, error, value }) {
    const call = this.#calls.get(id);
    if (!call) return;
    if (event) return call.onEvent(event);
    this.#calls.delete(id);
    if (error) call.reject(new InputError(error));
    else call.resolve(value);
  }
}
