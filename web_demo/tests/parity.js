// What a page of this demo has to compute exactly as the Python session does, in any browser. A page is something with
// `evaluate(function, argument)`, at an address of the demo.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { isDeepStrictEqual } from "node:util";

import { base64, bundle, file, hostile, readJson } from "./fixtures.js";

/** Ask `questions` of a bundle beside the page: prompt ids, pixels, token ids and texts are the suite's. */
export async function answersAreEqual(page, questions, precision, compute) {
  const images = Object.fromEntries(questions.map(({ image }) => [image, base64(`images/${image}`)]));
  const asked = questions.map(({ image, prompt }) => ({ image, prompt }));
  const found = await page.evaluate(
    async ({ name, compute, images, asked }) => {
      const { ModelClient } = await import(new URL("src/client.js", document.baseURI));
      const { loadPixels } = await import(new URL("src/image.js", document.baseURI));
      const { sha256 } = await import(new URL("src/bundle.js", document.baseURI));
      const { TextProcessor } = await import(new URL("src/text.js", document.baseURI));
      const url = new URL(`bundles/${name}/`, document.baseURI).href;
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
    { name: basename(bundle(precision)), compute, images, asked },
  );
  assert.equal(found.provider, compute);
  const expected = questions.map(({ prompt_ids, pixels_sha256, token_ids, text }) => ({
    prompt_ids, pixels_sha256, token_ids, text,
  })); // prettier-ignore
  const off = expected.flatMap((row, i) => {
    return isDeepStrictEqual(row, found.rows[i]) ? [] : [{ ...questions[i], found: found.rows[i] }];
  });
  assert.deepEqual(off, []);
}

/** Hostile images: one clear line, or the right pixels. Returns those for which it is otherwise. */
export async function wronglyTaken(page) {
  const wrong = [];
  for (const { name, file: path, expect, words, sha256 } of hostile().images) {
    const content = base64(path);
    const found = await page.evaluate(async (content) => {
      const { loadPixels } = await import(new URL("src/image.js", document.baseURI));
      const { sha256 } = await import(new URL("src/bundle.js", document.baseURI));
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
  return wrong;
}

/**
 * Resize every image of the suite.
 *
 * @returns {exact, near: how many were compared, off: those whose pixels are not Pillow's bit for bit, or for JPEG
 *   differ by more than 3 levels}
 */
export async function resized(page) {
  const off = [];
  let [exact, near] = [0, 0];
  for (const [name, { file: path, lossless, resized }] of Object.entries(readJson("images.json"))) {
    const asked = resized.map(({ method, size }) => ({ method, image_size: size }));
    const found = await page.evaluate(
      async ({ content, asked, lossless }) => {
        const { loadPixels } = await import(new URL("src/image.js", document.baseURI));
        const { sha256 } = await import(new URL("src/bundle.js", document.baseURI));
        const image = new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]);
        const rows = [];
        for (const preprocessing of asked) {
          const rgb = await loadPixels(image, preprocessing).catch(({ message }) => message);
          if (typeof rgb === "string") rows.push(rgb);
          else rows.push(lossless ? await sha256(rgb) : btoa(Array.from(rgb, (x) => String.fromCharCode(x)).join("")));
        }
        return rows;
      },
      { content: base64(path), asked, lossless },
    );
    resized.forEach(({ method, size, sha256, pixels }, i) => {
      if (lossless) {
        exact++;
        if (found[i] !== sha256) off.push([name, method, size, found[i]]);
        return;
      }
      near++;
      const [a, b] = [readFileSync(file(pixels)), Buffer.from(found[i], "base64")];
      const furthest = a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0);
      if (a.length !== b.length || furthest > 3) off.push([name, method, furthest]);
    });
  }
  return { exact, near, off };
}
