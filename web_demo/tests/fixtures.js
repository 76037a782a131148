// The conformance suite (conformance/README.md), and what run.sh put beside it.

import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";

export const FOLDER = resolve(process.env.WEB_FIXTURES ?? "../build/web-tests");
export const BUNDLES = (process.env.WEB_BUNDLES ?? "").split(" ").filter(Boolean).map((path) => resolve(path));

/** Where a file of the suite is. */
export const file = (path) => join(FOLDER, "suite", path);
export const readJson = (name) => JSON.parse(readFileSync(file(name), "utf8"));
export const base64 = (path) => readFileSync(file(path)).toString("base64");
export const hostile = () => readJson("hostile.json");
export const bundle = (precision) => BUNDLES.find((path) => path.endsWith(`-${precision}`));

/** Questions and descriptions, with what the Python session answers. */
export function answers(precision) {
  const { questions, descriptions } = readJson(`answers/${basename(bundle(precision))}.json`);
  return [...questions, ...descriptions];
}
