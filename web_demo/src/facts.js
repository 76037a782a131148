// Numbers as the page shows them.

import { median } from "./benchmark.js";

const PROVIDERS = { wasm: "WebAssembly", webgpu: "WebGPU" };
const STAGES = [
  ["Preprocess", "preprocess"],
  ["Vision encoder", "vision_encoder"],
  ["Vision injector", "vision_injector"],
  ["Prefill", "prefill"],
];

export function bundleFacts({ manifest, bytes, provider, threads, ms, note }) {
  const on = provider === "wasm" ? `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}` : PROVIDERS[provider];
  const facts = [manifest.name, `${(bytes / 1e6).toFixed(1)} MB, every hash checked`, on, `opened in ${milliseconds(ms)} ms`];
  return facts.join(" · ") + (note ? `. ${note}` : "");
}

export function answerFacts({ stats, tokens, warm, image }) {
  const facts = [`${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}`];
  if (stats.ttft) facts.push(`first text after ${milliseconds(stats.ttft)} ms${warm ? ", image kept" : ""}`);
  if (stats.inter_token.length) facts.push(`${perSecond(stats)} tokens/s`);
  if (!image) facts.push("no image");
  if (stats.finish_reason === "length") facts.push("longest answer reached");
  if (stats.finish_reason === "cancelled") facts.push("stopped");
  return facts.join(" · ");
}

/** Rows of the table of times, {name, cells: [new image, kept image], total}; times: {cold, warm}: stats. */
export function timeRows({ cold, warm }) {
  const row = (name, value, total = false) => ({ name, total, cells: [cold, warm].map((x) => (x ? value(x) : "–")) });
  return [
    ...STAGES.map(([name, stage]) => row(name, (stats) => (stats[stage] ? milliseconds(stats[stage]) : "–"))),
    row("First text (TTFT)", (stats) => (stats.ttft ? milliseconds(stats.ttft) : "–"), true),
    row("Each further token", (stats) => (stats.inter_token.length ? milliseconds(median(stats.inter_token)) : "–")),
    row("Tokens per second", perSecond),
  ];
}

const perSecond = ({ inter_token: times }) => (times.length ? (1000 / median(times)).toFixed(0) : "–");
const milliseconds = (value) => value.toFixed(value < 100 ? 1 : 0);
