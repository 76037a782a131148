// From an image file to the S x S pixels of the vision encoder: png.js or the browser decodes it and turns it upright,
// this module lays it over white, and resize.js does the rest.

import { InputError } from "./errors.js";
import { checkImage, checkSize } from "./image_header.js";
import { decodePng, isPng, uprightRows } from "./png.js";
import { resize } from "./resize.js";

const MAX_FILE_BYTES = 256 << 20;

/**
 * @param file a Blob (PNG, JPEG, WebP, GIF, BMP, ... whatever the browser decodes), or an ImageBitmap.
 * @param preprocessing the manifest's `preprocessing`.
 * @returns Uint8Array (S, S, 3), RGB.
 */
export async function loadPixels(file, preprocessing) {
  const resample = preprocessing.method === "pillow-bicubic-squash" ? "bicubic" : "bilinear";
  const content = file instanceof Blob ? await checked(file) : undefined;
  if (content && isPng(content)) {
    return resize(uprightRows(await decodePng(content, nameOf(file)), over), preprocessing.image_size, resample);
  }
  const bitmap = await decode(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  try {
    return resize(overWhite(bitmap), preprocessing.image_size, resample);
  } finally {
    bitmap.close();
  }
}

/**
 * The upright image as an ImageBitmap. Throws an InputError for what is no image, or too large, or cut off.
 *
 * @param options of createImageBitmap.
 */
export async function decode(file, options = {}) {
  if (!(file instanceof Blob)) return file; // it is decoded
  await checked(file);
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", ...options }).catch(() => unreadable(file));
  try {
    checkSize(bitmap.width, bitmap.height, (what) => new InputError(`${nameOf(file)}: ${what}`));
  } catch (error) {
    bitmap.close();
    throw error;
  }
  return bitmap;
}

/** The file's content, of which the header is sound. */
async function checked(file) {
  if (file.size > MAX_FILE_BYTES) {
    throw new InputError(`${nameOf(file)}: over ${MAX_FILE_BYTES >> 20} MiB; scale it down first`);
  }
  const content = new Uint8Array(await file.arrayBuffer().catch(() => unreadable(file)));
  checkImage(content, nameOf(file));
  return content;
}

const nameOf = (file) => file.name || "image";

function unreadable(file) {
  throw new InputError(`${nameOf(file)}: not an image that this browser can read`);
}

/** An image for `resize`: band by band through a canvas, since browsers bound a canvas's area. */
function overWhite(bitmap) {
  const { width, height } = bitmap;
  return {
    width,
    height,
    rows(from, to) {
      const canvas = new OffscreenCanvas(width, to - from);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, -from);
      return blend(context.getImageData(0, 0, width, to - from).data);
    },
  };
}

/** RGBA over white: RGB, rounded as Pillow's alpha_composite does. */
export function blend(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[from + channel];
      rgb[to + channel] = alpha === 255 ? value : over(value, alpha);
    }
  }
  return rgb;
}

function over(value, alpha) {
  const sum = (value * alpha + 255 * (255 - alpha) + 128) << 7;
  return ((sum >> 8) + sum) >> 15;
}
