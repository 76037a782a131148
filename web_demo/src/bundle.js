// The bundle as the page trusts it: a manifest of a known schema, paths that stay inside, and files of exactly the
// stated size and SHA-256. The same rules as himix_edge/bundle.py.

import { InputError } from "./errors.js";
import { limits } from "./limits.js";
import { allFiles, MANIFEST, parseManifest, TOKENIZER } from "./manifest.js";
import { parseTokenizer } from "./tokenizer_file.js";

const MAX_MANIFEST_BYTES = 4 << 20;

/**
 * Read and check a whole bundle.
 *
 * @param source an object with `name` and `async read(path, limit) -> Uint8Array`; it throws an InputError for a file
 *   that is missing or has more than `limit` bytes.
 * @param onProgress called with (bytes read, bytes of all files).
 * @param options most: the largest bundle in bytes; kept: of kept.js, where files are kept and looked for first.
 * @returns {manifest, manifestSha256, bytes, files: Map path -> Uint8Array, tokenizer: parsed tokenizer.json}
 */
export async function openVerified(source, onProgress = () => {}, { most = limits().bundleBytes, kept } = {}) {
  if (!globalThis.crypto?.subtle) {
    throw new InputError("this page cannot check hashes here; open it over https or on localhost");
  }
  const raw = await source.read(MANIFEST, MAX_MANIFEST_BYTES);
  const manifest = parseManifest(raw, `${source.name}/${MANIFEST}`);
  const records = allFiles(manifest);
  const bytes = records.reduce((sum, record) => sum + record.bytes, 0);
  if (bytes > most) {
    throw new InputError(`${source.name}: ${bytes} bytes; bundles over ${most} do not fit into this device's browser`);
  }
  const files = new Map();
  let done = 0;
  for (const record of records) {
    files.set(record.path, await readChecked(source, record, kept));
    onProgress((done += record.bytes), bytes);
  }
  await kept?.retain(records);
  const tokenizer = parseTokenizer(files.get(TOKENIZER), `${source.name}/${TOKENIZER}`, manifest.model.vocab_size);
  return { manifest, manifestSha256: await sha256(raw), bytes, files, tokenizer };
}

/** Lower-case hexadecimal SHA-256. */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function readChecked(source, record, kept) {
  const found = await kept?.get(record);
  if (found?.byteLength === record.bytes && (await sha256(found)) === record.sha256) return found;
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
  await kept?.put(record, content);
  return content;
}
