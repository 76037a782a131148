"""Which weights an `ImageKV` was made with, and an adapter was made for."""

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from himix_edge.checkpoints.assemble import expected_shapes, meta_model
from himix_edge.checkpoints.lazy import Weights, cast
from himix_edge.model import VisionLanguageModel
from himix_edge.parts import part_of

if TYPE_CHECKING:
    from himix_edge.checkpoints.source import Source


def base_id(source: "Source", weights: Weights | None = None) -> str:
    """Names a model whatever it is exported to, for adapters of it: its configuration and its weights in float32.

    `weights`: others in place of the source's own.
    """
    weights, config = weights or source.weights, source.config
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(expected_shapes(meta_model(config))):
        tensor = cast(weights[name].read(), torch.float32, f"{source.where}: {name}")
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().data)
    return digest.hexdigest()


def image_kv_id(model: VisionLanguageModel) -> str:
    """Names the weights that turn an image into keys and values: equal ids make interchangeable ImageKV."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    vanilla = model.config.architecture == "vanilla"  # there the whole decoder takes part
    for name, tensor in sorted(model.state_dict().items()):
        if vanilla or part_of(name) != "decoder":
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
