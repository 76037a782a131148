// ImageKV: an image's keys and values for every layer. Computed once, kept, used under any prompt.

import { InputError } from "./errors.js";

/**
 * @typedef {object} ImageKV
 * @property {Float32Array} key (I, G, N, h), I as in `visionRows`
 * @property {Float32Array} value the same
 * @property {number[]} shape [I, G, N, h]
 * @property {string} modelId the tower and injection weights that made it
 * @property {number} nextPosition rotary position of the first text token behind it
 */

/** Several images' keys and values, one behind the other. */
export function concat(images) {
  const [first] = images;
  if (images.length === 1) return first;
  if (images.some((image) => image.modelId !== first.modelId)) {
    throw new InputError("the images' keys and values were made by different models; encode them with this one");
  }
  if (first.nextPosition) throw new InputError("a vanilla model takes one image");
  const [rows, heads, , size] = first.shape;
  const tokens = images.reduce((sum, image) => sum + image.shape[2], 0);
  const join = (kind) => {
    const joined = new Float32Array(rows * heads * tokens * size);
    let at = 0;
    for (let block = 0; block < rows * heads; block++) {
      for (const image of images) {
        const length = image.shape[2] * size;
        joined.set(image[kind].subarray(block * length, (block + 1) * length), at);
        at += length;
      }
    }
    return joined;
  };
  return { ...first, key: join("key"), value: join("value"), shape: [rows, heads, tokens, size] };
}

/** Keys and values of zero slots: what a text without an image starts from. */
export const noImage = (modelId, rows, heads, size) => ({
  key: new Float32Array(0), value: new Float32Array(0), shape: [rows, heads, 0, size], modelId, nextPosition: 0,
}); // prettier-ignore
