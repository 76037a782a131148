// The benchmark and its record, in the schema of himix_edge/bench/record.py: `himix report FILE` reads it.

import { sha256 } from "./bundle.js";
import { InputError } from "./errors.js";
import { loadPixels } from "./image.js";
import { kvBytesPerToken } from "./model.js";
import { selfTest } from "./selftest.js";
import { newStats, stopwatch } from "./session.js";

const WARM_UP = 3;
const TIMED = 20;
const PROMPTS = ["What is in the image?", "Describe the image.", "What shape is this?", "What color is it?"];
const SPREAD = 0.15; // as in himix_edge/bench/verdict.py
const IMAGE_STAGES = ["preprocess", "vision_encoder", "vision_injector"];

/**
 * Ask 3 times to warm up and 20 times for the record, each question cold (image file in) and again with the ImageKV.
 *
 * @param loaded {provider, threads, ms}: how the bundle was opened.
 * @param params {page: its address, userAgent, newTokens}
 * @returns the record
 */
export async function runBenchmark(session, bundle, loaded, { page, userAgent, newTokens = 32 }, emit, isCancelled) {
  const started = new Date().toISOString().replace(/\.\d+Z$/, "Z");
  const test = bundle.manifest.selftest;
  const passed = (await selfTest(session, bundle, loadPixels)).passed;
  const file = new Blob([bundle.files.get(test.image)]);
  const runs = [];
  for (const prompt of new Set([test.prompt, ...PROMPTS])) {
    runs.push({ prompt, later: [], ...(await ask(session, bundle, file, null, prompt, newTokens)) });
  }
  const samples = { load: [loaded.ms] };
  const total = stopwatch();
  let asking = 0;
  for (let i = 0; i < WARM_UP + TIMED; i++) {
    if (isCancelled()) throw new InputError("the benchmark was stopped");
    if (i === WARM_UP) {
      total();
      asking = 0;
    }
    const clock = stopwatch();
    const run = runs[i % runs.length];
    const cold = await ask(session, bundle, file, null, run.prompt, newTokens);
    const warm = await ask(session, bundle, file, cold.kept, run.prompt, newTokens);
    asking += clock();
    run.later.push(cold, warm);
    if (i >= WARM_UP) collect(samples, cold.stats, warm.stats);
    emit({ done: i + 1, of: WARM_UP + TIMED });
    await new Promise((resolve) => setTimeout(resolve));
  }
  const overall = total();
  const answers = await Promise.all(runs.map(answer));
  const [verdict, reasons] = judge(passed, answers, samples, runs.length);
  const { manifest } = bundle;
  return {
    schema_version: 1,
    started,
    command: page,
    harness: "himix browser demo 0.1.0",
    device: {
      name: browserName(userAgent),
      kind: "browser",
      threads: navigator.hardwareConcurrency || undefined,
      browser: userAgent,
    },
    bundle: {
      name: manifest.name,
      target: manifest.target,
      precision: manifest.quantisation.precision,
      activations: session.engine.activations,
      architecture: manifest.model.architecture,
      manifest_sha256: bundle.manifestSha256,
      bytes: bundle.bytes,
      decoder_bytes: manifest.roles.decoder.reduce((sum, record) => sum + record.bytes, 0),
      kv_bytes_per_token: kvBytesPerToken(manifest.model),
      context_capacity: manifest.context_capacity,
    },
    settings: {
      warm_up: WARM_UP,
      timed: TIMED,
      mode: "cold-image",
      threads: loaded.threads ?? undefined,
      vision_tokens: manifest.vision_tokens,
      new_tokens: newTokens,
      provider: loaded.provider,
    },
    samples,
    memory: { kv_cache_bytes: kvBytesPerToken(manifest.model) * manifest.context_capacity },
    harness_overhead: Math.max(0, (overall - asking) / overall),
    self_test_passed: passed,
    answers,
    verdict,
    reasons,
    versions: { "onnxruntime-web": loaded.version },
  };
}

async function ask(session, bundle, file, kept, prompt, maxNewTokens) {
  const stats = newStats();
  const began = performance.now();
  const image = kept ?? (await session.encodeImage(() => loadPixels(file, bundle.manifest.preprocessing), stats));
  const tokens = [];
  let text = "";
  for await (const piece of session.chat(image).send(prompt, { maxNewTokens, temperature: 0, stats, began })) {
    tokens.push(piece.tokenId);
    text += piece.text;
  }
  stats.ttft ||= performance.now() - began; // an answer without any text has its first "text" when it ends
  return { stats, tokens, text, kept: image };
}

function collect(samples, cold, warm) {
  const add = (name, ...values) => (samples[name] ??= []).push(...values);
  for (const stage of [...IMAGE_STAGES, "prefill", "ttft"]) add(stage, cold[stage]);
  add("inter_token", ...cold.inter_token);
  add("warm_ttft", warm.ttft);
}

async function answer({ prompt, tokens, text, later }) {
  const digest = (ids) => sha256(new TextEncoder().encode(ids.join(",")));
  return {
    prompt,
    images: ["selftest/image.png"],
    text,
    token_ids_sha256: await digest(tokens),
    runs: 1 + later.length,
    equal_runs: 1 + later.filter((run) => run.tokens.join() === tokens.join()).length,
  };
}

/** ["valid" | "semi-valid" | "invalid", reasons]: wrong answers are invalid, scattered times semi-valid. */
function judge(passed, answers, samples, questions) {
  const wrong = answers
    .filter((entry) => entry.equal_runs < entry.runs)
    .map(({ prompt, runs, equal_runs: equal }) => `'${prompt}': ${runs - equal} of ${runs} runs answered differently`);
  if (!passed) wrong.unshift("the bundle's self-test gives another answer on this device");
  if (wrong.length) return ["invalid", wrong];
  const doubts = ["ttft", "warm_ttft", "prefill"]
    .map((stage) => [stage, spread(samples[stage], questions)])
    .filter(([, off]) => off > SPREAD)
    .map(([stage, off]) => `${stage} varies too much: 1 in 10 is off by over ${(off * 100).toFixed(0)}% (limit 15%)`);
  if (!self.crossOriginIsolated) doubts.push("the page is not cross-origin isolated: one thread and a coarse clock");
  return [doubts.length ? "semi-valid" : "valid", doubts];
}

/** 90th percentile of how far, as a share, a sample is from its own question's median. */
function spread(samples, period) {
  const off = [];
  for (let first = 0; first < period; first++) {
    const own = samples.filter((_, i) => i % period === first);
    const middle = median(own);
    if (own.length > 1 && middle) off.push(...own.map((value) => Math.abs(value / middle - 1)));
  }
  return off.sort((a, b) => a - b)[Math.floor(0.9 * (off.length - 1))] ?? 0;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function browserName(userAgent) {
  const known = [["Edg", "Edge"], ["Firefox", "Firefox"], ["Chrome", "Chrome"], ["Version", "Safari"]]; // prettier-ignore
  for (const [token, name] of known) {
    const version = userAgent.match(new RegExp(`${token}/(\\d+)`))?.[1];
    if (version) return `${name} ${version}`;
  }
  return "browser";
}
