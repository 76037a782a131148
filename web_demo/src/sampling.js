// Choosing the next token from logits; runtimes/sampling.py in JavaScript.

import { InputError } from "./errors.js";

/** Greedy at temperature 0, else nucleus sampling. `random` gives numbers in [0, 1). */
export function sampler(temperature, topP, random = Math.random) {
  if (!(temperature >= 0 && temperature < Infinity)) throw new InputError(`temperature is ${temperature}; it must be 0 (greedy) or more`);
  if (!(topP > 0 && topP <= 1)) throw new InputError(`top_p is ${topP}; it must be above 0 and at most 1`);
  if (temperature === 0) return argmax;
  return (logits) => {
    const weights = probabilities(logits, temperature, topP);
    let left = random();
    let last = 0;
    for (let token = 0; token < weights.length; token++) {
      if (!weights[token]) continue;
      last = token;
      left -= weights[token];
      if (left < 0) break;
    }
    return last;
  };
}

/** Index of the largest value, the first of equals. */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** Float64Array (V): the smallest set of likeliest tokens that reaches topP, renormalised. */
export function probabilities(logits, temperature, topP) {
  const largest = logits[argmax(logits)];
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  const order = Array.from(weights, (_, i) => i).sort((a, b) => weights[b] - weights[a] || a - b);
  let before = 0;
  let kept = 0;
  for (const token of order) {
    weights[token] /= sum;
    const reached = before >= topP;
    before += weights[token];
    if (reached) weights[token] = 0;
    else kept += weights[token];
  }
  return weights.map((weight) => weight / kept);
}
