// `make web-dist`'s folder behind Python's plain http.server, and a line between that counts what is asked of it.

import { execFileSync, spawn } from "node:child_process";
import { createServer, request } from "node:http";

const PYTHON = process.env.PYTHON ?? "python3";

export function makeDist(out, bundles) {
  execFileSync(PYTHON, ["dist.py", ...bundles, "--out", out]);
}

/** {origin, seen: [{path, status, bytes: of the body}], stop()}. Stopped, it answers no more. */
export async function hostStatic(folder) {
  const child = spawn(PYTHON, ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const port = await new Promise((resolve, reject) => {
    child.stdout.on("data", (data) => String(data).match(/port (\d+)/) && resolve(Number(String(data).match(/port (\d+)/)[1])));
    child.on("exit", (code) => reject(new Error(`http.server ended with ${code}`)));
  });
  const seen = [];
  const line = createServer((incoming, outgoing) => {
    const { method, url: path, headers } = incoming;
    request({ port, host: "127.0.0.1", method, path, headers }, (response) => {
      const entry = { path, status: response.statusCode, bytes: 0 };
      seen.push(entry);
      outgoing.writeHead(response.statusCode, response.headers);
      response.on("data", (data) => (entry.bytes += data.length));
      response.pipe(outgoing);
    }).end();
  });
  await new Promise((resolve) => line.listen(0, "127.0.0.1", resolve));
  const stop = () => {
    child.kill();
    line.closeAllConnections();
    return new Promise((resolve) => line.close(resolve));
  };
  return { origin: `http://localhost:${line.address().port}`, seen, stop };
}
