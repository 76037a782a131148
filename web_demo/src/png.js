// PNG files, exactly: browsers round transparent pixels, and some apply a gamma or ignore the orientation. The PNG
// specification (third edition) with 8 bits a channel at most; of an animation the default image.

import { InputError } from "./errors.js";
import { crc32 } from "./zip.js";

const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // of a pixel, by color type
const [GREY, PALETTE, GREY_ALPHA] = [0, 3, 4];
// Adam7: first column and row, steps; the last is the whole image where nothing is interlaced
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]]; // prettier-ignore

export const isPng = (bytes) => bytes.length > 24 && bytes[0] === 0x89 && String.fromCharCode(...bytes.subarray(1, 4)) === "PNG";

/**
 * @param bytes the file, a Uint8Array; image_header.js has checked its size and kind.
 * @returns {width, height, orientation: 1 to 8, samples: Uint8Array (height * width * n), n: samples of a pixel,
 *   color: color type, colors: Uint8Array RGBA of each palette entry, clear: the pixel value that is transparent}
 * @throws InputError for a damaged file.
 */
export async function decodePng(bytes, name) {
  const damaged = () => new InputError(`${name}: a damaged image`);
  const chunks = readChunks(bytes, damaged);
  const header = chunks.get("IHDR")?.[0];
  if (header?.length !== 13 || !chunks.has("IDAT")) throw damaged();
  const view = new DataView(header.buffer, header.byteOffset, 13);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [bits, color, interlaced] = [header[8], header[9], header[12]];
  const n = SAMPLES[color];
  const known = n && ([GREY, PALETTE].includes(color) ? [1, 2, 4, 8] : [8]).includes(bits) && interlaced <= 1;
  if (!known || header[10] || header[11]) throw damaged();
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]])
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, w: Math.ceil((width - x) / dx), h: Math.ceil((height - y) / dy) }))
    .filter(({ w, h }) => w > 0 && h > 0);
  const rowBytes = (w) => Math.ceil((w * n * bits) / 8);
  const packed = await inflate(chunks.get("IDAT"), passes.reduce((sum, { w, h }) => sum + h * (1 + rowBytes(w)), 0), damaged);
  const samples = new Uint8Array(width * height * n);
  let at = 0;
  for (const { x, y, dx, dy, w, h } of passes) {
    const length = rowBytes(w);
    let above = new Uint8Array(length);
    for (let row = 0; row < h; row++, at += 1 + length) {
      const line = packed.subarray(at + 1, at + 1 + length);
      unfilter(packed[at], line, above, Math.max(1, (n * bits) >> 3), damaged);
      spread(line, bits, w * n, samples, ((y + row * dy) * width + x) * n, n, dx * n);
      above = line;
    }
  }
  if (color === GREY && bits < 8) scale(samples, 255 / ((1 << bits) - 1));
  const transparency = chunks.get("tRNS")?.[0];
  return {
    width, height, n, color, samples,
    orientation: orientationOf(chunks.get("eXIf")?.[0]),
    colors: color === PALETTE ? paletteOf(chunks.get("PLTE")?.[0], transparency, samples, damaged) : undefined,
    clear: color === GREY || color === 2 ? clearOf(transparency, n, color === GREY ? 255 / ((1 << bits) - 1) : 1) : undefined,
  }; // prettier-ignore
}

/** An image for resize.js: upright, over white. `over` blends a value by an alpha. */
export function uprightRows({ width, height, orientation, samples, n, color, colors, clear }, over) {
  const turned = orientation >= 5;
  const [w, all] = [turned ? height : width, width * height];
  const [base, dx, dy] = {
    1: [0, 1, width], 2: [width - 1, -1, width], 3: [all - 1, -1, -width], 4: [all - width, 1, -width],
    5: [0, width, 1], 6: [all - width, -width, 1], 7: [all - 1, -width, -1], 8: [width - 1, width, -1],
  }[orientation]; // prettier-ignore
  const blend = (value, alpha) => (alpha === 255 ? value : over(value, alpha));
  const grey = color === GREY || color === GREY_ALPHA;
  return {
    width: w,
    height: turned ? width : height,
    rows(from, to) {
      const rgb = new Uint8Array((to - from) * w * 3);
      for (let y = from, out = 0; y < to; y++) {
        for (let x = 0; x < w; x++, out += 3) {
          let [values, at, alpha] = [samples, (base + x * dx + y * dy) * n, 255];
          if (colors) {
            [values, at] = [colors, samples[at] * 4];
            alpha = colors[at + 3];
          } else if (clear) {
            alpha = clear.every((value, i) => samples[at + i] === value) ? 0 : 255;
          } else if (n === 2 || n === 4) {
            alpha = samples[at + n - 1];
          }
          for (let c = 0; c < 3; c++) rgb[out + c] = blend(values[grey ? at : at + c], alpha);
        }
      }
      return rgb;
    },
  };
}

