// Files of bundles, kept by the browser so that a bundle is transferred once. What is read back is checked like what
// is fetched: bundle.js takes it only with the manifest's hash.

const NAME = "himix bundle "; // and its address

/** What is kept of the bundle at an address; undefined where the browser keeps nothing (no https, a private window). */
export async function keptFiles(address) {
  const cache = await globalThis.caches?.open(NAME + address).catch(() => undefined);
  if (!cache) return undefined;
  const key = ({ sha256 }) => new URL(`sha256-${sha256}`, address).href;
  return {
    /** The content kept for a manifest's record, a Uint8Array, or undefined. */
    async get(record) {
      const response = await cache.match(key(record));
      return response && new Uint8Array(await response.arrayBuffer());
    },

    /** Keep it. Where there is no room it is fetched again next time. */
    async put(record, content) {
      await cache.put(key(record), new Response(content)).catch(() => {});
    },

    /** Drop what no record names: an earlier version's files. */
    async retain(records) {
      const wanted = new Set(records.map(key));
      const keys = await cache.keys();
      await Promise.all(keys.filter(({ url }) => !wanted.has(url)).map((request) => cache.delete(request)));
    },
  };
}

/** Drop the bundles below `folder` (an address) that are not among `addresses`: the site has them no more. */
export async function retainBundles(folder, addresses) {
  const names = (await globalThis.caches?.keys().catch(() => [])) ?? [];
  const gone = names.filter((name) => name.startsWith(NAME + folder) && !addresses.includes(name.slice(NAME.length)));
  await Promise.all(gone.map((name) => caches.delete(name)));
}
