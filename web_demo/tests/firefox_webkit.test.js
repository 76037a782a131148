// The page in Firefox and in WebKit: the same pixels, prompts and answers as the Python session's.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { serve } from "./browser.js";
import { answers, BUNDLES, FOLDER } from "./fixtures.js";
import { openFirefox, openWebKit } from "./other_browsers.js";
import { answersAreEqual, resized, wronglyTaken } from "./parity.js";

const SCREENS = join(FOLDER, "screens");
let server;

before(async () => {
  mkdirSync(SCREENS, { recursive: true });
  server = await serve(BUNDLES);
});

after(() => server?.stop());

for (const [name, open] of Object.entries({ Firefox: openFirefox, WebKit: openWebKit })) {
  describe(name, () => {
    let page;

    before(async () => {
      page = await open();
      console.log(page.version);
      await page.goto(`${server.origin}/`);
      await page.waitFor(opened);
    });

    after(() => page?.close());

    test("a question through the form, and the self-test", async () => {
      assert.match(await page.evaluate(() => document.getElementById("model-status").textContent), /every hash checked · WebAssembly/);
      await page.evaluate(() => document.getElementById("ask").click());
      await page.waitFor(() => document.querySelector(".facts")?.textContent);
      assert.equal((await page.evaluate(() => document.querySelector(".answer").textContent)).trim(), "yellow");
      await page.evaluate(() => document.getElementById("self-test").click());
      await page.waitFor(() => /good|bad/.test(document.getElementById("self-test-result").className));
      assert.match(await page.evaluate(() => document.getElementById("self-test-result").textContent), /^Self-test passed/);
      await page.screenshot(join(SCREENS, `${name}.png`));
    });

    test("100 real questions and 10 descriptions, int8", async () => {
      await answersAreEqual(page, answers("int8"), "int8", "wasm");
    });

    test("hostile images: one clear line, or the right pixels", async () => {
      assert.deepEqual(await wronglyTaken(page), []);
    });

    test("resized pixels are Pillow's bit for bit", async () => {
      const { exact, near, off } = await resized(page);
      assert.deepEqual(off, []);
      assert.ok(exact > 400 && near === 16, `${exact}, ${near}`);
    });
  });
}

/** Whether a bundle is open; throws if it was refused. */
function opened() {
  const { className, textContent } = document.getElementById("model-status");
  if (className.includes("bad")) throw new Error(textContent);
  return !document.getElementById("ask").disabled;
}
