"""Folding: the weights of the norms in front of the injection move into its projections.

The model computes the same. Without weights of their own the norms of all layers are one, so an export norms an image
once, and rounds it to int8 once where a runtime does that.
"""

import torch

from himix_edge.checkpoints.lazy import Weights, as_weights
from himix_edge.export.quantization.smoothing import scaled

NORM, PROJECTIONS = "input_layernorm_img.weight", ("self_attn.k_proj_img.weight", "self_attn.v_proj_img.weight")


def fold_image_norms(weights: Weights) -> Weights:
    """The same model, `input_layernorm_img` of its layers 1; each tensor is still read when it is asked for.

    Args:
        weights: every parameter of a model; one whose layers share their injection, or have none, stays as it is.
    """
    folded = dict(weights)
    for name, tensor in weights.items():
        if name.startswith("model.layers.") and name.endswith(NORM):
            columns = tensor.read().float()
            folded |= as_weights({name: torch.ones_like(columns)})
            for projection in PROJECTIONS:
                matrix = name.removesuffix(NORM) + projection
                folded[matrix] = scaled(weights[matrix], columns)
    return folded
