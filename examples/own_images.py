"""Your own pictures, end to end: write conversations, train, export, verify, ask.

    python examples/own_images.py --steps 200 --out my-model

The pictures here are drawn by this program: squares and discs in six colors. Put your own in their place: what training
takes is a JSON file of conversations (LLaVA's format) and a folder of images.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import himix_edge as hx

COLORS = ("red", "blue", "green", "yellow", "purple", "black")
SHAPES = ("square", "disc")


def draw(path: Path, color: str, shape: str, source: random.Random) -> None:
    image = Image.new("RGB", (64, 64), "white")
    x, y, side = source.randrange(4, 28), source.randrange(4, 28), source.randrange(20, 33)
    pen = ImageDraw.Draw(image)
    (pen.rectangle if shape == "square" else pen.ellipse)((x, y, x + side, y + side), fill=color)
    image.save(path)


def write_data(folder: Path, count: int) -> Path:
    """`count` pictures and what is said about each."""
    source, records = random.Random(0), []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        color, shape = source.choice(COLORS), source.choice(SHAPES)
        draw(folder / "images" / f"{number}.png", color, shape, source)
        asked = [("What color is it?", color), ("What shape is it?", shape), ("What is it?", f"a {color} {shape}")]
        messages = [
            {"from": who, "value": said} for pair in asked for who, said in zip(("human", "gpt"), pair, strict=True)
        ]
        messages[0]["value"] = f"<image>\n{messages[0]['value']}"
        records.append({"id": str(number), "image": f"{number}.png", "conversations": messages})
    path = folder / "conversations.json"
    path.write_text(json.dumps(records))
    return path


def himix(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "himix_edge", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("my-model"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    data = write_data(out / "data", arguments.pictures)
    settings = [f"all.steps={arguments.steps}", "images_per_step=16", "validation_images=16", "evaluate_every=100"]
    himix("train", "--recipe", "nano", "--data", data, "--image-folder", out / "data" / "images", "--out", out / "run",
          *(word for setting in settings for word in ("--set", setting)))  # fmt: skip
    himix("export", "--target", "onnx", "--quant", "int8", "--model", out / "run" / "final", "--calibration", data,
          "--out", out / "bundle")  # fmt: skip
    himix("verify", out / "bundle")
    session = hx.open_bundle(out / "bundle")
    picture = out / "new.png"
    draw(picture, "blue", "disc", random.Random(7))
    for prompt in ("What color is it?", "What shape is it?", "What is it?"):
        print(f"{prompt} {session.answer(prompt, picture)}")


if __name__ == "__main__":
    main()
