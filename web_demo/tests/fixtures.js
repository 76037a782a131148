// What fixtures.py wrote.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const FOLDER = resolve(process.env.WEB_FIXTURES ?? "../build/web-tests");
export const BUNDLES = (process.env.WEB_BUNDLES ?? "").split(" ").filter(Boolean).map((path) => resolve(path));

export const HOSTILE = join(FOLDER, "hostile");

export const hostile = () => JSON.parse(readFileSync(join(HOSTILE, "hostile.json"), "utf8"));
export const readJson = (name) => JSON.parse(readFileSync(join(FOLDER, name), "utf8"));
export const base64 = (name) => readFileSync(join(FOLDER, "images", name)).toString("base64");
export const bundle = (precision) => BUNDLES.find((path) => path.endsWith(`-${precision}`));
