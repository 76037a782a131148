// What of a model's configuration the run-time needs; himix_edge/config/model.py in short.

import { InputError } from "./errors.js";

/** For each decoder layer, which row of vision_key (I, G, N, h) its cache starts with; null: none. */
export function visionRows(model) {
  const count = model.num_hidden_layers;
  const { layers = null, sharing = "none" } = model.injection ?? {};
  const himix = model.architecture === "himix";
  let injected = himix && layers ? layers : Array.from({ length: count }, (_, i) => i);
  if (!model.vision_hidden_size) injected = [];
  if (!injected.every((layer) => Number.isInteger(layer) && layer >= 0 && layer < count)) {
    throw new InputError("manifest.json: model.injection.layers: no such decoder layer");
  }
  const levels = sharing === "levels" ? (model.vision_config?.feature_layers?.length ?? 1) : 1;
  const rows = new Array(count).fill(null);
  injected.forEach((layer, i) => {
    rows[layer] = himix && sharing !== "none" ? Math.floor((i * levels) / injected.length) : i;
  });
  return rows;
}

/** Rotary position of the first text token behind the image: HiMix's image tokens have no position. */
export const firstTextPosition = (model, visionTokens) => (model.architecture === "vanilla" ? visionTokens : 0);

/** Bytes of one cache slot's keys and values, all layers, float32. */
export const kvBytesPerToken = (model) => 2 * 4 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim;
