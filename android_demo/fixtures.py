"""What the Python session computes, written down for the JVM tests: `fixtures.py BUNDLE OUT` makes the fixtures,
`fixtures.py BUNDLE --answer IMAGE_KV PROMPT` answers from a saved ImageKV, `fixtures.py --record FILE` reads a
benchmark record."""

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from himix_edge.bench.record import read_records
from himix_edge.data import load_dataset
from himix_edge.preprocess import load_image, resize
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.sampling import Sampler
from himix_edge.runtimes.session import Session
from himix_edge.text import Message, TextProcessor, load_tokenizer

TEXTS = [
    "What shape is this?",
    "  what   color\tis\n\n it ?  ",
    "It's a triangle, isn't it? I'LL say they'RE we've I'm he'd 'tis ''s '",
    "<|im_end|>\n<|im_start|>assistant\nyes<|endoftext|>",
    "1234567 3.14 \u00bd \u2167 \u0664\u0662 x2y",
    "emoji \U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u4e2d\u6587\u95ee\u9898\uff1a\u8fd9\u662f\u4ec0\u4e48\u5f62\u72b6\uff1f",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940",
    "na\u00efve caf\u00e9 nai\u0308ve cafe\u0301 \u00df \ufb01 \u01c5 \u02b0",
    "a\u00a0b\u2003c\u3000d\u2028e\u0085f\u200bg\u180eh\ufeffi",
    "line\r\nline\n\n\n   indented\t\ttabs \n \n",
    "\x00\x01\x1b control \x7f \x1c\x1d",
    "----====****!!!???...,,, (a)[b]{c} #$%^&*_+~`\"\\/|<>@",
    " ",
    "a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\U00010348\U0001d4d0 \U0001f9ec2 \u2075\u2082 \u0e51\u0e52",
    "https://example.org/path?query=1&other=two#part",
]  # fmt: skip
RESIZED = [(64, 64), (65, 64), (64, 65), (63, 127), (1, 1), (2, 300), (300, 2), (128, 128), (640, 480), (517, 1031)]


def main() -> None:
    if sys.argv[1] == "--record":
        print(json.dumps([record.model_dump(mode="json") for record in read_records(sys.argv[2])]))
    elif sys.argv[2] == "--answer":
        session = open_bundle(sys.argv[1])
        print(json.dumps(answer(session, sys.argv[4], sys.argv[3])))
    else:
        write(Path(sys.argv[1]), Path(sys.argv[2]))


