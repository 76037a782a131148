// The three graphs of a portable bundle in ONNX Runtime Web: every step's K/V cache goes in and comes out grown.

import { InputError } from "./errors.js";
import { visionRows } from "./model.js";

/**
 * Open a verified bundle's graphs.
 *
 * @param ort the onnxruntime-web module.
 * @param bundle what `openVerified` returned.
 * @param provider "wasm" or "webgpu".
 * @param mostFloatBytes integer weights that take no more as float32 are dequantised.
 */
export async function openEngine(ort, bundle, provider, mostFloatBytes) {
  const { manifest, files } = bundle;
  const sessions = {};
  const dequantize = floatBytes(manifest) <= mostFloatBytes;
  for (const [role, records] of Object.entries(manifest.roles)) {
    const [graph, ...data] = records;
    const options = { executionProviders: [provider], logSeverityLevel: 3 };
    // browsers have no fast integer kernels: dequantised while the file is opened, a token takes a tenth of the time
    if (dequantize) options.extra = { session: { disable_quant_qdq: "1" } };
    if (data.length) options.externalData = data.map(({ path }) => ({ path: path.split("/").at(-1), data: files.get(path) }));
    // on the GPU the growing cache stays there; what the page reads comes back
    if (provider === "webgpu" && role === "decoder") options.preferredOutputLocation = presentNames(manifest.model);
    try {
      sessions[role] = await ort.InferenceSession.create(files.get(graph.path), options);
    } catch (error) {
      await release(sessions);
      const reason = String(error?.message ?? error).split("\n", 1)[0];
      throw new InputError(`${graph.path}: ONNX Runtime cannot open it on ${provider} (${reason.slice(0, 200)})`);
    }
  }
  return new Engine(ort, manifest, sessions, dequantize ? "float" : manifest.quantisation.activations);
}

/** What all weights take as float32, about: files are weights and little else. */
function floatBytes({ roles, quantisation }) {
  const bytes = (role) => roles[role].reduce((sum, record) => sum + record.bytes, 0);
  return Object.keys(roles).reduce((sum, role) => sum + (bytes(role) * 32) / (quantisation.bits[role] ?? 32), 0);
}

function presentNames(model) {
  const layers = Array.from({ length: model.num_hidden_layers }, (_, i) => i);
  return Object.fromEntries(
    layers.flatMap((i) => ["key", "value"].map((kind) => [`present.${i}.${kind}`, "gpu-buffer"])),
  );
}

const release = (sessions) => Promise.all(Object.values(sessions).map((session) => session.release()));

class Engine {
  #ort;
  #model;
  #sessions;
  #rows;
  #imageShape; // I, G, N, h
  #names;
  #cache = {};
  #position = 0;

  constructor(ort, manifest, sessions, activations) {
    this.activations = activations; // what the products are computed in: "float" or as the manifest says
    [this.#ort, this.#model, this.#sessions] = [ort, manifest.model, sessions];
    this.capacity = manifest.context_capacity;
    this.#rows = visionRows(manifest.model);
    const { num_key_value_heads: heads, head_dim: size } = manifest.model;
    this.#imageShape = [new Set(this.#rows.filter((row) => row !== null)).size, heads, manifest.vision_tokens, size];
    this.#names = this.#rows.map((_, layer) => [`past_key_values.${layer}.key`, `past_key_values.${layer}.value`]);
  }

  /** uint8 (1, S, S, 3) as a flat array -> vision features, a tensor (1, N, d_v). */
  async encode(pixels, size) {
    const image = new this.#ort.Tensor("uint8", pixels, [1, size, size, 3]);
    return (await this.#run("vision_encoder", { image }, ["vision_features"])).vision_features;
  }

  /** Vision features -> {key, value: Float32Array, shape: [I, G, N, h]}. */
  async inject(features) {
    const names = ["vision_key", "vision_value"];
    const { vision_key: key, vision_value: value } = await this.#run("vision_injector", { vision_features: features }, names);
    for (const { type, dims } of [key, value]) {
      if (type !== "float32" || dims.join() !== this.#imageShape.join()) {
        throw new InputError(`vision_injector: gives ${type} (${dims}), the manifest says float32 (${this.#imageShape})`);
      }
    }
    return { key: key.data, value: value.data, shape: [...key.dims] };
  }

  /** Empty the cache and fill its first slots with an image's keys and values. */
  start(image) {
    this.#dispose();
    this.#position = image.nextPosition;
    const [, heads, tokens, size] = image.shape;
    const block = heads * tokens * size;
    this.#rows.forEach((row, layer) => {
      [image.key, image.value].forEach((all, kind) => {
        const filled = row !== null && tokens > 0;
        const data = filled ? all.slice(row * block, (row + 1) * block) : new Float32Array(0);
        const dims = [1, heads, filled ? tokens : 0, size];
        this.#cache[this.#names[layer][kind]] = new this.#ort.Tensor("float32", data, dims);
      });
    });
  }

  /** Append token ids to the cache -> logits, Float32Array (V), of the last one. */
  async step(ids) {
    const shape = [1, ids.length];
    const positions = ids.map((_, i) => BigInt(this.#position + i));
    const int64 = (values) => new this.#ort.Tensor("int64", BigInt64Array.from(values), shape);
    const feeds = { ...this.#cache, input_ids: int64(ids.map(BigInt)), position_ids: int64(positions) };
    const presents = this.#names.flat().map((name) => name.replace("past_key_values", "present"));
    const outputs = await this.#run("decoder", feeds, ["logits", ...presents]);
    const { type, data: logits } = outputs.logits;
    if (type !== "float32" || logits.length !== this.#model.vocab_size) {
      throw new InputError(`decoder: gives ${logits.length} logits, the manifest says ${this.#model.vocab_size}`);
    }
    if (!logits.every((logit) => logit < Infinity)) {
      throw new InputError("the model's output is not a number; the bundle or the image's keys are damaged");
    }
    this.#dispose();
    this.#position += ids.length;
    this.#names.flat().forEach((name) => {
      this.#cache[name] = outputs[name.replace("past_key_values", "present")];
    });
    return logits;
  }

  /** One graph's outputs by name. Throws an InputError with ONNX Runtime's reason. */
  async #run(role, feeds, names) {
    let outputs;
    try {
      outputs = await this.#sessions[role].run(feeds);
    } catch (error) {
      const reason = String(error?.message ?? error).split("\n", 1)[0];
      throw new InputError(`${role}: ONNX Runtime cannot compute it (${reason.slice(0, 200)})`);
    }
    const missing = names.find((name) => !outputs[name]);
    if (missing) throw new InputError(`${role}: has no output ${missing}; export the bundle again`);
    return outputs;
  }

  async release() {
    this.#dispose();
    await release(this.#sessions);
  }

  #dispose() {
    for (const tensor of Object.values(this.#cache)) tensor.dispose();
    this.#cache = {};
  }
}
