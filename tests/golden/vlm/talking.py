"""What models built on LLaVA's code make of the golden questions."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from tests.golden.vlm.making import LAST, Question, picture

SHAPES = [(40, 30), (32, 32), (150, 33), (33, 150), (7, 9), (130, 128)]
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
ASKED = [([(40, 30)], "What is this?"), ([(150, 33), (7, 9)], "And why?"), ([], "What is this?")]


def talked(
    model,
    tokenizer,
    conversation,
    tokenize: Callable,
    process: Callable[[list[Image.Image]], torch.Tensor],
    scale: tuple = (0, 1),
    shapes: Sequence[tuple[int, int]] = SHAPES,
    questions_asked: Sequence[tuple[list[tuple[int, int]], str]] = ASKED,
) -> tuple[list[Question], dict[str, torch.Tensor]]:
    """The questions with their ids, slots written out, and the arrays of a golden.

    Args:
        model: theirs, of LLaVA's methods.
        tokenizer: its own.
        conversation: a template of theirs, without messages.
        tokenize: their `tokenizer_image_token`.
        process: pictures as the model takes them.
        scale: mean and deviation, to make bytes of them again.
        shapes: of the pictures whose pixels are kept.
        questions_asked: the pictures' shapes and the words of each.
    """
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in scale)
    arrays = {}
    for shape in shapes:
        pixels = process([picture(*shape)])
        bytes_again = ((pixels * std + mean) * 255).round().byte().permute(0, 2, 3, 1)
        arrays[f"pixels_{shape[0]}x{shape[1]}"] = bytes_again
    questions = []
    for i, (asked, words) in enumerate(questions_asked):
        said = conversation.copy()
        said.append_message(said.roles[0], "<image>\n" * len(asked) + words)
        said.append_message(said.roles[1], None)
        ids = tokenize(said.get_prompt(), tokenizer, return_tensors="pt")
        embed, embedded, listed = model.get_model().embed_tokens, [], []
        with torch.no_grad():
            features = list(model.encode_images(process([picture(*shape) for shape in asked]))) if asked else []
            for number in ids.tolist():
                feature = features.pop(0) if number < 0 else embed(torch.tensor([number]))
                embedded.append(feature)
                listed += [number] * len(feature)
            inputs = torch.cat(embedded)[None]
            arrays[f"logits_{i}"] = model.lm_head(model.model(inputs_embeds=inputs)[0])[0, -LAST:]
            tokens = []
            for _ in range(32):
                token = int(model.lm_head(model.model(inputs_embeds=inputs)[0])[0, -1].argmax())
                tokens.append(token)
                inputs = torch.cat([inputs, embed(torch.tensor([[token]]))], 1)
        questions.append(Question([list(s) for s in asked], words, listed, tokens))
    return questions, arrays
