// The modules without a DOM, in Node.

import assert from "node:assert/strict";
import { openAsBlob, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { openVerified, sha256 } from "../src/bundle.js";
import { describe as line, InputError } from "../src/errors.js";
import { gunzipped } from "../src/gunzip.js";
import { blend } from "../src/image.js";
import { concat } from "../src/image_kv.js";
import { knowledge } from "../src/knowledge.js";
import { deviceFacts, limits } from "../src/limits.js";
import { parseManifest } from "../src/manifest.js";
import { visionRows } from "../src/model.js";
import { decodePng, uprightRows } from "../src/png.js";
import { probabilities, sampler } from "../src/sampling.js";
import { selfTest } from "../src/selftest.js";
import { Session } from "../src/session.js";
import { zipSource } from "../src/sources.js";
import { TextProcessor } from "../src/text.js";
import { parseTokenizer } from "../src/tokenizer_file.js";
import { crc32 } from "../src/zip.js";
import { bundle, file, FOLDER, readJson } from "./fixtures.js";

const read = (name) => JSON.parse(readFileSync(join(bundle("int8"), name), "utf8"));
const text = new TextProcessor(read("tokenizer.json"), read("manifest.json").chat_template);

for (const name of readJson("suite.json").tokenizers) {
  test(`tokenizer ${name}: token ids, decoded and streamed text are Python's`, () => {
    const { rows, texts, streams, conversations, empty } = readJson(`tokenizers/${name}/cases.json`);
    const content = new Uint8Array(readFileSync(file(`tokenizers/${name}/tokenizer.json`)));
    const tokenizer = parseTokenizer(content, "tokenizer.json", rows);
    const text = new TextProcessor(tokenizer, readJson(`tokenizers/${name}/chat_template.json`));
    for (const row of texts) {
      const what = JSON.stringify(row.text);
      assert.deepEqual(text.encodePlain(row.text), row.ids, what);
      assert.equal(text.decode(row.ids), row.decoded, what);
      if (!row.question) continue;
      assert.deepEqual(text.encodeChat([{ role: "user", content: row.text }]), row.question, what);
      assert.deepEqual(text.encodeNextTurn(row.text), row.next_turn, what);
    }
    for (const { ids, pieces } of [...texts, ...streams]) {
      const stream = text.stream();
      assert.deepEqual(ids.map((id) => stream.step(id)), pieces, ids.join()); // prettier-ignore
    }
    for (const { messages, ids } of conversations) {
      assert.deepEqual(text.encodeChat(messages.map(([role, content]) => ({ role, content }))), ids, JSON.stringify(messages));
    }
    for (const prompt of empty) assert.throws(() => text.encodeNextTurn(prompt), /prompt is empty/);
    assert.ok(texts.length > 400 && streams.length > 200);
  });
}

test("probabilities of the next token are Python's", () => {
  const { probabilities: cases } = readJson("sampling.json");
  for (const { logits, temperature, top_p: topP, probabilities: expected, greedy } of cases) {
    probabilities(Float32Array.from(logits), temperature, topP).forEach((p, i) => assert.ok(Math.abs(p - expected[i]) < 1e-12));
    assert.equal(sampler(0, 1)(logits), greedy);
  }
  assert.ok(cases.length >= 8);
});

test("half a surrogate pair is the replacement character", () => {
  assert.deepEqual(text.encodePlain("a\ud800b"), text.encodePlain("a\ufffdb"));
});

test("nucleus sampling keeps the smallest set that reaches top-p", () => {
  const logits = Float32Array.from([0.5, 0.25, 0.125, 0.125], Math.log);
  const near = (found, expected) => expected.forEach((p, i) => assert.ok(Math.abs(found[i] - p) < 1e-6, `${found}`));
  near(probabilities(logits, 1, 1), [0.5, 0.25, 0.125, 0.125]);
  near(probabilities(logits, 1, 0.6), [2 / 3, 1 / 3, 0, 0]);
  near(probabilities(logits, 0.5, 1), [16 / 22, 4 / 22, 1 / 22, 1 / 22]);
  assert.equal(sampler(0, 1)([1, 3, 3]), 1);
  const draw = (r) => sampler(1, 0.6, () => r)(logits);
  assert.deepEqual([draw(0), draw(0.66), draw(0.67), draw(0.999999)], [0, 0, 1, 1]);
  assert.throws(() => sampler(-1, 1), InputError);
  assert.throws(() => sampler(NaN, 1), InputError);
  assert.throws(() => sampler(1, 0), InputError);
});

test("several images' keys and values are joined along the tokens", () => {
  const image = (start, tokens) => {
    const key = Float32Array.from({ length: 2 * tokens }, (_, i) => start + i);
    return { key, value: key.map((x) => -x), shape: [1, 2, tokens, 1], modelId: "m", nextPosition: 0 };
  };
  const joined = concat([image(0, 1), image(10, 2)]);
  assert.deepEqual([...joined.key], [0, 10, 11, 1, 12, 13]);
  assert.deepEqual([...joined.value], [-0, -10, -11, -1, -12, -13]);
  assert.deepEqual(joined.shape, [1, 2, 3, 1]);
  assert.throws(() => concat([image(0, 1), { ...image(0, 1), modelId: "n" }]), /different models/);
});

test("which layer starts with which row of an image's keys", () => {
  const model = { architecture: "himix", num_hidden_layers: 4, vision_hidden_size: 8 };
  assert.deepEqual(visionRows(model), [0, 1, 2, 3]);
  assert.deepEqual(visionRows({ ...model, injection: { layers: [1, 3] } }), [null, 0, null, 1]);
  assert.deepEqual(visionRows({ ...model, injection: { sharing: "uniform" } }), [0, 0, 0, 0]);
  const levels = { sharing: "levels", layers: [0, 1, 3] };
  assert.deepEqual(visionRows({ ...model, injection: levels, vision_config: { feature_layers: [-3, -1] } }), [0, 0, null, 1]);
  assert.deepEqual(visionRows({ ...model, vision_hidden_size: null }), [null, null, null, null]);
  assert.throws(() => visionRows({ ...model, injection: { layers: [4] } }), InputError);
});

test("a zip is read like a folder, damaged ones are refused", async () => {
  const zip = async (name) => Object.assign(await openAsBlob(join(FOLDER, name)), { name });
  const good = await openVerified(await zipSource(await zip("good.zip")));
  assert.equal(good.manifest.name, read("manifest.json").name);
  assert.equal(good.files.size, 6);
  const flipped = await zipSource(await zip("flipped-byte.zip"));
  await assert.rejects(openVerified(flipped), { name: "InputError", message: /decoder\.onnx.*SHA-256/ });
  await assert.rejects(zipSource(await zip("truncated.zip")), { name: "InputError", message: /truncated\.zip/ });
  await assert.rejects(zipSource(Object.assign(new Blob(["no"]), { name: "x.zip" })), { message: /x\.zip: not a zip/ });
});

test("a manifest with any one field taken away or of another type gives one readable line", () => {
  const encode = (manifest) => new TextEncoder().encode(JSON.stringify(manifest));
  const manifest = read("manifest.json");
  parseManifest(encode(manifest), "m");
  for (const field of ["name", "target", "roles", "files", "model", "preprocessing", "quantisation", "chat_template",
    "generation", "context_capacity", "vision_tokens", "image_kv_id", "selftest", "schema_version"]) { // prettier-ignore
    for (const value of [undefined, null, -1, [[]], {}]) {
      const wrong = encode({ ...manifest, [field]: value });
      assert.throws(() => parseManifest(wrong, "m"), (e) => e instanceof InputError && !e.message.includes("\n"), field); // prettier-ignore
    }
  }
});

test("an unexpected error is one line without a stack", () => {
  const error = new Error("first\n    at somewhere (file.js:1:2)");
  assert.equal(line(error), "That failed unexpectedly: first");
});

/** An engine that always says "one token more than the last", and notes what it was given. */
function counting() {
  const log = [];
  return {
    log, capacity: 200,
    start: (image) => log.push(["start", image.shape[2]]),
    step: async (ids) => (log.push(ids), Float32Array.from({ length: 512 }, (_, i) => +(i === (ids.at(-1) + 1) % 512))),
  }; // prettier-ignore
}

async function collect(answer) {
  const pieces = [];
  for await (const piece of answer) pieces.push(piece.tokenId);
  return pieces;
}

test("a conversation adds to the cache, and another one on the same session puts its own tokens back", async () => {
  const engine = counting();
  const session = new Session(read("manifest.json"), text, engine);
  const [chat, other] = [session.chat(), session.chat()];
  const first = await collect(chat.send("hi", { maxNewTokens: 2, temperature: 0 }));
  const prompt = text.encodeChat([{ role: "user", content: "hi" }]);
  assert.deepEqual(engine.log, [["start", 0], prompt, [first[0]]]);
  engine.log.length = 0;
  await collect(chat.send("and", { maxNewTokens: 1, temperature: 0 }));
  const next = text.encodeNextTurn("and");
  assert.deepEqual(engine.log, [[first[1], ...next]]);
  await collect(other.send("hi", { maxNewTokens: 1, temperature: 0 }));
  engine.log.length = 0;
  await collect(chat.send("so", { maxNewTokens: 1, temperature: 0 }));
  assert.deepEqual(engine.log[0], ["start", 0]);
  assert.deepEqual(engine.log[1].slice(0, prompt.length + 2 + next.length), [...prompt, ...first, ...next]);
});

test("a conversation that is asked twice before it has answered ends the older answer; no two compute at once", async () => {
  const session = new Session(read("manifest.json"), text, counting());
  const chat = session.chat();
  const greedy = { maxNewTokens: 3, temperature: 0 };
  const older = chat.send("hi", greedy);
  const { value: first } = await older.next();
  const alone = await collect(session.chat().send("and", greedy));
  assert.ok(alone.length);
  const newer = await collect(chat.send("and", greedy));
  assert.equal(newer.length, 3);
  await assert.rejects(older.next(), { name: "InputError", message: /asked something else/ });
  // what was said of the older answer is part of the conversation
  const asked = text.encodeChat([{ role: "user", content: "hi" }]);
  assert.deepEqual(session.engine.log.filter(Array.isArray).at(-3), [...asked, first.tokenId, ...text.encodeNextTurn("and")]);
  const together = [collect(session.chat().send("a", greedy)), collect(session.chat().send("b", greedy))];
  const ended = await Promise.allSettled(together);
  assert.deepEqual(ended.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.match(ended.find(({ reason }) => reason).reason.message, /computing something else/);
});

test("a step that fails loses nothing", async () => {
  const engine = counting();
  const session = new Session(read("manifest.json"), text, engine);
  const expected = await collect(session.chat().send("hi", { maxNewTokens: 2, temperature: 0 }));
  const chat = session.chat();
  const { step } = engine;
  engine.step = async () => {
    throw new InputError("no memory");
  };
  await assert.rejects(collect(chat.send("hi")), /no memory/);
  engine.step = step;
  assert.deepEqual(await collect(chat.send("hi", { maxNewTokens: 2, temperature: 0 })), expected);
});

test("the least temperature takes the likeliest token; what is no temperature is refused", () => {
  for (const temperature of [1e-310, Number.MIN_VALUE]) assert.equal(sampler(temperature, 1)([1, 3, 2, -Infinity]), 1);
  for (const temperature of [NaN, Infinity, -1e-310]) assert.throws(() => sampler(temperature, 1), InputError);
});

test("a prompt of a megabyte is refused before it is cut into tokens", async () => {
  const session = new Session(read("manifest.json"), text, counting());
  const began = performance.now();
  await assert.rejects(collect(session.chat().send("a".repeat(1 << 20))), /does not fit/);
  assert.ok(performance.now() - began < 10_000);
});

test("zips that are not what they seem are refused", async () => {
  const files = { "b/manifest.json": "{}", "b/x": "x" };
  const zip = (entries, change = () => {}) => {
    const [parts, directory] = [[], []];
    let at = 0;
    for (const [name, content] of entries) {
      const [path, data] = [name, content].map((part) => new TextEncoder().encode(part));
      const head = new DataView(new ArrayBuffer(46));
      [[0, 0x02014b50], [16, crc32(data)], [20, data.length], [24, data.length], [42, at]].forEach(([place, value]) => head.setUint32(place, value, true)); // prettier-ignore
      head.setUint16(28, path.length, true);
      change(head);
      const local = new DataView(new ArrayBuffer(30));
      local.setUint32(0, 0x04034b50, true);
      local.setUint16(26, path.length, true);
      parts.push(local, path, data);
      directory.push(head, path);
      at += 30 + path.length + data.length;
    }
    const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
    const end = new DataView(new ArrayBuffer(22));
    [[0, 0x06054b50], [12, size], [16, at]].forEach(([place, value]) => end.setUint32(place, value, true));
    end.setUint16(10, entries.length, true);
    return Object.assign(new Blob([...parts, ...directory, end]), { name: "b.zip" });
  }; // prettier-ignore
  const good = await zipSource(zip(Object.entries(files)));
  assert.equal(new TextDecoder().decode(await good.read("x", 1)), "x");
  await assert.rejects(good.read("../x", 9), { name: "InputError", message: /missing/ });
  const refused = async (blob, message) => {
    const attempt = zipSource(blob).then((source) => source.read("manifest.json", 9));
    await assert.rejects(attempt, (error) => error instanceof InputError && message.test(error.message));
  };
  await refused(zip([...Object.entries(files), ["b/x", "y"]]), /two entries are called b\/x/);
  await refused(zip([...Object.entries(files), ["c/manifest.json", "{}"]]), /several manifest\.json/);
  await refused(zip(Object.entries(files), (head) => head.setUint32(16, 1, true)), /checksum is wrong/);
  await refused(zip(Object.entries(files), (head) => head.setUint16(8, 1, true)), /encrypted/);
  await refused(zip(Object.entries(files), (head) => head.setUint16(10, 12, true)), /method 12/);
  await refused(zip(Object.entries(files), (head) => head.setUint32(42, 2 ** 31, true)), /damaged/);
  await refused(zip([["b/manifest.json", "x".repeat(10)]]), /more than the 9 bytes/);
});

test("another answer fails the self-test unless the model is not sure of its own", async () => {
  const pixels = new Uint8Array(12);
  const of = (decisive, pixels_sha256) => ({
    files: new Map([["image", new Uint8Array()]]),
    manifest: { preprocessing: {}, selftest: { image: "image", prompt: "?", pixels_sha256, token_ids: [1, 2], text: "", decisive } },
  }); // prettier-ignore
  async function* answer() {
    yield { tokenId: 3, text: "" };
  }
  const session = { encodeImage: async (load) => load(), chat: () => ({ send: answer }) };
  const passed = async (test) => (await selfTest(session, test, async () => pixels)).passed;
  const right = await sha256(pixels);
  assert.deepEqual(
    [await passed(of(true, right)), await passed(of(undefined, right)), await passed(of(false, right)), await passed(of(false, "00"))],
    [false, false, true, false],
  ); // prettier-ignore
});

test("what does not fit into the cache is refused, and an answer ends where the cache does", async () => {
  const session = new Session(read("manifest.json"), text, counting());
  await assert.rejects(collect(session.chat().send("x".repeat(500))), /does not fit.*200/);
  const stats = { new_tokens: 0, inter_token: [] };
  const prompt = text.encodeChat([{ role: "user", content: "hi" }]);
  await collect(session.chat().send("hi", { maxNewTokens: 1000, temperature: 0, ignoreStop: true, stats }));
  assert.equal(stats.new_tokens, 200 - prompt.length);
  assert.equal(stats.finish_reason, "length");
  await assert.rejects(collect(session.chat().send("hi", { maxNewTokens: 0 })), InputError);
});

test("PNGs of every color type, depth and filter, interlaced and transparent: Python's pixels", async () => {
  const over = (value, alpha) => blend(Uint8Array.of(value, 0, 0, alpha))[0];
  const cases = Object.entries(JSON.parse(readFileSync(join(FOLDER, "odd-pngs/facts.json"), "utf8")))
    .map(([name, facts]) => [join(FOLDER, "odd-pngs", name), facts]); // prettier-ignore
  for (const { file: path, upright } of Object.values(readJson("images.json"))) {
    if (path.endsWith(".png")) cases.push([file(path), upright]);
  }
  for (const [path, { width, height, sha256: expected }] of cases) {
    const image = uprightRows(await decodePng(new Uint8Array(readFileSync(path)), path), over);
    assert.deepEqual([image.width, image.height], [width, height], path);
    assert.equal(await sha256(image.rows(0, height)), expected, path);
  }
  assert.ok(cases.length > 80, `${cases.length}`);
});

test("damaged PNGs are refused in a line: a wrong checksum, too few rows, a palette without the color", async () => {
  const good = new Uint8Array(readFileSync(join(FOLDER, "odd-pngs/color-3-8-bits.png")));
  const flipped = good.slice();
  flipped[flipped.length - 20] ^= 1; // in the last IDAT
  const taller = good.slice();
  const view = new DataView(taller.buffer);
  view.setUint32(20, view.getUint32(20) + 1);
  view.setUint32(29, crc32(taller.subarray(12, 29)));
  for (const bytes of [flipped, taller, good.subarray(0, 60)]) {
    await assert.rejects(decodePng(bytes, "a.png"), (error) => error instanceof InputError && /^a\.png: a damaged image/.test(error.message));
  }
});

test("what a model was trained on, as its bundle says", () => {
  assert.match(knowledge(read("manifest.json")), /^This model was trained on one colored shape on a plain background \(easy-VQA\)\. About any/);
  const of = (training) => knowledge({ provenance: { training } });
  assert.match(of({ data: [{ name: "emoji-scenes" }], before: { data: [{ name: "emoji-captions" }] } }), /scenes of emojis \(EmojiScenes\), captions/);
  assert.match(of({ data: { name: "my-\u202epictures" } }), /trained on my-\ufffdpictures\. About/);
  assert.match(of({ random_weights: 0 }), /random: it knows nothing/);
  const circle = { data: "x" };
  circle.before = circle;
  for (const odd of [undefined, null, 7, "x", [], { data: 3 }, { data: [null, 4, { name: 3 }] }, circle]) assert.match(of(odd), /does not say/);
});

test("a phone takes smaller bundles than a desktop, and one without much memory smaller ones still", async () => {
  const most = (device) => limits(device).bundleBytes / 2 ** 20;
  assert.equal(most(undefined), 2048);
  assert.equal(most({ phone: false, memory: 8 }), 2048);
  assert.equal(most({ phone: false, memory: 4 }), 1024);
  assert.equal(most({ phone: true, memory: 8 }), 512);
  assert.equal(most({ phone: true, memory: 2 }), 128);
  assert.equal(most({ phone: true }), 256);
  const facts = (userAgent, more = {}) => deviceFacts({ userAgent, ...more }).phone;
  assert.equal(facts("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604.1"), true);
  assert.equal(facts("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Safari/605.1.15", { maxTouchPoints: 5 }), true);
  assert.equal(facts("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Safari/605.1.15", { maxTouchPoints: 0 }), false);
  assert.equal(facts("Mozilla/5.0 (Linux; Android 10; K) Chrome/156.0.0.0 Mobile Safari/537.36"), true);
  assert.equal(facts("Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0.0.0 Safari/537.36", { deviceMemory: 8 }), false);
  const source = { name: "b", read: async (path) => new Uint8Array(readFileSync(join(bundle("int8"), path))) };
  await assert.rejects(openVerified(source, undefined, { most: 1 << 20 }), /bundles over 1048576 do not fit into this device's browser/);
});

test("files of a bundle are kept, taken from there by their hash, and fetched anew where they were damaged", async () => {
  const store = new Map();
  let dropped;
  const kept = {
    get: async ({ sha256 }) => store.get(sha256),
    put: async ({ sha256 }, content) => store.set(sha256, content),
    retain: async (records) => (dropped = [...store.keys()].filter((hash) => !records.some(({ sha256 }) => sha256 === hash))),
  };
  const asked = [];
  const source = { name: "b", read: async (path) => (asked.push(path), new Uint8Array(readFileSync(join(bundle("int8"), path)))) };
  store.set("of an earlier version", new Uint8Array(1));
  await openVerified(source, undefined, { kept });
  assert.ok(asked.includes("decoder.onnx"));
  assert.deepEqual(dropped, ["of an earlier version"]);
  asked.length = 0;
  await openVerified(source, undefined, { kept });
  assert.deepEqual(asked, ["manifest.json"]);
  const { sha256: decoder } = read("manifest.json").roles.decoder[0];
  store.get(decoder)[1000] ^= 1;
  asked.length = 0;
  await openVerified(source, undefined, { kept });
  assert.deepEqual(asked, ["manifest.json", "decoder.onnx"]);
  assert.equal(await sha256(store.get(decoder)), decoder);
});

test("a gzipped file is unpacked, also where the server has done so", async () => {
  const content = new Uint8Array(100_000).fill(7);
  const unpacked = async (body, status = 200) => gunzipped(Object.defineProperty(new Response(body, { status }), "url", { value: "http://h/a.wasm.gz" }));
  assert.deepEqual(await unpacked(gzipSync(content)), content);
  assert.deepEqual(await unpacked(content), content);
  await assert.rejects(unpacked(gzipSync(content).subarray(0, 50)), /^InputError: a\.wasm\.gz: damaged/);
  await assert.rejects(unpacked("", 404), /the server says 404/);
});