/** Contents by type; critical ones with a wrong checksum throw. */
function readChunks(bytes, damaged) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = new Map();
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw damaged();
    const critical = ["IHDR", "PLTE", "IDAT"].includes(type);
    if (critical && crc32(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) throw damaged();
    if (type === "IEND") break;
    if (!found.has(type)) found.set(type, []);
    found.get(type).push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return found;
}

/** Exactly `size` bytes; what a stream holds beyond them is never unpacked. */
async function inflate(parts, size, damaged) {
  const all = new Uint8Array(size);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let at = 0;
  while (at < size) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) throw damaged();
    all.set(value.subarray(0, size - at), at);
    at += value.length;
  }
  await reader.cancel().catch(() => {}); // its rest may be damaged; it is not wanted
  return all;
}

/** Undo a row's filter in place. `step`: bytes of a pixel, at least 1. */
function unfilter(filter, line, above, step, damaged) {
  const count = line.length;
  if (filter > 4) throw damaged();
  if (filter === 1) for (let i = step; i < count; i++) line[i] += line[i - step];
  if (filter === 2) for (let i = 0; i < count; i++) line[i] += above[i];
  if (filter === 3) for (let i = 0; i < count; i++) line[i] += ((i < step ? 0 : line[i - step]) + above[i]) >> 1;
  if (filter === 4) {
    for (let i = 0; i < count; i++) line[i] += i < step ? above[i] : paeth(line[i - step], above[i], above[i - step]);
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/** A row's `count` samples into `samples`, pixel by pixel `step` apart. */
function spread(line, bits, count, samples, at, n, step) {
  if (bits === 8 && step === n) return samples.set(line, at);
  const mask = (1 << bits) - 1;
  for (let i = 0; i < count; i++) {
    const first = i * bits;
    const value = bits === 8 ? line[i] : (line[first >> 3] >> (8 - bits - (first & 7))) & mask;
    samples[at + Math.floor(i / n) * step + (i % n)] = value;
  }
}

function scale(samples, factor) {
  for (let i = 0; i < samples.length; i++) samples[i] *= factor;
}

/** RGBA of each entry; a pixel without an entry is damage. */
function paletteOf(palette, transparency, samples, damaged) {
  if (!palette || palette.length % 3) throw damaged();
  const count = palette.length / 3;
  if (samples.some((index) => index >= count)) throw damaged();
  return Uint8Array.from({ length: count * 4 }, (_, i) =>
    i % 4 < 3 ? palette[(i >> 2) * 3 + (i % 4)] : (transparency?.[i >> 2] ?? 255),
  );
}

/** The one value, n samples, that is transparent. */
function clearOf(transparency, n, factor) {
  if (transparency?.length !== 2 * n) return undefined;
  return Array.from({ length: n }, (_, i) => ((transparency[2 * i] << 8) | transparency[2 * i + 1]) * factor);
}

/** EXIF's orientation, 1 where there is none that makes sense. */
function orientationOf(exif) {
  if (!exif || exif.length < 14) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  const little = view.getUint16(0) === 0x4949;
  const first = view.getUint32(4, little);
  if (first + 2 > exif.length) return 1;
  const count = view.getUint16(first, little);
  for (let i = 0, at = first + 2; i < count && at + 12 <= exif.length; i++, at += 12) {
    if (view.getUint16(at, little) !== 0x0112) continue;
    const value = view.getUint16(at + 8, little);
    return view.getUint16(at + 2, little) === 3 && value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}
