"""nanoVLM's goldens, by its own classes: python -m tests.golden.vlm.make_nanovlm CHECKOUT (of huggingface/nanoVLM).

torchvision's two functions and einops' one are stood in for, as they are documented: Pillow's resizing for pictures,
torch's interpolation with antialiasing for tensors. The whole picture beside tiles is rounded to 8 bits, by Pillow,
before the model reads it; `whole_WxH` is theirs, unrounded.
"""

import sys
import tempfile
import types
from dataclasses import asdict
from enum import Enum
from pathlib import Path

import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from tests.golden.vlm.making import LAST, SIDE, Golden, Question, horizontal_first, nano_tokenizer, picture, weights

SHAPES = [(40, 30), (32, 32), (150, 33), (33, 150), (7, 9), (130, 128)]
SIZES = {
    "vit_hidden_dim": 32, "vit_inter_dim": 64, "vit_patch_size": 8, "vit_img_size": SIDE, "vit_n_heads": 2,
    "vit_n_blocks": 2, "lm_hidden_dim": 32, "lm_inter_dim": 64, "lm_n_heads": 4, "lm_n_kv_heads": 2, "lm_n_blocks": 2,
    "lm_max_position_embeddings": 2048, "mp_pixel_shuffle_factor": 2, "mp_image_token_length": 4,
    "max_img_size": 4 * SIDE,
}  # fmt: skip


def stand_ins() -> None:
    class InterpolationMode(Enum):
        BICUBIC = Image.Resampling.BICUBIC
        BILINEAR = Image.Resampling.BILINEAR

    def resize(image, size, interpolation=InterpolationMode.BILINEAR):
        if isinstance(image, Image.Image):
            return image.resize((size[1], size[0]), interpolation.value)
        mode = interpolation.name.lower()
        return F.interpolate(image, size=size, mode=mode, align_corners=False, antialias=True)

    def rearrange(x, pattern, ph, pw):
        b, c, height, width = x.shape
        x = x.reshape(b, c, height // ph, ph, width // pw, pw)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, ph, pw)

    def compose(steps):
        def run(x):
            for step in steps:
                x = step(x)
            return x

        return run

    def to_tensor():
        return lambda image: (
            torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            .reshape(image.height, image.width, 3)
            .permute(2, 0, 1)
            / 255
        )

    def resized(size):
        return lambda image: resize(image, size)

    functional = types.SimpleNamespace(resize=resize, InterpolationMode=InterpolationMode)
    transforms = types.SimpleNamespace(Compose=compose, ToTensor=to_tensor, Resize=resized, functional=functional)
    sys.modules |= {
        "torchvision": types.SimpleNamespace(transforms=transforms),
        "torchvision.transforms": transforms,
        "torchvision.transforms.functional": functional,
        "einops": types.SimpleNamespace(rearrange=rearrange),
    }


def tokenizer_folder() -> str:
    folder = tempfile.mkdtemp()
    nano_tokenizer(["<|endoftext|>", "<empty_output>"]).save_pretrained(folder)
    return folder


def made(name: str, layout: dict, rows: int, extra: int, changes: dict) -> None:
    from data.processors import get_image_processor, get_image_string, get_tokenizer
    from models.config import VLMConfig
    from models.vision_language_model import VisionLanguageModel

    folder = tokenizer_folder()
    config = VLMConfig(**{**SIZES, **layout}, lm_base_vocab_size=rows, lm_vocab_size=rows + extra, lm_tokenizer=folder)
    model = VisionLanguageModel(config, load_backbone=False).eval()
    state = model.state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items() if name != "decoder.head.weight"}
    shapes.pop("decoder.rotary_embd.inv_freq")
    model.load_state_dict(weights(shapes), strict=False)
    model.decoder.head.weight = model.decoder.token_embedding.weight
    tokenizer = get_tokenizer(folder, config.vlm_extra_tokens, config.lm_chat_template)
    process = get_image_processor(config.max_img_size, SIDE, config.resize_to_max_side_len)

    def tiles(shape: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        found, grid = process(picture(*shape))
        if not hasattr(tokenizer, "global_image_token") and grid[0] * grid[1] == len(found) - 1:
            found = found[1:]
        return found, grid

    arrays, rounded = {}, {}
    for shape in SHAPES:
        found, grid = tiles(shape)
        label = f"{shape[0]}x{shape[1]}"
        if len(found) > grid[0] * grid[1]:
            if shape in SHAPES[:3]:
                arrays[f"whole_{label}"] = found[0].clone()
            large = torch.cat([torch.cat(list(row), 2) for row in found[1:].unflatten(0, grid)], 1)
            image = Image.fromarray((large * 255).round().byte().permute(1, 2, 0).numpy()).resize((SIDE, SIDE), 2)
            found[0] = (
                torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(SIDE, SIDE, 3).permute(2, 0, 1)
                / 255
            )
        rounded[shape] = found, grid
        arrays[f"pixels_{label}"] = (found * 255).round().byte().permute(0, 2, 3, 1)

    questions = []
    for shapes_asked, words, system in [
        ([(40, 30)], "What is this?", ""),
        ([(150, 33), (7, 9)], "What is this?", ""),
        ([], "What is this?", ""),
        ([(33, 150)], "And why?", "Be brief."),
    ]:
        grids = [rounded[shape][1] for shape in shapes_asked]
        string = get_image_string(tokenizer, grids, config.mp_image_token_length)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": string + words})
        ids = torch.tensor([tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)])
        images = [rounded[shape][0] for shape in shapes_asked]
        with torch.no_grad():
            states, _ = model(ids, images or None)
            logits = model.decoder.head(states)[0]
        model.tokenizer.eos_token = None  # their generation replaces what follows it
        tokens = model.generate(ids, images or None, max_new_tokens=32, greedy=True)[0]
        model.tokenizer.eos_token = "<|im_end|>"
        arrays[f"logits_{len(questions)}"] = logits[-LAST:]
        questions.append(Question([list(s) for s in shapes_asked], words, ids[0].tolist(), tokens.tolist(), system))
    config = asdict(config) | {"lm_tokenizer": "HuggingFaceTB/SmolLM2-360M-Instruct"} | changes
    config = {name: value for name, value in config.items() if value is not None}
    Golden(name, config, shapes, tokenizer.image_token_id, questions, arrays).save()


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    stand_ins()
    horizontal_first()
    rows = len(transformers.AutoTokenizer.from_pretrained(tokenizer_folder()))
    tags = {f"r{row}c{column}": f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)}
    whole = {"image_token": "<|image|>", "global_image_token": "<|global_image|>", **tags}
    cut = {"image_token": "<|image|>", **tags}
    made("nanovlm", {"vlm_extra_tokens": whole}, rows, len(whole), {})
    layout = {"vlm_extra_tokens": cut, "resize_to_max_side_len": False}
    made("nanovlm_tiles", layout, rows, len(cut), {"resize_to_max_side_len": None})


if __name__ == "__main__":
    main()
