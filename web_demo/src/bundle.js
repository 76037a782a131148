// The bundle as the page trusts it: a manifest of a known schema, paths that stay inside, and files of exactly the
// stated size and SHA-256. The same rules as himix_edge/bundle.py.

import { InputError } from "./errors.js";

export const SCHEMA_VERSION = 1;
export const TARGET = "onnx_portable";
export const ROLES = ["vision_encoder", "vision_injector", "decoder"];
const MANIFEST = "manifest.json";
const TOKENIZER = "tokenizer.json";
const MAX_MANIFEST_BYTES = 4 << 20;
const MAX_TOKENIZER_BYTES = 64 << 20;
const MAX_BUNDLE_BYTES = 2 ** 31; // a wasm module addresses 4 GiB, and a model is there once as file and once packed

/**
 * Read and check a whole bundle.
 *
 * @param source an object with `name` and `async read(path, limit) -> Uint8Array`; it throws an InputError for a file
 *   that is missing or has more than `limit` bytes.
 * @param onProgress called with (bytes read, bytes of all files).
 * @returns {manifest, manifestSha256, bytes, files: Map path -> Uint8Array, tokenizer: parsed tokenizer.json}
 */
export async function openVerified(source, onProgress = () => {}) {
  if (!globalThis.crypto?.subtle) {
    throw new InputError("this page cannot check hashes here; open it over https or on localhost");
  }
  const raw = await source.read(MANIFEST, MAX_MANIFEST_BYTES);
  const manifest = parseManifest(raw, `${source.name}/${MANIFEST}`);
  const records = allFiles(manifest);
  const bytes = records.reduce((sum, record) => sum + record.bytes, 0);
  if (bytes > MAX_BUNDLE_BYTES) {
    throw new InputError(`${source.name}: ${bytes} bytes; bundles over ${MAX_BUNDLE_BYTES} do not fit into a browser`);
  }
  const files = new Map();
  let done = 0;
  for (const record of records) {
    files.set(record.path, await readChecked(source, record));
    onProgress((done += record.bytes), bytes);
  }
  const tokenizer = parseTokenizer(files.get(TOKENIZER), `${source.name}/${TOKENIZER}`);
  return { manifest, manifestSha256: await sha256(raw), bytes, files, tokenizer };
}

/** The manifest in `raw`, UTF-8 JSON. Throws an InputError naming `where` and the field that is wrong. */
export function parseManifest(raw, where) {
  const manifest = parseJson(raw, where);
  const version = manifest?.schema_version;
  if (version !== SCHEMA_VERSION) {
    throw new InputError(`${where}: schema version ${JSON.stringify(version)}; this page reads ${SCHEMA_VERSION}`);
  }
  const wrong = firstProblem(manifest, SHAPE, "");
  if (wrong) throw new InputError(`${where}: ${wrong}`);
  if (manifest.target !== TARGET) {
    throw new InputError(
      `${where}: a bundle for ${manifest.target}; a browser runs ${TARGET} (himix export --target ${TARGET})`,
    );
  }
  for (const role of ROLES) {
    if (!manifest.roles[role]?.length) throw new InputError(`${where}: roles: no file for ${role}`);
  }
  const records = allFiles(manifest);
  for (const path of [...records.map((record) => record.path), manifest.selftest.image]) checkPath(path, where);
  for (const path of [TOKENIZER, manifest.selftest.image]) {
    if (!records.some((record) => record.path === path)) throw new InputError(`${where}: files: no ${path}`);
  }
  const tokenizer = records.find((record) => record.path === TOKENIZER);
  if (tokenizer.bytes > MAX_TOKENIZER_BYTES) throw new InputError(`${where}: ${TOKENIZER} is too large; refused`);
  return manifest;
}

