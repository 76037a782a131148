// The hostile inputs that every client is tried with (conformance/README.md): one clear line, or the right answer.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { openVerified } from "../src/bundle.js";
import { InputError, oneLine } from "../src/errors.js";
import { checkImage } from "../src/image_header.js";
import { parseManifest } from "../src/manifest.js";
import { isBounded } from "../src/pattern.js";
import { TextProcessor } from "../src/text.js";
import { parseTokenizer } from "../src/tokenizer_file.js";
import { bundle, file, hostile } from "./fixtures.js";

const good = bundle("int8");
const all = hostile();
const { model, chat_template: template } = JSON.parse(readFileSync(join(good, "manifest.json"), "utf8"));

/** Every case of a kind; those that end otherwise than they should are named together. */
async function tryAll(kind, trial) {
  const wrong = [];
  for (const facts of all[kind]) {
    const { name, expect, words } = facts;
    const say = (what) => wrong.push(`${name}: ${what}`);
    try {
      await trial(file(facts.file), facts);
      if (expect === "refused" || (kind === "images" && expect === "either")) say("was not refused"); // this page reads fewer kinds
    } catch (error) {
      const { message } = error;
      const clear = error instanceof InputError && oneLine(message) === message && words.every((word) => message.includes(word));
      if (!clear || expect === "same") say(`${error.name}: ${message}`);
    }
  }
  assert.ok(all[kind].length > 10);
  assert.deepEqual(wrong, []);
}

test("manifests", async () => {
  await tryAll("manifests", async (path) => {
    const manifest = new Uint8Array(readFileSync(path));
    const source = {
      name: "b",
      read: async (name, limit) => {
        if (name === "manifest.json" && manifest.length > limit) throw new InputError("b/manifest.json: too large; refused");
        if (name === "manifest.json") return manifest;
        try {
          return new Uint8Array(readFileSync(join(good, name)));
        } catch {
          throw new InputError(`b/${name}: missing`);
        }
      },
    };
    const { tokenizer, manifest: found } = await openVerified(source);
    new TextProcessor(tokenizer, found.chat_template);
  });
});

test("models whose pictures are tiles are refused by name, the good one too", () => {
  const cases = all.tile_manifests;
  assert.ok(cases.length > 10);
  for (const { name, file: path } of cases) {
    const refused = (error) => error instanceof InputError && error.message.includes("tiles in the text (pillow-tiles)");
    assert.throws(() => parseManifest(new Uint8Array(readFileSync(file(path))), "b/manifest.json"), refused, name);
  }
});

test("tokenizers", async () => {
  await tryAll("tokenizers", (path, { expect }) => {
    const json = parseTokenizer(new Uint8Array(readFileSync(path)), "tokenizer.json", model.vocab_size);
    const ids = new TextProcessor(json, template).encodePlain(all.text);
    if (expect === "same") assert.deepEqual(ids, all.ids);
  });
});

test("what an image file says of itself", () => {
  // what the browser's decoder refuses: see page.test.js
  const decoders = ["nothing", "text"];
  return tryAll("images", (path, { name }) => {
    if (decoders.includes(name)) throw new InputError(name);
    checkImage(new Uint8Array(readFileSync(path)), "image");
  });
});

test("patterns that could take endless time are told from those that are published", () => {
  const words = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  for (const pattern of [
    `(?i:'s|'t|'re|'ve|'m|'ll|'d)|${words}`, words.replace("{1,3}", ""),
    String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
    String.raw`\d{1,3}(?=(?:\d{3})*\b)`, String.raw`\p{N}{1,3}`, "[\\r\\n]", "\\s?\\p{L}+",
  ]) assert.ok(isBounded(pattern), pattern); // prettier-ignore
  for (const pattern of ["(a+)+$", "(a|a)*b", "(a*)*", "a*a*a*b", "a+a+b", "(?:a?){64}b", "(", "[", "a{1,1000}", "((a+))?"]) {
    assert.ok(!isBounded(pattern), pattern);
  }
});
