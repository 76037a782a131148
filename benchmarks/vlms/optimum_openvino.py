"""optimum-intel's class on its own OpenVINO export: `python -m benchmarks.vlms.optimum_openvino FOLDER`.

Runs in an environment of its own, with optimum-intel, torchvision and the versions of transformers that it takes. What
is timed is what its user calls: the vision model, and `generate` for one token and for more.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import milliseconds, report
from benchmarks.vlms.cases import DECODED, PROMPT, TILES, Timings

TILE_TOKENS = 64  # SmolVLM's, which its processor's settings may leave open


def build(model: Path, out: Path) -> list[str]:
    """The command that exports a Hugging Face folder as ours is quantized: symmetric, 4 bits in groups of 32."""
    options = [
        "--task",
        "image-text-to-text",
        "--weight-format",
        "int4",
        "--sym",
        "--group-size",
        "32",
        "--ratio",
        "1.0",
    ]
    return ["optimum-cli", "export", "openvino", "--model", str(model), *options, str(out)]


def timings(folder: Path) -> Timings:
    """Tower, first token and each further one, in milliseconds; pixels are there already."""
    from optimum.intel import OVModelForVisualCausalLM
    from transformers import AutoProcessor

    model = OVModelForVisualCausalLM.from_pretrained(folder, ov_config={"PERFORMANCE_HINT": "LATENCY"})
    processor = AutoProcessor.from_pretrained(folder)
    side = json.loads((folder / "preprocessor_config.json").read_text())["max_image_size"]["longest_edge"]
    cases: Timings = {}
    for count in TILES:
        pixels = np.random.default_rng(0).integers(0, 256, (2 * side, 2 * side, 3), dtype=np.uint8)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        processor.image_seq_len = TILE_TOKENS
        processor.image_processor.size = {"longest_edge": 2 * side}
        processor.image_processor.do_image_splitting = count > 1
        inputs = processor(text=text, images=[Image.fromarray(pixels)], return_tensors="pt")
        assert inputs["pixel_values"].shape[1] == count

        def generate(tokens: int, inputs: dict = inputs) -> float:
            settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
            return milliseconds(lambda: model.generate(**inputs, **settings))

        def tower(inputs: dict = inputs) -> float:
            began = time.perf_counter()
            model.get_vision_embeddings(**inputs)
            return 1e3 * (time.perf_counter() - began)

        cases |= {
            f"tower, {count} tiles": tower,
            f"first token, {count} tiles": lambda generate=generate: generate(1),  # type: ignore[misc]
            f"token, {count} tiles": lambda generate=generate: (generate(1 + DECODED) - generate(1)) / DECODED,  # type: ignore[misc]
        }
    return cases


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