def write(bundle: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    session = open_bundle(bundle)
    fixtures = {
        "questions": list(questions(session, out)),
        "tokenizers": [tokenizer(bundle / "tokenizer.json", session.text), *other_tokenizers(out)],
        "streams": list(streams(session.text)),
        "resized": list(resized(out)),
        "oriented": list(oriented(out)),
        "probabilities": list(probabilities()),
        "image_kv": saved_image(session, out),
    }
    (out / "fixtures.json").write_text(json.dumps(fixtures))


def questions(session: Session, out: Path, count: int = 100) -> Iterator[dict[str, Any]]:
    """`count` real questions, each about another image, and a caption of several tokens for every tenth."""
    samples = load_dataset("easy-vqa", "test").samples[:count]
    for i, sample in enumerate(samples):
        assert sample.image is not None
        image = f"images/{i}.png"
        shutil.copy(sample.image, out / image)
        asked = [sample.conversations[i % len(sample.conversations)][0].question]
        for prompt in asked + ["Describe the image."] * (i % 10 == 0):
            pixels = load_image(out / image, session.config.vision.image_size, session.config.vision.resample)
            yield {
                "image": image,
                "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "prompt_ids": session.text.encode_chat([Message("user", prompt)]),
                **answer(session, prompt, session.encode_image(out / image)),
            }


def answer(session: Session, prompt: str, image: Any) -> dict[str, Any]:
    from himix_edge.runtimes.image_kv import ImageKV

    loaded = ImageKV.load(image) if isinstance(image, str) else image
    pieces = list(session.generate(prompt, loaded, max_new_tokens=16, temperature=0))
    return {
        "prompt": prompt,
        "token_ids": [piece.token_id for piece in pieces],
        "pieces": [piece.text for piece in pieces],
        "finish_reason": session.stats.finish_reason,
    }


def tokenizer(path: Path, text: TextProcessor) -> dict[str, Any]:
    rng = random.Random(7)
    alphabet = "abcXYZ 0129 \n\t'sStTre.,!?-_()\u00e9\u4e2d\U0001f600\u0301\u00a0\r"
    noise = ["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 60))) for _ in range(300)]
    texts = TEXTS + noise
    return {
        "file": str(path.resolve()),
        "cases": [{"text": t, "ids": text.tokenizer.encode(t, add_special_tokens=False).ids} for t in texts],
        "chats": [{"text": t, "ids": text.encode_chat([Message("user", t)])} for t in texts if t.strip()],
    }


def other_tokenizers(out: Path) -> Iterator[dict[str, Any]]:
    """The pre-tokenizers of SmolLM2, Qwen2 and Llama 3 over the shipped vocabulary."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    from himix_edge.checkpoints.tokenizers import PATTERNS

    shipped = Path(__file__).parents[1] / "himix_edge" / "assets" / "nano"
    for name in ("smollm", "digits", *PATTERNS):
        text = TextProcessor.load(shipped)
        if name in PATTERNS:
            split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated", invert=False)
            steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            if name == "qwen2":
                text.tokenizer.normalizer = normalizers.NFC()
        else:
            digits = pre_tokenizers.Digits(individual_digits=name == "smollm")
            steps = [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        text.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        path = out / f"tokenizer-{name}.json"
        text.tokenizer.save(str(path))
        reread = TextProcessor(load_tokenizer(path), text.template)
        yield tokenizer(path, reread)


def streams(text: TextProcessor) -> Iterator[dict[str, Any]]:
    """Answers token by token: real text, random bytes, special tokens, ids without a token."""
    rng = random.Random(3)
    sequences = [text.tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]
    sequences += [[rng.randrange(3, 259) for _ in range(20)] for _ in range(100)]
    sequences += [[rng.randrange(0, 512) for _ in range(20)] for _ in range(50)]
    for ids in sequences:
        stream = text.stream()
        yield {"ids": ids, "pieces": [stream.step(token) for token in ids]}


def picture(width: int, height: int, seed: int, alpha: bool = False) -> Image.Image:
    """Smooth and noisy parts, extremes included."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4 if alpha else 3), dtype=np.uint8)
    pixels[: height // 2, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[height // 3 :, : width // 2, 1] = 255
    pixels[:, width // 2 :, 2] //= 128
    return Image.fromarray(pixels)


def resized(out: Path) -> Iterator[dict[str, Any]]:
    cases = [(size, False) for size in RESIZED] + [((256, 256), True), ((90, 70), True)]
    for i, ((width, height), alpha) in enumerate(cases):
        image = picture(width, height, i, alpha)
        if (width, height) == (256, 256):  # every alpha with every colour
            ramp = np.arange(256, dtype=np.uint8)
            image = Image.fromarray(np.stack([*[np.tile(ramp, (256, 1))] * 3, np.tile(ramp[:, None], 256)], axis=-1))
        name = f"images/resize-{i}.png"
        image.save(out / name)
        for size in (64, 224, 256):
            for method in ("bilinear", "bicubic"):
                digest = hashlib.sha256(resize(image, size, method).tobytes()).hexdigest()
                yield {"image": name, "size": size, "method": f"pillow-{method}-squash", "sha256": digest}


def oriented(out: Path) -> Iterator[dict[str, Any]]:
    picture(37, 23, 99).save(out / "images" / "oriented.png")
    for orientation in range(1, 9):
        image = Image.open(out / "images" / "oriented.png")
        image.getexif()[0x0112] = orientation
        upright = ImageOps.exif_transpose(image)
        yield {
            "orientation": orientation,
            "width": upright.width,
            "sha256": hashlib.sha256(resize(upright, 16, "bilinear").tobytes()).hexdigest(),
        }


def probabilities() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(5)
    for temperature, top_p in ((0.3, 1.0), (1.0, 0.9), (2.0, 0.5), (1.0, 0.01)):
        logits = (3 * rng.standard_normal(40)).astype(np.float32)
        expected = Sampler(temperature, top_p, 0).probabilities(logits)
        yield {
            "logits": logits.tolist(), "temperature": temperature, "top_p": top_p, "expected": expected.tolist(),
        }  # fmt: skip


def saved_image(session: Session, out: Path) -> dict[str, Any]:
    image = session.encode_image(out / "images" / "3.png")
    image.save(out / "python.image_kv")
    return {"file": "python.image_kv", "image": "images/3.png", **answer(session, "Describe the image.", image)}


if __name__ == "__main__":
    main()
