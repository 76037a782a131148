// In Chromium: pixels, prompts and answers are exactly the Python session's.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, openPage, serve, SOFTWARE_GPU } from "./browser.js";
import { answers, BUNDLES } from "./fixtures.js";
import { answersAreEqual, resized, wronglyTaken } from "./parity.js";

let server, browser;

before(async () => {
  server = await serve(BUNDLES);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.stop();
});

for (const precision of ["int8", "none", "int4"]) {
  test(`100 real questions and 10 descriptions, ${precision}: tokens, text, prompt and pixels equal`, async () => {
    const questions = answers(precision);
    assert.equal(questions.length, 110);
    assert.ok(new Set(questions.map(({ text }) => text)).size > 12);
    const page = await openPage(browser, server.origin);
    await answersAreEqual(page, questions, precision, "wasm");
    assert.deepEqual(page.trouble, []);
  });
}

test("WebGPU, emulated in software: the same tokens", async () => {
  const emulating = await launch(SOFTWARE_GPU);
  try {
    const page = await openPage(emulating, server.origin);
    assert.match(await page.textContent("#model-status"), /WebAssembly/); // an emulated GPU is not chosen by itself
    const questions = answers("none");
    await answersAreEqual(page, [...questions.slice(0, 4), questions.at(-1)], "none", "webgpu");
    assert.deepEqual(page.trouble, []);
  } finally {
    await emulating.close();
  }
});

test("hostile images: one clear line, or the right pixels", async () => {
  assert.deepEqual(await wronglyTaken(await openPage(browser, server.origin)), []);
});

test("resized pixels are Pillow's bit for bit; decoded JPEG within what decoders differ by", async () => {
  const { exact, near, off } = await resized(await openPage(browser, server.origin));
  assert.deepEqual(off, []);
  assert.ok(exact > 400 && near === 16, `${exact}, ${near}`);
});
