// How large a bundle may be on this device. A phone ends a page that takes too much, without a word, so a bundle that
// is too large is refused before it is fetched.

const DESKTOP = { bundleBytes: 2 ** 31, floatBytes: 2 ** 30 }; // wasm has 4 GiB; a model is there as file and packed
const SHARE = 16; // of a phone's memory: file, packed weights, caches and picture stay below a quarter of it
const UNTOLD = 4; // GiB taken for a phone that does not say how much it has (Safari, Firefox)

/** What a browser tells of its device: {phone: true or false, memory: GiB, at most 8, or undefined}. */
export function deviceFacts({ userAgent, userAgentData, maxTouchPoints, deviceMemory }) {
  const asksForDesktopPages = /Macintosh/.test(userAgent) && maxTouchPoints > 1; // an iPad; no Mac has a touch screen
  const phone = userAgentData?.mobile || /\b(Android|iPhone|iPad|iPod|Mobile)\b/.test(userAgent) || asksForDesktopPages;
  return { phone, memory: deviceMemory };
}

/**
 * @param device as `deviceFacts` gives it.
 * @returns {bundleBytes: the largest bundle, floatBytes: the most that integer weights may take as float32}
 */
export function limits({ phone, memory } = {}) {
  const gigabytes = memory ?? (phone ? UNTOLD : Infinity);
  const share = (gigabytes * 2 ** 30) / (phone ? SHARE : SHARE / 4);
  return {
    bundleBytes: Math.min(DESKTOP.bundleBytes, share),
    floatBytes: Math.min(DESKTOP.floatBytes, share),
  };
}
