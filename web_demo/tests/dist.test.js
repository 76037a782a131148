// The folder for static hosts: threads without the host's headers, compressed wasm, nothing transferred twice, offline.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ask, launch, openPage, settled } from "./browser.js";
import { bundle, file, FOLDER } from "./fixtures.js";
import { openFirefox, openWebKit } from "./other_browsers.js";
import { hostStatic, makeDist } from "./static_host.js";

const OUT = join(FOLDER, "dist");
const SCREENS = join(FOLDER, "screens");
const WASM = "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm";
let browser;

before(async () => {
  mkdirSync(SCREENS, { recursive: true });
  makeDist(OUT, [bundle("int8")]);
  browser = await launch();
});

after(() => browser?.close());

const bytes = (seen) => seen.reduce((sum, entry) => sum + entry.bytes, 0);

test("a plain static host: threads, installable, wasm compressed; a reload transfers nothing; offline it answers", async () => {
  const host = await hostStatic(OUT);
  const phone = { viewport: { width: 390, height: 844 } };
  const page = await openPage(browser, host.origin, "", phone);
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  assert.match(await page.textContent("#model-status"), /every hash checked · WebAssembly, [2-9] threads/);
  const { answer } = await ask(page, "Describe the image.");

  const session = await page.context().newCDPSession(page);
  const { installabilityErrors: errors } = await session.send("Page.getInstallabilityErrors");
  assert.deepEqual(errors.map(({ errorId }) => errorId), ["in-incognito"]); // as Playwright opens pages

  const wasm = host.seen.filter(({ path }) => /\.wasm(\.gz)?$/.test(path));
  assert.deepEqual(wasm.map(({ path }) => path.split("/").at(-1)), ["ort-wasm-simd-threaded.wasm.gz"]);
  assert.ok(wasm[0].bytes < 0.3 * statSync(WASM).size, `${wasm[0].bytes} of ${statSync(WASM).size}`);

  host.seen.length = 0;
  await page.reload();
  await settled(page);
  assert.equal((await ask(page, "Describe the image.")).answer, answer);
  assert.equal(bytes(host.seen), 0, JSON.stringify(host.seen));
  // the browser asks whether there is another version, and is told that there is none
  assert.deepEqual(host.seen.filter(({ path }) => path !== "/service_worker.js"), []);

  await host.stop();
  await page.reload();
  await settled(page);
  assert.equal((await ask(page, "Describe the image.")).answer, answer);
  await page.click("#self-test");
  await page.locator("#self-test-result.good").waitFor();
  await page.screenshot({ path: join(SCREENS, "phone-offline.png"), fullPage: true });
  assert.deepEqual(page.trouble.filter((line) => !/ERR_CONNECTION_REFUSED|ERR_FAILED|An unknown error/.test(line)), []);
  await page.context().close();
});

test("what the browser kept is checked: a damaged file is fetched again, a removed bundle is dropped", async () => {
  const host = await hostStatic(OUT);
  const page = await openPage(browser, host.origin);
  const damaged = await page.evaluate(async () => {
    await caches.open(`himix bundle ${document.baseURI}bundles/gone/`);
    const name = (await caches.keys()).find((each) => each.startsWith("himix bundle ") && !each.includes("gone"));
    const cache = await caches.open(name);
    const sizes = await Promise.all((await cache.keys()).map(async (key) => [key, (await (await cache.match(key)).arrayBuffer()).byteLength]));
    const [key, size] = sizes.sort((a, b) => b[1] - a[1])[0];
    await cache.put(key, new Response(new Uint8Array(size)));
    return key.url;
  });
  host.seen.length = 0;
  await page.reload();
  assert.match(await settled(page), /every hash checked/);
  const fetched = host.seen.map(({ path }) => path.split("/").at(-1)).filter((name) => name !== "service_worker.js");
  assert.deepEqual(fetched, ["decoder.onnx"], damaged);
  assert.equal(await page.evaluate(async () => (await caches.keys()).some((name) => name.includes("gone"))), false);
  await page.context().close();
  await host.stop();
});

test("another version of the page: only what changed is fetched, and it is there when the user wants it", async () => {
  const host = await hostStatic(OUT);
  const page = await openPage(browser, host.origin);
  assert.ok(await page.isHidden("#newer"));
  appendFileSync(join(OUT, "style.css"), "\n/* changed */\n");
  const script = "import sys; sys.path.insert(0, '.'); import dist; dist.list_files(dist.Path(sys.argv[1]))";
  execFileSync(process.env.PYTHON ?? "python3", ["-c", script, OUT]);
  host.seen.length = 0;
  await page.evaluate(async () => (await navigator.serviceWorker.getRegistration()).update());
  await page.locator("#newer:visible").waitFor();
  const fetched = host.seen.filter(({ status }) => status === 200).map(({ path }) => path);
  assert.deepEqual(fetched.sort(), ["/service_worker.js", "/style.css"]);
  const style = () => page.evaluate(async () => (await (await fetch("style.css")).text()).includes("changed"));
  assert.equal(await style(), false);
  await Promise.all([page.waitForEvent("load"), page.click("#take-over")]);
  await settled(page);
  assert.equal(await style(), true);
  await page.context().close();
  await host.stop();
});

for (const [name, open] of Object.entries({ Firefox: openFirefox, WebKit: openWebKit })) {
  test(`${name}: threads from a plain static host, a reload transfers nothing, offline it answers`, async () => {
    const host = await hostStatic(OUT);
    const page = await open();
    const opened = () => /bad/.test(document.getElementById("model-status").className) || !document.getElementById("ask").disabled;
    const answers = async () => {
      await page.waitFor(opened);
      assert.match(await page.evaluate(() => document.getElementById("model-status").textContent), /every hash checked/);
      await page.evaluate(() => document.getElementById("ask").click());
      await page.waitFor(() => document.querySelector(".facts")?.textContent);
      return page.evaluate(() => document.querySelector(".answer").textContent.trim());
    };
    await page.goto(`${host.origin}/`);
    await page.waitFor(() => self.crossOriginIsolated && !!document.getElementById("ask"));
    assert.equal(await answers(), "yellow");
    host.seen.length = 0;
    await page.reload();
    assert.equal(await answers(), "yellow");
    // WebKit reads the service worker anew to see whether it has changed; the others get a 304
    const asked = host.seen.filter(({ path }) => path !== "/service_worker.js");
    assert.deepEqual(asked, []);
    assert.ok(bytes(host.seen) <= (name === "WebKit" ? statSync(join(OUT, "service_worker.js")).size : 0));
    await host.stop();
    await page.reload();
    assert.equal(await answers(), "yellow");
    await page.close();
  });
}

test("dist.py says in a line what cannot be made", () => {
  const refused = (...args) => {
    const { status, stderr } = spawnSync(process.env.PYTHON ?? "python3", ["dist.py", ...args], { encoding: "utf8" });
    assert.equal(stderr.trim().split("\n").length, 1, stderr);
    return [status, stderr];
  };
  const out = join(FOLDER, "never");
  const [none, said] = refused("no such bundle", "--out", out);
  assert.ok(none === 2 && said.includes("no such bundle"), said);
  const [damaged, why] = refused(file("hostile/bundles/flipped-byte"), "--out", out);
  assert.ok(damaged === 3 && why.includes("decoder.onnx"), why);
  const [occupied, what] = refused(bundle("int8"), "--out", FOLDER);
  assert.ok(occupied === 2 && what.includes("web-tests"), what);
});
