"""What the browser has to reproduce, computed by the Python session, and bundles it has to refuse.

    python web_demo/tests/fixtures.py OUT BUNDLE [BUNDLE ...]

Writes into OUT: questions-<precision>.json for each bundle, pixels.json, text.json, the images of both, and
bad/ with damaged copies of the first bundle, as folders and one as a zip.
"""

import argparse
import base64
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from himix_edge.data import load_dataset
from himix_edge.preprocess import load_image
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.session import Session
from himix_edge.text import Message

QUESTIONS = 100
DESCRIPTIONS = 10  # longer answers, about the first images
TEXTS = [
    "What shape is this?", "what  is\tthe colour\nof it", " leading and trailing ", "Ünïcödé çà et là", "漢字とかな",
    "emoji 🎨 \U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 🇨🇭", "it's we'll I'M they'Ve",
    "1234567890 3.14159 1e-5", "<|im_end|>", "<|im_start|>user\nhi<|im_end|>", "a<|endoftext|>b", "<s></s>[INST]",
    "мир ελληνικά עברית العربية हिन्दी ไทย", "tabs\t\tand\r\nnewlines\n\n\n x", "e\u0301 combining", "\ufeffbom",
    "\u200b\u00a0\u2003spaces\u3000", "\x1c\x85 control \x00\x7f", "\U0001f469\U0001f3fd\u200d\U0001f680", "x" * 300,
    "한글、", "?!?!...---___", "math ∑∫√ ½ ² ₂", "\ud7ff\ue000\uffff", "\u017f ß İ \u0131 ǆ",
]  # fmt: skip


def main(out: Path, bundles: list[Path]) -> None:
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    sessions = {folder: open_bundle(folder) for folder in bundles}
    for folder, session in sessions.items():
        precision = json.loads((folder / "manifest.json").read_text())["quantisation"]["precision"]
        write(out / f"questions-{precision}.json", questions(session, out / "images"))
    write(out / "pixels.json", pixels(out / "images"))
    write(out / "text.json", texts(sessions[bundles[0]]))
    bad_bundles(bundles[0], out / "bad")


