// From an image file to the S x S pixels of the vision encoder: the browser decodes and turns it upright, this module
// lays it over white, and resize.js does the rest.

import { InputError } from "./errors.js";
import { checkImage, checkSize } from "./image_header.js";
import { resize } from "./resize.js";

const MAX_FILE_BYTES = 256 << 20;

/**
 * @param file a Blob (PNG, JPEG, WebP, GIF, BMP, ... whatever the browser decodes), or an ImageBitmap.
 * @param preprocessing the manifest's `preprocessing`.
 * @returns Uint8Array (S, S, 3), RGB.
 */
export async function loadPixels(file, preprocessing) {
  const bitmap = await decode(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  try {
    const resample = preprocessing.method === "pillow-bicubic-squash" ? "bicubic" : "bilinear";
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
  const name = file.name || "image";
  if (file.size > MAX_FILE_BYTES) throw new InputError(`${name}: over ${MAX_FILE_BYTES >> 20} MiB; scale it down first`);
  const unreadable = () => {
    throw new InputError(`${name}: not an image that this browser can read`);
  };
  checkImage(new Uint8Array(await file.arrayBuffer().catch(unreadable)), name);
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", ...options }).catch(unreadable);
  try {
    checkSize(bitmap.width, bitmap.height, (what) => new InputError(`${name}: ${what}`));
  } catch (error) {
    bitmap.close();
    throw error;
  }
  return bitmap;
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
