// In Chromium: pixels, prompts and answers are exactly the Python session's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { launch, openPage, serve, SOFTWARE_GPU } from "./browser.js";
import { answers, base64, BUNDLES, bundle, file, hostile, readJson } from "./fixtures.js";

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
  const images = Object.fromEntries(questions.map(({ image }) => [image, base64(`images/${image}`)]));
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
    const questions = answers(precision);
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
    const questions = answers("none");
    await answersAreEqual(page, [...questions.slice(0, 4), questions.at(-1)], "none", "webgpu");
  } finally {
    await emulating.close();
  }
});

test("hostile images: one clear line, or the right pixels", async () => {
  const page = await openPage(browser, server.origin);
  const wrong = [];
  for (const { name, file: path, expect, words, sha256 } of hostile().images) {
    const content = base64(path);
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
    const right = expect !== "same" ? found.name === "InputError" && words.every((word) => found.message.includes(word)) : (sha256 ?? found.sha256) === found.sha256 && !found.name; // prettier-ignore
    if (!right) wrong.push([name, found]);
  }
  assert.deepEqual(wrong, []);
});

test("resized pixels are Pillow's bit for bit; decoded JPEG within what decoders differ by", async () => {
  const page = await openPage(browser, server.origin);
  const off = [];
  let [exact, near] = [0, 0];
  for (const [name, { file: path, lossless, resized }] of Object.entries(readJson("images.json"))) {
    const asked = resized.map(({ method, size }) => ({ method, image_size: size }));
    const found = await page.evaluate(
      async ({ content, asked, lossless }) => {
        const { loadPixels } = await import("/src/image.js");
        const { sha256 } = await import("/src/bundle.js");
        const image = new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]);
        const rows = [];
        for (const preprocessing of asked) {
          const rgb = await loadPixels(image, preprocessing);
          rows.push(lossless ? await sha256(rgb) : btoa(Array.from(rgb, (x) => String.fromCharCode(x)).join("")));
        }
        return rows;
      },
      { content: base64(path), asked, lossless },
    );
    resized.forEach(({ method, size, sha256, pixels }, i) => {
      if (lossless) {
        exact++;
        if (found[i] !== sha256) off.push([name, method, size]);
        return;
      }
      near++;
      const [a, b] = [readFileSync(file(pixels)), Buffer.from(found[i], "base64")];
      const furthest = a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0);
      if (a.length !== b.length || furthest > 3) off.push([name, method, furthest]);
    });
  }
  assert.deepEqual(off, []);
  assert.ok(exact > 400 && near === 16, `${exact}, ${near}`);
});