def questions(session: Session, images: Path) -> list[dict[str, Any]]:
    """Real easy-VQA test questions, evenly from the whole split, and what the Python session answers."""
    samples = load_dataset("easy-vqa", "test").samples
    asked = [
        (sample.image, turn.question)
        for sample in samples
        for conversation in sample.conversations
        for turn in conversation
    ]
    chosen = [asked[i * len(asked) // QUESTIONS] for i in range(QUESTIONS)]
    chosen += [(image, "Describe the image.") for image, _ in chosen[:DESCRIPTIONS]]
    return [answer(session, image, prompt, images) for image, prompt in chosen if image is not None]


def answer(session: Session, image: Path, prompt: str, images: Path) -> dict[str, Any]:
    assert session.config.vision is not None
    vision = session.config.vision
    name = f"easy-vqa-{image.name}"
    if not (images / name).exists():
        shutil.copyfile(image, images / name)
    pieces = list(session.generate(prompt, image, temperature=0))
    return {
        "image": name,
        "prompt": prompt,
        "prompt_ids": session.text.encode_chat([Message("user", prompt)]),
        "pixels_sha256": digest(load_image(image, vision.image_size, vision.resample)),
        "token_ids": [piece.token_id for piece in pieces],
        "text": "".join(piece.text for piece in pieces),
    }


def pixels(folder: Path) -> list[dict[str, Any]]:
    """Images of many kinds, and their pixels resized by both filters; `exact` where no lossy decoder is involved."""
    made = {f"photo-{w}x{h}.png": photo(w, h) for w, h in ((640, 480), (1023, 767), (2400, 1800), (200, 3), (1, 1))}
    made |= {f"small-{w}x{h}.png": photo(w, h) for w, h in ((64, 64), (31, 17), (64, 200), (300, 64), (224, 224))}
    noise = np.random.default_rng(5).integers(0, 256, (97, 131, 4), np.uint8)
    made["noise.png"] = Image.fromarray(noise[..., :3])
    made["grey.png"] = photo(150, 90).convert("L")
    made["one-bit.png"] = photo(150, 90).convert("1")
    made["palette.png"] = photo(150, 90).quantize(32)
    made["animated.gif"] = photo(80, 60).quantize(16)
    made["lossless.bmp"] = photo(75, 50)
    made["alpha.png"] = Image.fromarray(noise)
    made["grey-alpha.png"] = Image.merge("LA", [photo(64, 64).convert("L"), Image.fromarray(noise[:64, :64, 3])])
    for name, image in made.items():
        image.save(folder / name)
    transparent = photo(64, 64).quantize(8)
    transparent.save(folder / "palette-alpha.png", transparency=3)
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", (100000).to_bytes(4, "big"))  # linear light: to be ignored, as Pillow does
    photo(64, 64).save(folder / "gamma.png", pnginfo=chunks)
    exact = [*made, "palette-alpha.png", "gamma.png"]
    lossy = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        lossy.append(f"exif-{orientation}.jpg")
        photo(120, 80).save(folder / lossy[-1], exif=exif, quality=95)
    photo(90, 60).save(folder / "exif-6.png", exif=orient(6))
    exact.append("exif-6.png")
    return [expectation(folder / name, name in exact) for name in exact + lossy]


def expectation(path: Path, exact: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"image": path.name, "exact": exact}
    for size, resample in ((64, "bilinear"), (224, "bicubic")):
        values = load_image(path, size, resample)  # type: ignore[arg-type]
        found[resample] = {"sha256": digest(values)}
        if not exact:
            found[resample]["rgb"] = base64.b64encode(values.tobytes()).decode()
    return found


def photo(width: int, height: int) -> Image.Image:
    """Gradients, edges and grain, different at every corner."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(width * 7919 + height).normal(0, 12, (height, width, 3))
    waves = [np.sin(x / 23 + y / 71), np.cos(x / 41 - y / 17), np.sin(x * y / 9000)]
    ramp = 60 * x / width - 40 * y / height
    disc = 70 * ((x - width / 3) ** 2 + (y - height / 4) ** 2 < (min(width, height) / 5) ** 2)
    values = np.stack([120 + 60 * wave + ramp + disc for wave in waves], -1) + grain
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def orient(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def texts(session: Session) -> dict[str, Any]:
    """Token ids of awkward texts, alone and in the chat template, and of a second turn."""
    text = session.text
    generator = np.random.default_rng(11)
    drawn = ["".join(chr(c) for c in generator.integers(32, 0x2FFF, 40)) for _ in range(100)]
    drawn += ["".join(generator.choice(list("ab c'st.\n\t 1!é漢🎨<|>"), 30)) for _ in range(100)]
    rows = []
    for content in TEXTS + drawn:
        ids = list(text.tokenizer.encode(content, add_special_tokens=False).ids)
        stream = text.stream()
        row = {"text": content, "ids": ids, "decoded": text.decode(ids), "pieces": [stream.step(i) for i in ids]}
        if content.strip():
            row["chat"] = text.encode_chat([Message("system", "Be brief."), Message("user", content)])
            row["next_turn"] = text.encode_next_turn(content)
        rows.append(row)
    return {"texts": rows}


def bad_bundles(good: Path, bad: Path) -> None:
    """Copies of a bundle with one thing wrong each; bad.json says what the message has to name."""
    cases: dict[str, tuple[str, ...]] = {}

    def case(name: str, *words: str) -> Path:
        folder = bad / name
        shutil.copytree(good, folder)
        cases[name] = words
        return folder

    folder = case("flipped-byte", "decoder.onnx", "SHA-256")
    content = bytearray((folder / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(content)
    (case("missing-file", "vision_encoder.onnx", "missing") / "vision_encoder.onnx").unlink()
    folder = case("truncated", "vision_injector.onnx", "bytes")
    (folder / "vision_injector.onnx").write_bytes((folder / "vision_injector.onnx").read_bytes()[:-100])
    folder = case("too-long", "tokenizer.json", "bytes")
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b"\n")
    change(case("parent-path", "../secret.onnx", "leaves"), "roles", "decoder", 0, "path", value="../secret.onnx")
    change(case("absolute-path", "/etc/hosts", "leaves"), "files", 0, "path", value="/etc/hosts")
    change(case("next-version", "manifest.json", "schema version 2"), "schema_version", value=2)
    change(case("other-target", "manifest.json", "onnx_portable"), "target", value="coreml")
    change(case("no-role", "manifest.json", "decoder"), "roles", "decoder", value=[])
    change(case("wrong-type", "context_capacity"), "context_capacity", value="many")
    change(case("too-big", "2147483648"), "roles", "decoder", 0, "bytes", value=1 << 40)
    change(case("bad-hash-field", "sha256"), "files", 0, "sha256", value="00")
    (case("no-json", "manifest.json", "JSON") / "manifest.json").write_text("{ not json")
    (case("huge-manifest", "manifest.json", "refused") / "manifest.json").write_bytes(b" " * ((4 << 20) + 1))
    replace(case("not-a-graph", "decoder.onnx", "ONNX Runtime"), "decoder.onnx", b"\x08\x09" + bytes(1000))
    replace(case("not-a-tokenizer", "tokenizer.json"), "tokenizer.json", b"[1, 2, 3]")
    write(bad.parent / "bad.json", cases)
    pack(good, bad.parent / "good.zip")
    pack(bad / "flipped-byte", bad.parent / "flipped-byte.zip")
    (bad.parent / "truncated.zip").write_bytes((bad.parent / "good.zip").read_bytes()[:-1000])


def change(folder: Path, *place: str | int, value: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    at = manifest
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    write(folder / "manifest.json", manifest)


def replace(folder: Path, name: str, content: bytes) -> None:
    """Other content, with the manifest's size and hash to match."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    for record in [*(r for records in manifest["roles"].values() for r in records), *manifest["files"]]:
        if record["path"] == name:
            record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write(folder / "manifest.json", manifest)


def pack(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, Path(folder.name) / file.relative_to(folder))


def digest(values: NDArray[np.uint8]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    arguments = parser.parse_args()
    main(arguments.out, arguments.bundles)
