"""The golden of nanoVLM's first layout: python -m tests.golden.vlm.make_nanovlm_222m CHECKOUT (of commit 87895e1).

Their picture's features stand in front of the text, so `ids` begin with their slots. torchvision as in `make_nanovlm`.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

from tests.golden.vlm.make_nanovlm import SHAPES, SIZES, stand_ins, tokenizer_folder
from tests.golden.vlm.making import LAST, SIDE, Golden, Question, horizontal_first, picture, weights


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    stand_ins()
    horizontal_first()
    from data.processors import get_image_processor, get_tokenizer
    from models.config import VLMConfig
    from models.vision_language_model import VisionLanguageModel

    tokenizer = get_tokenizer(tokenizer_folder())
    sizes = {name: size for name, size in SIZES.items() if name not in ("mp_image_token_length", "max_img_size")}
    config = VLMConfig(**sizes, lm_vocab_size=len(tokenizer), IMAGE_TOKEN_LENGTH=4)
    model = VisionLanguageModel(config, load_backbone=False).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if name != "decoder.head.weight" and "inv_freq" not in name}
    model.load_state_dict(weights(shapes), strict=False)
    model.decoder.head.weight = model.decoder.token_embedding.weight
    process = get_image_processor(SIDE)
    arrays = {}
    for shape in SHAPES:
        pixels = process(picture(*shape))[None]
        arrays[f"pixels_{shape[0]}x{shape[1]}"] = (pixels * 255).round().byte().permute(0, 2, 3, 1)
    questions = []
    for i, (shape, words) in enumerate([((40, 30), "What is this?"), ((150, 33), "And why?")]):
        ids = tokenizer.batch_encode_plus([f"Question: {words} Answer:"], return_tensors="pt")["input_ids"]
        pixels = process(picture(*shape))[None]
        with torch.no_grad():
            arrays[f"logits_{i}"] = model.decoder.head(model(ids, pixels)[0])[0, -LAST:]
        tokens = model.generate(ids, pixels, max_new_tokens=32, greedy=True)[0]
        questions.append(Question([list(shape)], words, [-1] * 4 + ids[0].tolist(), tokens.tolist()))
    said = asdict(config) | {"lm_tokenizer": "HuggingFaceTB/cosmo2-tokenizer"}
    Golden("nanovlm_222m", said, shapes, -1, questions, arrays).save()


if __name__ == "__main__":
    main()
