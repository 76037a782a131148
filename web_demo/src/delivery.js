// How this copy of the page is delivered. dist.py writes another one into the folder that it makes.

/** Where the npm packages are. */
export const VENDOR = new URL("../node_modules/", import.meta.url);
/** Whether NAME.wasm lies there as NAME.wasm.gz. */
export const COMPRESSED = false;
/** Whether service_worker.js keeps the page for use without a network. */
export const OFFLINE = false;
