"""Which weights an `ImageKV` was made with."""

import hashlib
import json

import torch

from himix_edge.model import VisionLanguageModel
from himix_edge.parts import part_of


def image_kv_id(model: VisionLanguageModel) -> str:
    """Names the weights that turn an image into keys and values: equal ids make interchangeable ImageKV."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    vanilla = model.config.architecture == "vanilla"  # there the whole decoder takes part
    for name, tensor in sorted(model.state_dict().items()):
        if vanilla or part_of(name) != "decoder":
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
