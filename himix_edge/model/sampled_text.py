"""Text that a language model writes itself: for calibration, and to keep its language while it learns to see."""

import torch
from torch import Tensor

from himix_edge.errors import InputError
from himix_edge.model.vlm import VisionLanguageModel


@torch.inference_mode()
def sample_texts(model: VisionLanguageModel, passages: int, tokens: int, seed: int = 0) -> Tensor:
    """Sampled text, int64 (passages, tokens), each from another first token; the same on every run of one machine.

    Raises:
        InputError: the model's logits are no numbers, though its weights are: they overflow on the way.
    """
    device, vocabulary = next(model.parameters()).device, model.config.decoder.vocab_size
    generator = torch.Generator(device).manual_seed(seed)
    ids = torch.randint(vocabulary, (passages, 1), generator=generator, device=device)
    new, cache = ids, None
    for _ in range(tokens - 1):
        logits, cache = model.decode(new, cache)
        chances = logits[:, -1].softmax(-1)
        if not bool(chances.isfinite().all()):
            raise InputError("the model writes no text: its logits are NaN; its weights are too large for float32")
        new = torch.multinomial(chances, 1, generator=generator)
        ids = torch.cat([ids, new], dim=1)
    return ids
