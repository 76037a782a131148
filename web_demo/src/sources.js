// Where a bundle's files come from: a folder beside the page, a folder the user picked, or a zip.

import { InputError } from "./errors.js";
import { crc32, readZip } from "./zip.js";

/** A folder served from the page's own origin; `base` is its full address and ends in a slash. */
export function urlSource(base) {
  const folder = new URL(base);
  if (globalThis.location && folder.origin !== location.origin) {
    throw new InputError(`${base}: another site; this page loads from its own only`);
  }
  const name = decodeURIComponent(folder.pathname.split("/").at(-2));
  return {
    name,
    async read(path, limit) {
      const address = new URL(path.split("/").map(encodeURIComponent).join("/"), folder);
      // asked whether it is still the same: an older file does not fit to a newer manifest
      const response = await fetch(address, { cache: "no-cache" }).catch(() => {
        throw new InputError(`${name}/${path}: the server does not answer`);
      });
      if (response.status === 404) throw missing(name, path);
      if (!response.ok) throw new InputError(`${name}/${path}: the server says ${response.status}`);
      return readAtMost(response.body, limit, `${name}/${path}`);
    },
  };
}

/** Files of a directory picker or a dropped folder: their common first folder is the bundle. */
export function folderSource(files) {
  const byPath = new Map(files.map((file) => [(file.webkitRelativePath || file.name).split("/").slice(1).join("/"), file]));
  const name = files[0]?.webkitRelativePath?.split("/")[0] || "folder";
  if (!byPath.has("manifest.json")) {
    throw new InputError(`${name}: no manifest.json in it; pick the bundle's own folder`);
  }
  return {
    name,
    async read(path, limit) {
      const file = byPath.get(path);
      if (!file) throw missing(name, path);
      if (file.size > limit) throw tooLarge(`${name}/${path}`, limit);
      return new Uint8Array(await file.arrayBuffer().catch(() => {
        throw new InputError(`${name}/${path}: cannot be read; it was changed or removed, pick the folder again`);
      }));
    },
  };
}

/** A zip of a bundle, the manifest at its top or in its only folder. */
export async function zipSource(file) {
  const entries = await readZip(file);
  const manifests = [...entries.keys()].filter((path) => /^([^/]+\/)?manifest\.json$/.test(path));
  const manifest = manifests.includes("manifest.json") ? "manifest.json" : manifests[0];
  if (manifests.length > 1 && manifest !== "manifest.json") {
    throw new InputError(`${file.name}: several manifest.json in it; a zip holds one bundle`);
  }
  if (!manifest) throw new InputError(`${file.name}: no manifest.json in it; is it a bundle?`);
  const prefix = manifest.slice(0, -"manifest.json".length);
  return {
    name: file.name,
    async read(path, limit) {
      const entry = entries.get(prefix + path);
      if (!entry) throw missing(file.name, path);
      const content = await readAtMost(await entry.stream(), limit, `${file.name}/${path}`);
      if (crc32(content) !== entry.crc) throw new InputError(`${file.name}/${path}: damaged, its checksum is wrong`);
      return content;
    },
  };
}

/** All bytes of a stream. Throws an InputError as soon as there are more than `limit`. */
async function readAtMost(stream, limit, where) {
  const chunks = [];
  let size = 0;
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new InputError(`${where}: reading broke off; it is damaged or the connection is gone`);
    });
    if (done) break;
    size += value.byteLength;
    if (size > limit) {
      await reader.cancel().catch(() => {});
      throw tooLarge(where, limit);
    }
    chunks.push(value);
  }
  const all = new Uint8Array(size);
  chunks.reduce((at, chunk) => (all.set(chunk, at), at + chunk.byteLength), 0);
  return all;
}

const missing = (name, path) =>
  new InputError(
    path === "manifest.json"
      ? `${name}: no manifest.json there; is it a bundle?`
      : `${name}/${path}: missing; the bundle is incomplete, export or copy it again`,
  );

const tooLarge = (where, limit) => new InputError(`${where}: more than the ${limit} bytes that are allowed; refused`);
