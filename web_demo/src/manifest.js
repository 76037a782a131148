// manifest.json as the page trusts it: every field that it uses is of its type and range, and none is unknown.
// The same rules as himix_edge/manifest.py.

import { InputError } from "./errors.js";
import { parseJson } from "./json.js";

export const SCHEMA_VERSION = 1;
export const TARGET = "onnx_portable";
export const ROLES = ["vision_encoder", "vision_injector", "decoder"];
export const MANIFEST = "manifest.json";
export const TOKENIZER = "tokenizer.json";
const METHODS = ["pillow-bilinear-squash", "pillow-bicubic-squash"];
const MAX_TOKENIZER_BYTES = 64 << 20;
const MAX_FILES = 10_000;

/** The manifest in `raw`, UTF-8 JSON. Throws an InputError naming `where` and the field that is wrong. */
export function parseManifest(raw, where) {
  const manifest = parseJson(raw, where);
  const version = manifest?.schema_version;
  if (version !== SCHEMA_VERSION) {
    throw new InputError(`${where}: schema version ${JSON.stringify(version)}; this page reads ${SCHEMA_VERSION}`);
  }
  if (typeof manifest.target === "string" && manifest.target !== TARGET) {
    throw new InputError(
      `${where}: a bundle for ${manifest.target}; a browser runs ${TARGET} (himix export --target ${TARGET})`,
    );
  }
  if (hasTiles(manifest)) {
    throw new InputError(
      `${where}: this page does not take models whose pictures are tiles in the text (pillow-tiles) yet; ` +
        `it takes ${METHODS.join(" and ")}`,
    );
  }
  const wrong = firstProblem(manifest, SHAPE, "") || contradiction(manifest);
  if (wrong) throw new InputError(`${where}: ${wrong}`);
  checkFiles(manifest, where);
  return manifest;
}

/** Whether the model's pictures stand in its text as tiles, whichever of the fields says so. */
function hasTiles({ preprocessing, model, chat_template: template }) {
  const layout = preprocessing?.method === "pillow-tiles" || preprocessing?.layout != null;
  return layout || model?.images != null || template?.image != null;
}

/** The record of every file, each once. */
export function allFiles(manifest) {
  const records = [...ROLES.flatMap((role) => manifest.roles[role]), ...manifest.files];
  return [...new Map(records.map((record) => [record.path, record])).values()];
}

function checkFiles(manifest, where) {
  const records = [...ROLES.flatMap((role) => manifest.roles[role]), ...manifest.files];
  if (records.length > MAX_FILES) throw new InputError(`${where}: more than ${MAX_FILES} files; refused`);
  for (const path of [...records.map((record) => record.path), manifest.selftest.image]) checkPath(path, where);
  const known = new Map();
  for (const { path, bytes, sha256 } of records) {
    const facts = `${path} ${bytes} ${sha256}`;
    const folded = path.toLowerCase(); // many a file system does not tell them apart
    if ((known.get(folded) ?? facts) !== facts) {
      throw new InputError(`${where}: ${path} is listed as two different files; refused`);
    }
    known.set(folded, facts);
  }
  for (const path of [TOKENIZER, manifest.selftest.image]) {
    if (!records.some((record) => record.path === path)) throw new InputError(`${where}: files: no ${path}`);
  }
  const tokenizer = records.find((record) => record.path === TOKENIZER);
  if (tokenizer.bytes > MAX_TOKENIZER_BYTES) throw new InputError(`${where}: ${TOKENIZER} is too large; refused`);
}

/** A plain path below the folder, spelled in the one way there is. */
function checkPath(path, where) {
  const odd = (part) => !part || part === "." || part === ".." || part.length > 255;
  if (path.length > 512 || path.split("/").some(odd) || /[\\:\p{Cc}\p{Cf}]/u.test(path)) {
    throw new InputError(`${where}: path ${JSON.stringify(path.slice(0, 80))} leaves the bundle; refused`);
  }
}

/** What no field shows by itself. */
function contradiction({ model, preprocessing, selftest, chat_template: template }) {
  if (template.default_system && !template.system) return "chat_template.default_system: the template has no system";
  const layers = model.injection?.layers ?? Array.from({ length: model.num_hidden_layers }, (_, i) => i);
  const rising = layers.every((layer, i) => layer < model.num_hidden_layers && (!i || layer > layers[i - 1]));
  if (!layers.length || !rising) return "model.injection.layers: must be rising layer numbers";
  const levels = model.vision_config?.feature_layers ?? [-1];
  if (model.injection?.sharing === "levels" && (!levels.length || levels.length > layers.length)) {
    return "model.vision_config.feature_layers: must be at least one, at most as many as layers see the image";
  }
  const side = model.vision_config?.image_size ?? preprocessing.image_size;
  if (side !== preprocessing.image_size) return `preprocessing.image_size: must be the model's, ${side}`;
  if (selftest.token_ids.some((id) => id >= model.vocab_size)) return "selftest.token_ids: no such token";
  return "";
}