/** Lower-case hexadecimal SHA-256. */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function readChecked(source, record) {
  const where = `${source.name}/${record.path}`;
  const content = await source.read(record.path, record.bytes);
  if (content.byteLength !== record.bytes) {
    throw new InputError(
      `${where}: ${content.byteLength} bytes, the manifest says ${record.bytes}; export or copy the bundle again`,
    );
  }
  if ((await sha256(content)) !== record.sha256) {
    throw new InputError(
      `${where}: content does not match its SHA-256 in the manifest; export or copy the bundle again`,
    );
  }
  return content;
}

function allFiles(manifest) {
  const records = [...ROLES.flatMap((role) => manifest.roles[role]), ...manifest.files];
  return [...new Map(records.map((record) => [record.path, record])).values()];
}

function checkPath(path, where) {
  if (!path || path.startsWith("/") || path.split("/").includes("..") || /[\\:\0]/.test(path)) {
    throw new InputError(`${where}: path ${JSON.stringify(path)} leaves the bundle; refused`);
  }
}

function parseTokenizer(content, where) {
  const tokenizer = parseJson(content, where);
  if (!tokenizer?.model?.vocab || !Array.isArray(tokenizer.added_tokens)) {
    throw new InputError(`${where}: not a tokenizer.json`);
  }
  return tokenizer;
}

function parseJson(raw, where) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(raw));
  } catch {
    throw new InputError(`${where}: not valid JSON`);
  }
}

// what the page uses of a manifest: a predicate with its name, a list of one shape, or an object of shapes
const is = (what, test) => ({ what, test });
const text = is("a text", (x) => typeof x === "string");
const count = is("a whole number above 0", (x) => Number.isInteger(x) && x > 0 && x <= 1 << 24);
const pair = is("two texts", (x) => Array.isArray(x) && x.length === 2 && x.every((y) => typeof y === "string"));
const file = {
  path: text,
  bytes: is("a size in bytes", (x) => Number.isSafeInteger(x) && x >= 0),
  sha256: is("64 hexadecimal digits", (x) => typeof x === "string" && /^[0-9a-f]{64}$/.test(x)),
};
const SHAPE = {
  name: text,
  target: text,
  roles: { vision_encoder: [file], vision_injector: [file], decoder: [file] },
  files: [file],
  model: {
    architecture: is("himix or vanilla", (x) => x === "himix" || x === "vanilla"),
    num_hidden_layers: is("a number of layers", (x) => Number.isInteger(x) && x > 0 && x <= 1024),
    num_key_value_heads: count,
    head_dim: count,
  },
  preprocessing: {
    image_size: is("a side in pixels", (x) => Number.isInteger(x) && x > 0 && x <= 4096),
    method: is("a known method", (x) => x === "pillow-bilinear-squash" || x === "pillow-bicubic-squash"),
  },
  quantisation: {
    precision: text,
    activations: text,
    bits: is("bits by role", (x) => x !== null && typeof x === "object" && Object.values(x).every((n) => n > 0)),
  },
  chat_template: {
    user: pair, assistant: pair, system: pair, stop: [text], bos: text, default_system: text,
  }, // prettier-ignore
  generation: {
    max_new_tokens: count,
    temperature: is("0 or more", (x) => Number.isFinite(x) && x >= 0),
    top_p: is("above 0 and at most 1", (x) => x > 0 && x <= 1),
  },
  context_capacity: count,
  vision_tokens: count,
  image_kv_id: text,
  selftest: {
    image: text, prompt: text, pixels_sha256: text, text,
    token_ids: [is("a token id", (x) => Number.isInteger(x) && x >= 0)],
  }, // prettier-ignore
};

function firstProblem(value, shape, name) {
  if (shape.test) return shape.test(value) ? "" : `${name}: must be ${shape.what}`;
  if (Array.isArray(shape)) {
    if (!Array.isArray(value)) return `${name}: must be a list`;
    return value.map((item, i) => firstProblem(item, shape[0], `${name}.${i}`)).find(Boolean) ?? "";
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return `${name || "it"}: must be an object`;
  const fields = Object.entries(shape);
  return fields.map(([key, inner]) => firstProblem(value[key], inner, name ? `${name}.${key}` : key)).find(Boolean) ?? "";
}
