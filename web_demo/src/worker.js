// The model runs here, off the page's own thread, so that the page stays alive while it computes.
// Requests are {id, method, params}; replies {id, value}, {id, error} and, on the way, {id, event}.

import { openVerified } from "./bundle.js";
import { runBenchmark } from "./benchmark.js";
import { COMPRESSED, VENDOR } from "./delivery.js";
import { openEngine } from "./engine.js";
import { describe, InputError } from "./errors.js";
import { gunzipped } from "./gunzip.js";
import { loadPixels } from "./image.js";
import { keptFiles } from "./kept.js";
import { limits } from "./limits.js";
import { selfTest } from "./selftest.js";
import { newStats, Session } from "./session.js";
import { folderSource, urlSource, zipSource } from "./sources.js";
import { TextProcessor } from "./text.js";

const DIST = new URL("onnxruntime-web/dist/", VENDOR);
const WASM = { wasm: "ort-wasm-simd-threaded.wasm", webgpu: "ort-wasm-simd-threaded.asyncify.wasm" };

let bundle, session, image, chat, loaded; // of the open bundle
let cancelled = false;

const methods = { load, setImage, ask, selftest, benchmark };
const queue = { last: Promise.resolve() };

self.onmessage = ({ data }) => {
  if (data.method === "cancel") {
    cancelled = true;
    return;
  }
  queue.last = queue.last.then(() => handle(data)); // one at a time: there is one cache
};

async function handle({ id, method, params }) {
  cancelled = false;
  try {
    const value = await methods[method](params, (event) => self.postMessage({ id, event }));
    self.postMessage({ id, value });
  } catch (error) {
    if (!(error instanceof InputError)) console.error(error);
    self.postMessage({ id, error: describe(error) });
  }
}

/**
 * Open a bundle. params: url, or files (of a folder), or zip; compute: "auto", "webgpu" or "wasm"; device: of limits.js.
 */
async function load({ url, files, zip, compute, device }, emit) {
  await close();
  const began = performance.now();
  const source = files ? folderSource(files) : zip ? await zipSource(zip) : urlSource(url);
  const { bundleBytes, floatBytes } = limits(device);
  const kept = url ? await keptFiles(url) : undefined;
  const opened = await openVerified(source, (done, of) => emit({ done, of }), { most: bundleBytes, kept });
  const text = new TextProcessor(opened.tokenizer, opened.manifest.chat_template);
  let note = "";
  for (const provider of await providers(compute)) {
    try {
      const engine = await openEngine(await runtime(provider), opened, provider, floatBytes);
      const candidate = new Session(opened.manifest, text, engine);
      if (provider === "webgpu" && compute === "auto" && !(await selfTest(candidate, opened, loadPixels)).passed) {
        await engine.release();
        throw new InputError("the self-test fails on this GPU");
      }
      [bundle, session] = [opened, candidate];
      loaded = { provider, ms: performance.now() - began };
      break;
    } catch (error) {
      if (provider === "wasm" || compute !== "auto") throw error;
      note = `WebGPU is not used: ${describe(error)}`;
    }
  }
  const { manifest, bytes } = bundle;
  const { env } = await runtime(loaded.provider);
  Object.assign(loaded, { threads: env.wasm.numThreads, version: env.versions.web });
  return { manifest, bytes, ...loaded, note, example: new Blob([bundle.files.get(manifest.selftest.image)]) };
}

async function close() {
  await session?.engine.release();
  bundle = session = image = chat = loaded = undefined;
}

/** What to try, in this order. A GPU that is emulated in software is none. */
async function providers(compute) {
  if (compute !== "auto") return [compute];
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter && !(adapter.info ?? adapter).isFallbackAdapter ? ["webgpu", "wasm"] : ["wasm"];
}

const runtimes = {};

/** ONNX Runtime Web with its wasm files from this folder; threads need a cross-origin isolated page. */
function runtime(provider) {
  runtimes[provider] ??= openRuntime(provider).catch((error) => {
    delete runtimes[provider]; // the next try may find the network again
    throw error;
  });
  return runtimes[provider];
}

async function openRuntime(provider) {
  const unreachable = () => {
    throw new InputError("ONNX Runtime's files cannot be fetched; is the server or the network gone?");
  };
  const ort = await import(new URL(`ort.${provider}.min.mjs`, DIST)).catch(unreachable);
  ort.env.wasm.wasmPaths = DIST.href;
  if (COMPRESSED) {
    ort.env.wasm.wasmBinary = await gunzipped(await fetch(new URL(`${WASM[provider]}.gz`, DIST)).catch(unreachable));
  }
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  return ort;
}

function open() {
  if (!session) throw new InputError("no model is loaded");
  return session;
}

/** The image that the next questions are about; params: file (Blob) or null. Its keys and values come with the first. */
async function setImage({ file }) {
  open();
  chat = undefined;
  image = file ? { file } : undefined;
}

/** Answer a question. params: prompt, followUp, maxNewTokens, temperature, topP. Emits {text}; returns the stats. */
async function ask({ prompt, followUp, ...options }, emit) {
  const stats = newStats();
  const began = performance.now();
  const warm = Boolean(image?.kv);
  if (image) image.kv ??= await open().encodeImage(() => loadPixels(image.file, bundle.manifest.preprocessing), stats);
  if (!followUp || !chat) chat = open().chat(image?.kv);
  const tokens = [];
  for await (const { text, tokenId } of chat.send(prompt, { ...options, stats, began })) {
    tokens.push(tokenId);
    if (text) emit({ text });
    await breath();
    if (cancelled) {
      stats.finish_reason = "cancelled";
      break;
    }
  }
  return { stats, tokens, warm, image: Boolean(image) };
}

/** Lets a "cancel" in, without setTimeout's least delay of 4 ms. */
function breath() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(null);
  });
}

async function selftest() {
  return selfTest(open(), bundle, loadPixels);
}

async function benchmark(params, emit) {
  chat = undefined; // the cache is taken over
  return runBenchmark(open(), bundle, loaded, params, emit, () => cancelled);
}
