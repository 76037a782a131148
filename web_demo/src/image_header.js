// What an image file says of itself, read before the browser decodes it: the sizes that are refused, and the kinds that
// browsers decode to other pixels than himix-edge's Python does.

import { InputError } from "./errors.js";

export const MAX_PIXELS = 100_000_000;
const MAX_SIDE = 65_535;

/** Throws an InputError for an image that is too large, cut off, or of a kind that would look different. */
export function checkImage(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wrong = (what) => new InputError(`${name}: ${what}`);
  const tag = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  try {
    if (tag(1) === "PNG\r") png(view, tag, wrong);
    else if (bytes[0] === 0xff && bytes[1] === 0xd8) jpeg(view, bytes, wrong);
    else if (tag(0) === "GIF8") checkSize(view.getUint16(6, true), view.getUint16(8, true), wrong);
    else if (tag(0) === "RIFF" && view.getUint32(4, true) + 8 > bytes.length) throw cutOff(wrong);
    else if (tag(0) === "RIFF") webp(view, tag, wrong);
    else if (tag(0).startsWith("BM") && view.getUint32(14, true) >= 40) checkSize(view.getInt32(18, true), Math.abs(view.getInt32(22, true)), wrong);
    else if (tag(4) === "ftyp" && /heic|heix|hevc|mif1|msf1/.test(tag(8))) {
      throw wrong("HEIC is not read here; save it as JPEG or PNG");
    }
  } catch (error) {
    if (error instanceof RangeError) throw cutOff(wrong); // a field beyond the end
    throw error;
  }
}

/** Throws for no pixels, over 100 megapixels, or a side over 65,535; `wrong` makes the error. */
export function checkSize(width, height, wrong) {
  if (!(width >= 1 && height >= 1)) throw wrong("the image has no pixels");
  if (Math.max(width, height) > MAX_SIDE || width * height > MAX_PIXELS) {
    const limit = `${MAX_PIXELS / 1e6} megapixels or with a side over ${MAX_SIDE}`;
    throw wrong(`${width} x ${height} pixels; images over ${limit} are refused, scale it down first`);
  }
}

const cutOff = (wrong) => wrong("a damaged image: it is cut off");

function png(view, tag, wrong) {
  checkSize(view.getUint32(16), view.getUint32(20), wrong);
  if (view.getUint8(24) === 16) throw wrong("a PNG with 16 bits a channel, which browsers cut off; save it with 8");
  for (let at = 8; ; at += 12 + view.getUint32(at)) {
    view.getUint32(at + 8); // the checksum at the least
    if (tag(at + 4) === "IEND") return;
  }
}

function jpeg(view, bytes, wrong) {
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw wrong("a damaged image");
    while (view.getUint8(at + 1) === 0xff) at += 1; // filling
    const marker = view.getUint8(at + 1);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      checkSize(view.getUint16(at + 7), view.getUint16(at + 5), wrong);
      if (view.getUint8(at + 9) === 4) throw wrong("a CMYK image, which browsers show in other colors; save it as RGB");
    }
    at += 2 + Math.max(2, view.getUint16(at + 2));
    if (marker !== 0xda) continue;
    // behind the first scan an end marker can only be one: 0xFF in the data is followed by 0
    for (let end = bytes.indexOf(0xff, at); end >= 0; end = bytes.indexOf(0xff, end + 1)) {
      if (bytes[end + 1] === 0xd9) return;
    }
    throw cutOff(wrong);
  }
}

function webp(view, tag, wrong) {
  if (tag(12) === "VP8X") checkSize((view.getUint32(24, true) & 0xffffff) + 1, (view.getUint32(26, true) >>> 8) + 1, wrong);
}
