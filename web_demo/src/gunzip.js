// Files that lie gzipped beside the page: not every static host compresses wasm.

import { InputError } from "./errors.js";

/**
 * The content of a gzipped file. A server that names the coding (Content-Encoding) has let the browser unpack it.
 *
 * @param response what fetch gave for it.
 * @returns Uint8Array
 */
export async function gunzipped(response) {
  const name = new URL(response.url, "http://localhost/").pathname.split("/").at(-1);
  if (!response.ok) throw new InputError(`${name}: the server says ${response.status}`);
  const content = new Uint8Array(await response.arrayBuffer());
  if (content[0] !== 0x1f || content[1] !== 0x8b) return content;
  const unpacked = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
  const all = await new Response(unpacked).arrayBuffer().catch(() => {
    throw new InputError(`${name}: damaged; copy the page's folder to the server again`);
  });
  return new Uint8Array(all);
}
