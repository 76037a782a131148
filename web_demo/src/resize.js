// Pillow's resize for 8-bit RGB, bit for bit: coefficients in fixed point with 22 fraction bits, horizontal pass first,
// each pass rounded to 8 bit. See himix_edge/preprocess.py.

const PRECISION_BITS = 22;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

/** Keys' cubic with a = -0.5. */
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((x - 5) * x + 8) * x * -0.5 - -0.5 * 4;
  return 0;
}

/**
 * Resize an RGB image to S x S without keeping its aspect ratio.
 *
 * @param image {width, height, rows(from, to)}; rows gives Uint8Array ((to - from) * width * 3), RGB, and is called
 *   from top to bottom, once for each row.
 * @param size S, in pixels.
 * @param resample "bilinear" or "bicubic".
 * @returns Uint8Array (S, S, 3)
 */
export function resize(image, size, resample) {
  const filter = FILTERS[resample];
  const { width, height } = image;
  const square = new Uint8Array(size * size * 3);
  const down = height === size ? null : coefficients(height, size, filter);
  const sums = new Int32Array(down ? square.length : 0).fill(1 << (PRECISION_BITS - 1));
  const across = width === size ? null : coefficients(width, size, filter);
  const band = Math.max(1, Math.floor((1 << 22) / width));
  for (let from = 0; from < height; from += band) {
    const to = Math.min(height, from + band);
    const rows = image.rows(from, to);
    const narrow = across ? new Uint8Array((to - from) * size * 3) : rows;
    if (across) horizontal(rows, width, narrow, size, across);
    if (down) vertical(narrow, from, to, size, down, sums);
    else square.set(narrow, from * size * 3);
  }
  sums.forEach((sum, i) => (square[i] = clip(sum)));
  return square;
}

/** For each output pixel: the first input pixel it reads, and the fixed-point weights. */
function coefficients(inputs, outputs, filter) {
  const scale = inputs / outputs;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const invert = 1 / stretch;
  return Array.from({ length: outputs }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inputs, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, x) => filter.weight((x + first - center + 0.5) * invert));
    const sum = weights.reduce((a, b) => a + b, 0);
    const fixed = weights.map((weight) => {
      const exact = (sum ? weight / sum : weight) * (1 << PRECISION_BITS);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    return { first, weights: Int32Array.from(fixed) };
  });
}

function horizontal(input, width, output, size, across) {
  const rows = output.length / (size * 3);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < size; x++) {
      const { first, weights } = across[x];
      weighted(input, (y * width + first) * 3, 3, weights, output, (y * size + x) * 3);
    }
  }
}

/** Adds rows `from` to `to` to the sums of the output rows that they count for. */
function vertical(rows, from, to, size, down, sums) {
  const stride = size * 3;
  down.forEach(({ first, weights }, y) => {
    const last = Math.min(to, first + weights.length);
    for (let row = Math.max(from, first); row < last; row++) {
      const weight = weights[row - first];
      const [at, sum] = [(row - from) * stride, y * stride];
      for (let x = 0; x < stride; x++) sums[sum + x] += rows[at + x] * weight;
    }
  });
}

function weighted(input, from, step, weights, output, to) {
  let red = 1 << (PRECISION_BITS - 1);
  let green = red;
  let blue = red;
  for (let i = 0, at = from; i < weights.length; i++, at += step) {
    const weight = weights[i];
    red += input[at] * weight;
    green += input[at + 1] * weight;
    blue += input[at + 2] * weight;
  }
  output[to] = clip(red);
  output[to + 1] = clip(green);
  output[to + 2] = clip(blue);
}

/** Shifted back to 8 bit; the sums stay below 2^31. */
function clip(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
