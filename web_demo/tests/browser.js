// A server with the page and bundles, and Chromium in front of it.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";

import { chromium } from "playwright-core";

const PATH = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]; // prettier-ignore
export const NO_GPU = ["--disable-gpu"];
export const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/** Start serve.py on a free port: {origin, stop()}. */
export async function serve(bundles) {
  const python = process.env.PYTHON ?? "python3";
  const child = spawn(python, ["serve.py", ...bundles, "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
  const origin = await new Promise((resolve, reject) => {
    child.stdout.on("data", (data) => {
      const address = String(data).match(/http:\/\/localhost:\d+/);
      if (address) resolve(address[0]);
    });
    child.on("exit", (code) => reject(new Error(`serve.py ended with ${code}`)));
  });
  return { origin, stop: () => child.kill() };
}

export function launch(flags = NO_GPU) {
  if (!existsSync(PATH)) throw new Error(`${PATH}: no browser; apt-get install chromium, or set CHROMIUM`);
  return chromium.launch({ executablePath: PATH, args: [...FLAGS, ...flags] });
}

/**
 * A page whose model is open (or was refused). It collects what must not happen: `page.trouble` holds console errors,
 * page errors and requests that leave the origin.
 */
export async function openPage(browser, origin, query = "", options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.trouble = [];
  page.on("console", (message) => message.type() === "error" && page.trouble.push(message.text()));
  page.on("pageerror", (error) => page.trouble.push(error.message));
  context.on("request", (request) => {
    const own = [`${origin}/`, "blob:", "data:"].some((start) => request.url().startsWith(start));
    if (!own) page.trouble.push(`request to ${request.url()}`);
  });
  await page.goto(`${origin}/${query}`);
  await settled(page);
  return page;
}

/** Wait until a bundle is open or refused; returns the status line. */
export async function settled(page) {
  const status = page.locator("#model-status");
  await page.waitForFunction(
    () => {
      const { className, textContent } = document.getElementById("model-status");
      return !document.getElementById("ask").disabled || className.includes("bad") || textContent.startsWith("No bundle");
    },
    null,
    { timeout: 120_000 },
  );
  return status.textContent();
}

/** Ask through the form, wait for the end; returns the last turn's {answer, facts}. */
export async function ask(page, prompt) {
  const turns = await page.locator(".turn").count();
  await page.fill("#prompt", prompt);
  await page.press("#prompt", "Enter");
  const turn = page.locator(".turn").nth(turns);
  await turn.locator(".facts:not(:empty)").waitFor({ timeout: 120_000 });
  return { answer: await turn.locator(".answer").textContent(), facts: await turn.locator(".facts").textContent() };
}
