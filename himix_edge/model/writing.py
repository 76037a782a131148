"""Text that a language model writes itself: for calibration, and to keep its language while it learns to see."""

import torch
from torch import Tensor

from himix_edge.model.vlm import VisionLanguageModel


@torch.inference_mode()
def write_texts(model: VisionLanguageModel, passages: int, tokens: int, seed: int = 0) -> Tensor:
    """Sampled text, int64 (passages, tokens), each from another first token; the same on every run of one machine."""
    device, vocabulary = next(model.parameters()).device, model.config.decoder.vocab_size
    generator = torch.Generator(device).manual_seed(seed)
    ids = torch.randint(vocabulary, (passages, 1), generator=generator, device=device)
    new, cache = ids, None
    for _ in range(tokens - 1):
        logits, cache = model.decode(new, cache)
        new = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, new], dim=1)
    return ids
