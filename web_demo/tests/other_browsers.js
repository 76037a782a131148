// Firefox by WebDriver BiDi, and WebKitGTK's MiniBrowser by WebKitWebDriver. What both give: a page with goto,
// reload, evaluate(function, argument), waitFor(function), screenshot(path) and close.

import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";

import puppeteer from "puppeteer-core";

const FIREFOX = process.env.FIREFOX ?? "/usr/bin/firefox-esr";
const DRIVER = process.env.WEBKIT_DRIVER ?? "/usr/bin/WebKitWebDriver";
const MINIBROWSER = process.env.MINIBROWSER ?? "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser";
const LONGEST = 300_000; // milliseconds for one call

export async function openFirefox() {
  need(FIREFOX, "firefox-esr", "FIREFOX");
  const browser = await puppeteer.launch({ browser: "firefox", executablePath: FIREFOX, protocolTimeout: LONGEST });
  const page = await browser.newPage();
  page.setDefaultTimeout(LONGEST);
  return {
    version: await browser.version(),
    goto: (url) => page.goto(url),
    reload: () => page.reload(),
    evaluate: (work, argument) => page.evaluate(work, argument),
    waitFor: (condition) => page.waitForFunction(condition),
    screenshot: (path) => page.screenshot({ path }),
    close: () => browser.close(),
  };
}

export async function openWebKit() {
  need(DRIVER, "webkit2gtk-driver", "WEBKIT_DRIVER");
  need(MINIBROWSER, "webkit2gtk-driver", "MINIBROWSER");
  const port = await freePort();
  // the sandbox needs namespaces that a container does not have
  const env = { ...process.env, WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1", WEBKIT_DISABLE_COMPOSITING_MODE: "1" };
  const driver = spawn(DRIVER, [`--port=${port}`], { stdio: "ignore", env });
  const call = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`WebKitWebDriver: ${value?.error}: ${value?.message}`);
    return value;
  };
  await until(() => call("GET", "/status").catch(() => null));
  const options = { binary: MINIBROWSER, args: ["--automation"] };
  const capabilities = { alwaysMatch: { "webkitgtk:browserOptions": options } };
  const { sessionId, capabilities: found } = await call("POST", "/session", { capabilities });
  const at = `/session/${sessionId}`;
  await call("POST", `${at}/timeouts`, { script: LONGEST, pageLoad: LONGEST });
  const evaluate = async (work, argument) => {
    const script = `const done = arguments[1];
      Promise.resolve((${work})(arguments[0])).then((value) => done({ value }), (error) => done({ error: String(error) }));`;
    const { value, error } = await call("POST", `${at}/execute/async`, { script, args: [argument ?? null] });
    if (error) throw new Error(error);
    return value;
  };
  return {
    version: `WebKitGTK ${found.browserVersion}`,
    goto: (url) => call("POST", `${at}/url`, { url }),
    reload: () => call("POST", `${at}/refresh`, {}),
    evaluate,
    waitFor: (condition) => until(() => evaluate(condition)),
    screenshot: async (path) => writeFileSync(path, Buffer.from(await call("GET", `${at}/screenshot`), "base64")),
    close: async () => {
      await call("DELETE", at).catch(() => {}); // it may have ended by itself
      driver.kill();
    },
  };
}

function need(path, packageName, variable) {
  if (!existsSync(path)) throw new Error(`${path}: not there; apt-get install ${packageName}, or set ${variable}`);
}

async function until(condition) {
  const end = Date.now() + LONGEST;
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`waited ${LONGEST / 1000} s for ${condition}`);
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
