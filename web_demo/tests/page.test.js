// The page as a person meets it: phone and desktop, light and dark, keyboard, camera, good and bad bundles.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";

import { ask, launch, openPage, serve, settled } from "./browser.js";
import { answers, BUNDLES, bundle, file, FOLDER, hostile } from "./fixtures.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SCREENS = join(FOLDER, "screens");
const questions = answers("int8");
// what this page says beyond what every client does
const MORE = {
  "other-target": ["manifest.json", "onnx_portable"], "huge-manifest": ["refused"], "too-big": ["2147483648"],
  "not-a-graph": ["ONNX Runtime"],
}; // prettier-ignore
const bad = new Map(hostile().bundles.map(({ name, folder, words }) => [name, { folder: file(folder), words: [...words, ...(MORE[name] ?? [])] }]));
const int8 = basename(bundle("int8"));

let server, browser;

before(async () => {
  mkdirSync(SCREENS, { recursive: true });
  server = await serve([...BUNDLES, ...[...bad.values()].map(({ folder }) => folder)]);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.stop();
});

const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"]) {
    test(`upload, streamed answer, second question warm, self-test: ${size}, ${colorScheme}`, async () => {
      const page = await openPage(browser, server.origin, `?bundle=${int8}`, { viewport, colorScheme });
      const shoot = (name) => page.screenshot({ path: join(SCREENS, `${size}-${colorScheme}-${name}.png`), fullPage: true });
      assert.match(await page.textContent("#model-status"), /every hash checked · WebAssembly, \d+ threads? · opened in/);
      assert.match(await page.textContent("#knowledge"), /^This model was trained on one colored shape/);
      for (const part of ["#knowledge", "#preview", "#pick-image", "#prompt", "#ask", "#log"]) {
        const { y, height } = await page.locator(part).boundingBox();
        assert.ok(y >= 0 && y + height <= viewport.height, `${part} ends at ${y + height}, below the fold`);
      }
      await page.screenshot({ path: join(SCREENS, `${size}-${colorScheme}-fold.png`) });
      await shoot("open");

      const { image, text } = questions.at(-1);
      await page.setInputFiles("#image", file(`images/${image}`));
      await page.locator(`#preview[aria-label="The image: ${image}"]`).waitFor();
      await page.evaluate(() => {
        window.pieces = [];
        const note = ([{ target }]) => target.className === "answer" && window.pieces.push(target.textContent);
        new MutationObserver(note).observe(document.getElementById("log"), { childList: true, subtree: true });
      });
      const first = await ask(page, "Describe the image.");
      assert.equal(first.answer.trim(), text.trim());
      assert.ok((await page.evaluate(() => window.pieces.length)) > 1, "the answer came in one piece");
      const second = await ask(page, "What color is it?");
      assert.match(first.facts, /first text after [\d.]+ ms · \d+ tokens\/s/);
      assert.match(second.facts, /first text after [\d.]+ ms, image kept/);
      const cells = (row) => page.locator("#times tr", { hasText: row }).locator("td").allTextContents();
      const [cold, warm] = (await cells("First text")).map(Number);
      assert.ok(cold > 0 && warm > 0 && warm < cold, `cold ${cold}, warm ${warm}`);
      const encoder = await cells("Vision encoder");
      assert.ok(Number(encoder[0]) > 0 && encoder[1] === "–", `vision encoder: ${encoder}`);

      await page.click("#self-test");
      await page.locator("#self-test-result.good, #self-test-result.bad").waitFor();
      assert.match(await page.textContent("#self-test-result"), /^Self-test passed: same pixels, same tokens/);
      await shoot("asked");
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${overflow} pixels wider than the screen`);
      assert.deepEqual(await violations(page), []);
      assert.deepEqual(page.trouble, []);
      await page.context().close();
    });
  }
}

/** What axe-core finds: contrast, names, roles, order. */
async function violations(page) {
  await page.evaluate(AXE);
  const { violations: found } = await page.evaluate(() => window.axe.run());
  return found.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)]);
}

test("everything can be reached and used by keyboard", async () => {
  const page = await openPage(browser, server.origin);
  const wanted = new Set(["bundle", "compute", "pick-folder", "pick-zip", "pick-image", "camera", "example",
    "clear-image", "prompt", "ask", "self-test", "benchmark"]); // prettier-ignore
  await page.focus("body");
  for (let i = 0; i < 40 && wanted.size; i++) {
    await page.keyboard.press("Tab");
    wanted.delete(await page.evaluate(() => document.activeElement.id));
  }
  assert.deepEqual([...wanted], []);
  await page.focus("#self-test");
  await page.keyboard.press("Enter");
  await page.locator("#self-test-result.good").waitFor();
  await page.context().close();
});

test("an answer is streamed as it comes and can be stopped; a follow-up continues the conversation", async () => {
  const page = await openPage(browser, server.origin);
  await page.click("summary");
  await page.fill("#temperature", "5");
  await page.fill("#max-tokens", "400");
  await page.evaluate(() => {
    const stop = () => document.querySelector(".turn.running .answer")?.textContent && document.getElementById("stop").click();
    new MutationObserver(stop).observe(document.getElementById("log"), { childList: true, subtree: true });
  });
  assert.match((await ask(page, "Describe the image.")).facts, /stopped$/);
  await page.reload(); // without the observer
  await settled(page);
  await ask(page, "Describe the image.");
  await page.click("summary");
  await page.fill("#temperature", "0");
  await page.check("#follow-up");
  assert.ok((await ask(page, "What color is it?")).answer);
  await page.fill("#max-tokens", "0");
  await page.fill("#prompt", "What color is it?");
  await page.click("#ask");
  await page.locator("#talk-status.bad").waitFor(); // refused, and the turn is taken back
  assert.equal(await page.locator(".turn").count(), 2);
  await page.context().close();
});

test("the camera's picture becomes the image", async () => {
  const page = await openPage(browser, server.origin, "", { permissions: ["camera"] });
  await page.click("#camera");
  await page.waitForFunction(() => document.getElementById("video").videoWidth > 0);
  await page.click("#shoot");
  await page.locator('#preview[aria-label="The image: camera.png"]').waitFor();
  assert.ok((await ask(page, "What shape is this?")).answer);
  assert.deepEqual(page.trouble, []);
  await page.context().close();
});

test("a camera that is not there, no image, and a file that is no image, each say so", async () => {
  const page = await openPage(browser, server.origin);
  await page.evaluate(() => {
    navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException("denied", "NotAllowedError");
    };
  });
  await page.click("#camera");
  await page.locator("#image-status.bad").waitFor();
  assert.match(await page.textContent("#image-status"), /camera was not allowed/);
  await page.setInputFiles("#image", { name: "notes.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  await page.locator("#image-status.bad", { hasText: "notes.png: not an image" }).waitFor();
  assert.ok(await page.isDisabled("#clear-image"), "the file that is no image stayed");
  assert.match((await ask(page, "What shape is this?")).facts, /no image/);
  await page.fill("#prompt", "x ".repeat(1000));
  await page.press("#prompt", "Enter");
  await page.locator("#talk-status.bad", { hasText: "does not fit" }).waitFor();
  await page.context().close();
});

test("the benchmark's record is what himix report reads", async () => {
  const page = await openPage(browser, server.origin, `?bundle=${int8}`);
  const download = page.waitForEvent("download");
  await page.click("#benchmark");
  const path = join(FOLDER, "record.json");
  await (await download).saveAs(path);
  const script = "import sys; from himix_edge.bench.record import read_records; read_records(sys.argv[1])";
  execFileSync(process.env.PYTHON ?? "python3", ["-c", script, path]);
  const [record] = JSON.parse(readFileSync(path, "utf8"));
  assert.equal(record.bundle.name, int8);
  assert.equal(record.self_test_passed, true);
  assert.notEqual(record.verdict, "invalid");
  for (const stage of ["preprocess", "vision_encoder", "vision_injector", "prefill", "ttft", "warm_ttft"]) {
    assert.equal(record.samples[stage].length, 20, stage);
  }
  assert.ok(record.answers.every(({ runs, equal_runs: equal }) => runs === equal && runs > 1));
  await page.context().close();
});

/** A refusal: names what is wrong in one line, without a stack trace, and nothing can be asked. */
function assertRefused(status, words) {
  for (const word of words) assert.ok(status.includes(word), `${JSON.stringify(word)} is not in ${status}`);
  assert.doesNotMatch(status, /\n|Error|\bat .*:\d+:\d+|unexpectedly|undefined/, status);
}

test("bad bundles beside the page are refused, each with a line that names what is wrong", async () => {
  const page = await openPage(browser, server.origin, `?bundle=${int8}`);
  for (const [name, { words }] of bad) {
    await page.selectOption("#bundle", name);
    await page.locator("#model-status.bad", { hasText: name }).or(page.locator("#model-status.bad", { hasText: words[0] })).waitFor();
    assertRefused(await settled(page), words);
    assert.ok(await page.isDisabled("#ask"));
    if (name === "flipped-byte") await page.screenshot({ path: join(SCREENS, "refused.png") });
  }
  await page.selectOption("#bundle", int8);
  await page.locator("#ask:enabled").waitFor();
  assert.match(await settled(page), /every hash checked/);
  await page.context().close();
});

test("a bundle from a folder or a zip that the user picks; the same refusals", async () => {
  const page = await openPage(browser, server.origin);
  const open = async (input, path, words) => {
    await page.evaluate(() => (document.getElementById("model-status").textContent = "waiting"));
    await page.setInputFiles(input, path);
    await page.locator("#model-status", { hasText: words ? words[0] : "every hash checked" }).waitFor({ timeout: 120_000 });
    const status = await settled(page);
    if (words) assertRefused(status, words);
    return status;
  };
  assert.match(await open("#folder", bundle("none")), /-none · .*every hash checked/);
  assert.ok((await ask(page, "Describe the image.")).answer);
  for (const name of ["flipped-byte", "missing-file", "parent-path", "next-version", "truncated", "too-long"]) {
    const { folder, words } = bad.get(name);
    await open("#folder", folder, words);
  }
  await open("#folder", file("images"), ["no manifest.json"]);
  assert.match(await open("#zip", join(FOLDER, "good.zip")), /-int8 · .*every hash checked/);
  await open("#zip", join(FOLDER, "flipped-byte.zip"), ["decoder.onnx", "SHA-256"]);
  await open("#zip", join(FOLDER, "truncated.zip"), ["truncated.zip", "truncated"]);
  assert.deepEqual(page.trouble, []);
  await page.context().close();
});

test("no request can leave the origin, from the page or from its worker", async () => {
  const page = await openPage(browser, server.origin);
  const blocked = () =>
    fetch("https://example.com/").then(
      () => "sent",
      (error) => error.name,
    );
  assert.equal(await page.evaluate(blocked), "TypeError");
  assert.ok(page.trouble.some((line) => line.includes("Content Security Policy")), page.trouble.join("\n"));
  assert.ok(!page.trouble.some((line) => line.startsWith("request to")));
  const refused = await page.evaluate(async () => {
    const { ModelClient } = await import("/src/client.js");
    return new ModelClient().call("load", { url: "https://example.com/b/", compute: "wasm" }).catch((e) => e.message);
  });
  assert.match(refused, /another site/);
  const policy = (await page.request.get(`${server.origin}/src/worker.js`)).headers()["content-security-policy"];
  assert.match(policy, /^default-src 'self';/);
  await page.context().close();
});

test("the server gives out the page and the bundles, and nothing else", async () => {
  const page = await openPage(browser, server.origin);
  const status = async (path) => (await page.request.get(server.origin + path)).status();
  assert.equal(await status("/src/page.js"), 200);
  assert.equal(await status(`/bundles/${int8}/manifest.json`), 200);
  for (const path of ["/serve.py", "/package.json", "/tests/page.test.js", "/%2e%2e/README.md", "/src/..%2fserve.py",
    "/src/", `/bundles/${int8}/..%2f..%2fsecret`, "/bundles/none/manifest.json", "/.gitignore"]) { // prettier-ignore
    assert.equal(await status(path), 404, path);
  }
  await page.context().close();
});
