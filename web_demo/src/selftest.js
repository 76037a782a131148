// A bundle's self-test: one image, one prompt, the exact answer it has to give on any device.

import { sha256 } from "./bundle.js";

/**
 * @param loadPixels async (Blob, preprocessing) -> Uint8Array (S, S, 3)
 * @returns {passed, pixels: "equal" or "differ", tokens: the ids given, answer, expected: texts}
 */
export async function selfTest(session, bundle, loadPixels) {
  const { selftest: test, preprocessing } = bundle.manifest;
  const pixels = await loadPixels(new Blob([bundle.files.get(test.image)]), preprocessing);
  const samePixels = (await sha256(pixels)) === test.pixels_sha256;
  const image = await session.encodeImage(async () => pixels);
  const pieces = [];
  const options = { maxNewTokens: test.token_ids.length + (test.ends === false ? 0 : 1), temperature: 0 };
  for await (const piece of session.chat(image).send(test.prompt, options)) pieces.push(piece);
  const tokens = pieces.map((piece) => piece.tokenId);
  return {
    // random weights are not surer of an answer than devices round differently
    passed: samePixels && (tokens.join() === test.token_ids.join() || test.decisive === false),
    pixels: samePixels ? "equal" : "differ",
    tokens,
    answer: pieces.map((piece) => piece.text).join(""),
    expected: test.text,
  };
}
