// Keeps the page for use without a network, and adds the headers that give it threads on any static host. dist.py puts
// the page's files in here, so that another version of the page is another service worker. The files of bundles are
// kept by src/kept.js.

const FILES = {}; // path: [SHA-256 in Base64, whether it is needed offline from the start, media type]

const ROOT = new URL("./", self.location);
const CACHE = `himix page ${ROOT}`;
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.oninstall = (event) => {
  const first = Object.keys(FILES).filter((path) => FILES[path][1]);
  event.waitUntil(Promise.all(first.map(kept)));
};

self.onactivate = (event) => event.waitUntil(tidy().then(() => self.clients.claim()));

self.onmessage = ({ data }) => data === "take over" && self.skipWaiting();

self.onfetch = (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(ROOT.href)) return;
  const path = decodeURIComponent(url.pathname.slice(ROOT.pathname.length)) || "index.html";
  if (!Object.hasOwn(FILES, path)) return;
  // the server may have a newer file already
  event.respondWith(kept(path).catch(async () => answer(await fetch(event.request), FILES[path][2])));
};

/** A file of this version, from the cache or the network. Throws where the network has none with its hash. */
async function kept(path) {
  const [hash, , type] = FILES[path];
  const cache = await caches.open(CACHE);
  const found = await cache.match(key(hash));
  if (found) return found;
  const response = await fetch(new URL(path, ROOT), { integrity: `sha256-${hash}`, cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: the server says ${response.status}`);
  const mine = answer(response, type);
  await cache.put(key(hash), mine.clone()).catch(() => {}); // no room: it is fetched next time
  return mine;
}

/** The response under the page's headers. Hosts name some media types wrong, so they are set, too. */
function answer({ body, status }, type) {
  return new Response(body, { status, headers: { ...HEADERS, "Content-Type": type } });
}

async function tidy() {
  const cache = await caches.open(CACHE);
  const wanted = new Set(Object.values(FILES).map(([hash]) => key(hash)));
  for (const request of await cache.keys()) {
    if (!wanted.has(request.url)) await cache.delete(request);
  }
}

function key(hash) {
  return new URL(`kept/${encodeURIComponent(hash)}`, ROOT).href;
}