// A shape is a predicate with its name, a list of one shape, or an object of shapes, in which ...rest allows others.
const is = (what, test) => ({ what, test });
const optional = (shape) => ({ optional: shape });
const rest = { [Symbol.for("rest")]: true };
const whole = (least, most) => (x) => Number.isInteger(x) && x >= least && x <= most;
const text = is("a text", (x) => typeof x === "string");
const anything = is("anything", () => true);
const flag = optional(is("true or false", (x) => typeof x === "boolean"));
const count = is("a whole number above 0", whole(1, 1 << 24));
const digest = is("64 hexadecimal digits", (x) => typeof x === "string" && /^[0-9a-f]{64}$/.test(x));
const short = (x) => typeof x === "string" && x.length <= 4096; // it is searched for special tokens
const pair = is("two texts", (x) => Array.isArray(x) && x.length === 2 && x.every(short));
const list = (test) => (x) => x === null || (Array.isArray(x) && x.every(test));
const bits = (x) => x !== null && typeof x === "object" && Object.values(x).every(whole(1, 32));
const file = { path: text, bytes: is("a size in bytes", whole(0, 2 ** 40)), sha256: digest };
const files = { ...is("a list of at least one file", (x) => Array.isArray(x) && x.length > 0), items: file };
const SHAPE = {
  schema_version: count,
  name: is("at most 128 of A-Z a-z 0-9 . _ -, no dot or dash in front", (x) => typeof x === "string" && /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(x)), // prettier-ignore
  target: text,
  roles: { vision_encoder: files, vision_injector: files, decoder: files },
  files: [file],
  model: {
    architecture: is("himix or vanilla", (x) => x === "himix" || x === "vanilla"),
    vocab_size: count,
    num_hidden_layers: is("a number of layers", whole(1, 1024)),
    num_key_value_heads: count,
    head_dim: count,
    injection: optional({
      layers: optional(is("layer numbers or null", list(whole(0, 1023)))),
      sharing: optional(is("none, uniform or levels", (x) => ["none", "uniform", "levels"].includes(x))),
      // these three change the injector's own graph and no more
      positions: optional(is("none or sequence", (x) => ["none", "sequence"].includes(x))),
      mixing: optional(is("a number of layers", whole(0, 1024))),
      slots: flag,
    }),
    vision_config: optional({
      image_size: optional(count),
      feature_layers: optional(is("layer numbers", (x) => Array.isArray(x) && x.every(Number.isInteger))),
      ...rest,
    }),
    ...rest,
  },
  preprocessing: {
    image_size: is("a side in pixels", whole(1, 4096)),
    method: is("a known method", (x) => METHODS.includes(x)),
  },
  quantisation: {
    precision: text, activations: text, bits: is("bits by role", bits), group_size: anything, method: anything,
  }, // prettier-ignore
  chat_template: {
    user: pair, assistant: pair, system: optional(pair), bos: is("a short text", short), default_system: text,
    stop: is("a list of at least one token", (x) => list((y) => typeof y === "string")(x) && x?.length > 0),
    said: optional(is("a short text", short)),
  }, // prettier-ignore
  generation: {
    max_new_tokens: count,
    temperature: is("0 or more", (x) => Number.isFinite(x) && x >= 0),
    top_p: is("above 0 and at most 1", (x) => Number.isFinite(x) && x > 0 && x <= 1),
  },
  context_capacity: count,
  vision_tokens: count,
  image_kv_id: text,
  tools: anything, provenance: anything, weights: optional(anything), parity: anything, // prettier-ignore
  selftest: {
    image: text, prompt: text, pixels_sha256: digest, text, ends: flag, decisive: flag,
    token_ids: [is("a token id", whole(0, 1 << 24))],
  }, // prettier-ignore
};

/** "field: what it must be" of the first field that is not as `shape` says; empty if all are. */
function firstProblem(value, shape, name) {
  if (shape.optional) return value === undefined || value === null ? "" : firstProblem(value, shape.optional, name);
  if (shape.test && !shape.test(value)) return `${name}: must be ${shape.what}`;
  if (shape.test && !shape.items) return "";
  if (Array.isArray(shape) || shape.items) {
    if (!Array.isArray(value)) return `${name}: must be a list`;
    const item = shape.items ?? shape[0];
    return value.map((x, i) => firstProblem(x, item, `${name}.${i}`)).find(Boolean) ?? "";
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return `${name || "it"}: must be an object`;
  const of = (key) => (name ? `${name}.${key}` : key);
  const wrong = Object.entries(shape).map(([key, inner]) => firstProblem(own(value, key), inner, of(key)));
  const unknown = shape[Symbol.for("rest")] ? undefined : Object.keys(value).find((key) => !Object.hasOwn(shape, key));
  return wrong.find(Boolean) ?? (unknown === undefined ? "" : `${of(unknown)}: is not known to this page; refused`);
}

const own = (value, key) => (Object.hasOwn(value, key) ? value[key] : undefined);
