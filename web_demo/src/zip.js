// Reading zip files (PKWARE APPNOTE 6.3): stored and deflated entries, found through the central directory.

import { InputError } from "./errors.js";

const MAX_ENTRIES = 1000;
const MAX_DIRECTORY = 4 << 20;
const END = 0x06054b50, CENTRAL = 0x02014b50, LOCAL = 0x04034b50; // prettier-ignore

/** Map of path -> {crc, stream()}: its bytes as a ReadableStream. Throws an InputError for anything but a plain zip. */
export async function readZip(file) {
  const bad = (why) => new InputError(`${file.name}: ${why}`);
  const tailAt = Math.max(0, file.size - 65557); // the end record and the longest comment behind it
  const tail = await view(file, tailAt, file.size);
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== END) end--;
  if (end < 0) throw bad("not a zip file, or a truncated one");
  const count = tail.getUint16(end + 10, true);
  const size = tail.getUint32(end + 12, true);
  const start = tail.getUint32(end + 16, true);
  if (count > MAX_ENTRIES || size > MAX_DIRECTORY || start + size > file.size) throw bad("damaged, or no bundle: its directory is out of range");
  const directory = await view(file, start, start + size);
  const entries = new Map();
  for (let at = 0, i = 0; i < count; i++) {
    if (at + 46 > size || directory.getUint32(at, true) !== CENTRAL) throw bad("its directory is damaged");
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((offset) => directory.getUint16(at + offset, true));
    if (at + 46 + nameSize > size) throw bad("its directory is damaged");
    const name = new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, nameSize));
    const method = directory.getUint16(at + 10, true);
    const packed = directory.getUint32(at + 20, true);
    const offset = directory.getUint32(at + 42, true);
    if (entries.has(name)) throw bad(`two entries are called ${name}; refused`);
    if (directory.getUint16(at + 8, true) & 1) throw bad("it is encrypted; refused");
    const crc = directory.getUint32(at + 16, true);
    entries.set(name, { crc, stream: () => open(file, { name, method, packed, offset }) });
    at += 46 + nameSize + extraSize + commentSize;
  }
  return entries;
}

async function open(file, { name, method, packed, offset }) {
  if (offset + 30 > file.size) throw new InputError(`${file.name}/${name}: damaged`);
  const local = await view(file, offset, offset + 30);
  if (local.getUint32(0, true) !== LOCAL) throw new InputError(`${file.name}/${name}: damaged`);
  const start = offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const raw = file.slice(start, start + packed).stream();
  if (method === 0) return raw;
  if (method === 8) return raw.pipeThrough(new DecompressionStream("deflate-raw"));
  throw new InputError(`${file.name}/${name}: packed by method ${method}; only stored and deflated entries are read`);
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** The checksum that a zip has of an entry's bytes. */
export function crc32(bytes) {
  let crc = ~0;
  for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const view = async (file, from, to) => new DataView(await file.slice(from, to).arrayBuffer());
