// In Chromium: pixels, prompts and answers are exactly the Python session's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { launch, openPage, serve, SOFTWARE_GPU } from "./browser.js";
import { base64, BUNDLES, bundle, HOSTILE, hostile, readJson } from "./fixtures.js";

let server, browser;

before(async () => {
  server = await serve(BUNDLES);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.stop();
});

const answersAreEqual = async (page, questions, precision, compute) => {
  const images = Object.fromEntries(questions.map(({ image }) => [image, base64(image)]));
  const asked = questions.map(({ image, prompt }) => ({ image, prompt }));
  const url = `${server.origin}/bundles/${bundle(precision).split("/").at(-1)}/`;
  const found = await page.evaluate(
    async ({ url, compute, images, asked }) => {
      const { ModelClient } = await import("/src/client.js");
      const { loadPixels } = await import("/src/image.js");
      const { sha256 } = await import("/src/bundle.js");
      const { TextProcessor } = await import("/src/text.js");
      const model = new ModelClient();
      const { manifest, provider } = await model.call("load", { url, compute });
      const text = new TextProcessor(await (await fetch(`${url}tokenizer.json`)).json(), manifest.chat_template);
      const rows = [];
      for (const { image, prompt } of asked) {
        const file = new Blob([Uint8Array.from(atob(images[image]), (c) => c.charCodeAt(0))]);
        await model.call("setImage", { file });
        let said = "";
        const { tokens } = await model.call("ask", { prompt, temperature: 0 }, (event) => (said += event.text));
        rows.push({
          prompt_ids: text.encodeChat([{ role: "user", content: prompt }]),
          pixels_sha256: await sha256(await loadPixels(file, manifest.preprocessing)),
          token_ids: tokens,
          text: said,
        });
      }
      return { provider, rows };
    },
    { url, compute, images, asked },
  );
  assert.equal(found.provider, compute);
  const expected = questions.map(({ prompt_ids, pixels_sha256, token_ids, text }) => ({
    prompt_ids, pixels_sha256, token_ids, text,
  })); // prettier-ignore
  const off = expected.flatMap((row, i) => {
    const same = JSON.stringify(row) === JSON.stringify(found.rows[i]);
    return same ? [] : [{ ...questions[i], found: found.rows[i] }];
  });
  assert.deepEqual(off, []);
  assert.deepEqual(page.trouble, []);
};

for (const precision of ["int8", "none", "int4"]) {
  test(`100 real questions and 10 descriptions, ${precision}: tokens, text, prompt and pixels equal`, async () => {
    const questions = readJson(`questions-${precision}.json`);
    assert.equal(questions.length, 110);
    assert.ok(new Set(questions.map(({ text }) => text)).size > 12);
    await answersAreEqual(await openPage(browser, server.origin), questions, precision, "wasm");
  });
}

test("WebGPU, emulated in software: the same tokens", async () => {
  const emulating = await launch(SOFTWARE_GPU);
  try {
    const page = await openPage(emulating, server.origin);
    assert.match(await page.textContent("#model-status"), /WebAssembly/); // an emulated GPU is not chosen by itself
    const questions = readJson("questions-none.json");
    await answersAreEqual(page, [...questions.slice(0, 4), questions.at(-1)], "none", "webgpu");
  } finally {
    await emulating.close();
  }
});

test("hostile images: one clear line, or the right pixels", async () => {
  const page = await openPage(browser, server.origin);
  const wrong = [];
  for (const { name, file, expect, word, sha256 } of hostile().images) {
    const content = readFileSync(join(HOSTILE, file)).toString("base64");
    const found = await page.evaluate(async (content) => {
      const { loadPixels } = await import("/src/image.js");
      const { sha256 } = await import("/src/bundle.js");
      const image = new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]);
      try {
        return { sha256: await sha256(await loadPixels(image, { method: "pillow-bilinear-squash", image_size: 64 })) };
      } catch ({ name, message }) {
        return { name, message };
      }
    }, content);
    const right = expect === "refused" ? found.name === "InputError" && found.message.includes(word) : (sha256 ?? found.sha256) === found.sha256 && !found.name; // prettier-ignore
    if (!right) wrong.push([name, found]);
  }
  assert.deepEqual(wrong, []);
});

test("resized pixels are Pillow's bit for bit; decoded JPEG within what decoders differ by", async () => {
  const cases = readJson("pixels.json");
  const page = await openPage(browser, server.origin);
  const off = [];
  for (const expected of cases) {
    const found = await page.evaluate(async (content) => {
      const { loadPixels } = await import("/src/image.js");
      const { sha256 } = await import("/src/bundle.js");
      const file = new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]);
      const one = async (method, image_size) => {
        const rgb = await loadPixels(file, { method, image_size });
        return { sha256: await sha256(rgb), rgb: btoa(Array.from(rgb, (x) => String.fromCharCode(x)).join("")) };
      };
      return {
        bilinear: await one("pillow-bilinear-squash", 64),
        bicubic: await one("pillow-bicubic-squash", 224),
      };
    }, base64(expected.image));
    for (const resample of ["bilinear", "bicubic"]) {
      if (expected.exact && found[resample].sha256 !== expected[resample].sha256) off.push([expected.image, resample]);
      if (expected.exact) continue;
      const [a, b] = [expected, found].map((row) => Buffer.from(row[resample].rgb, "base64"));
      const furthest = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
      if (a.length !== b.length || furthest > 3) off.push([expected.image, resample, furthest]);
    }
  }
  assert.deepEqual(off, []);
  assert.ok(cases.length > 25);
});
