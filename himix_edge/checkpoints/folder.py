"""Checkpoint folders: loading a model, and writing one whole, trained on a base, or a shard at a time."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from himix_edge.checkpoints.assemble import assemble, model_weights
from himix_edge.checkpoints.lazy import Weights, as_weights
from himix_edge.checkpoints.saving import save_weights
from himix_edge.checkpoints.source import Source, open_source
from himix_edge.checkpoints.trained import Base, overlay
from himix_edge.config import ModelConfig
from himix_edge.folders import Replacing, staged_folder
from himix_edge.model import VisionLanguageModel
from himix_edge.text import TextProcessor

CHECKPOINT = "checkpoint"
EARLIER = Replacing(CHECKPOINT, force=True)


def load_checkpoint(source: str | Path) -> VisionLanguageModel:
    """Load a model for inference on the CPU, in float32.

    Args:
        source: a checkpoint folder (ours, the HiMix authors', or a Hugging Face one), a .gguf file, the
            name of a model that ships with the package ("nano"), or a hub id OWNER/NAME. A plain language model
            loads as a decoder that takes no image.

    Raises:
        InputError: no such folder, a config that is not understood or contradicts the weights, missing, surplus or
            misshapen tensors (named), a truncated file, or weights in a pickle format (never opened).
    """
    opened = open_source(source)
    return assemble(opened.config, opened.weights, opened.where)


def save_checkpoint(
    folder: str | Path,
    model: VisionLanguageModel,
    text: TextProcessor | None = None,
    provenance: dict[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint folder atomically: after a kill at any moment the old folder or none is there.

    Args:
        folder: where; a checkpoint there that himix wrote is replaced.
        model: the model; its parameters are stored as `dtype` (float32, float16 or bfloat16).
        text: tokenizer and chat template, stored beside the weights.
        provenance: how the model was made, stored as provenance.json.

    Raises:
        InputError: the folder holds something else, cannot be written, or the disk is full.
    """
    with staged_folder(Path(folder), EARLIER) as staged:
        _write(staged, model.config, model_weights(model), text, provenance or {}, dtype)


def save_trained(
    folder: str | Path,
    config: ModelConfig,
    start: Weights,
    tensors: dict[str, torch.Tensor],
    lora_scale: float,
    text: TextProcessor,
    provenance: dict[str, object],
    base: Base | None,
) -> None:
    """Write what training made of `start`, atomically.

    Args:
        folder: where; a checkpoint there that himix wrote is replaced.
        config: the model's.
        start: all weights that training began with.
        tensors: what has changed or `base` lacks, by name; adapters as LINEAR.lora_A and LINEAR.lora_B.
        lora_scale: of the adapters.
        text: tokenizer and chat template.
        provenance: how the model was made, stored as provenance.json.
        base: where `start` comes from: only `tensors` are stored. None: all weights are, in float16.

    Raises:
        InputError: the folder holds something else, cannot be written, or the disk is full.
    """
    with staged_folder(Path(folder), EARLIER) as staged:
        write_trained(staged, config, start, tensors, lora_scale, text, provenance, base)


def write_trained(
    staged: Path,
    config: ModelConfig,
    start: Weights,
    tensors: dict[str, torch.Tensor],
    lora_scale: float,
    text: TextProcessor,
    provenance: dict[str, object],
    base: Base | None,
) -> None:
    """The files of `save_trained` into a folder that is there and empty."""
    trained = as_weights(tensors)
    if base is None:
        _write(staged, config, overlay(start, trained, lora_scale, str(staged)), text, provenance, torch.float16)
        return
    _write(staged, config, trained, None, provenance, None)
    text.save_template(staged)
    replace(base, lora_scale=lora_scale).save(staged)


def save_source(folder: str | Path, source: Source, dtype: torch.dtype | None = None) -> None:
    """Write an opened model as a checkpoint of this project, a shard in memory at a time; atomic.

    Args:
        folder: where; a checkpoint there that himix wrote is replaced.
        source: the model.
        dtype: what to store weights as; None: as the source has them.

    Raises:
        InputError: the source is damaged, the folder holds something else, cannot be written, or the disk is full.
    """
    with staged_folder(Path(folder), replace(EARLIER, keep=source.files)) as staged:
        write_source(staged, source, dtype)


def write_source(staged: Path, source: Source, dtype: torch.dtype | None = None) -> None:
    """The files of `save_source` into a folder that is there and empty."""
    _write(staged, source.config, source.weights, source.load_text(), source.provenance, dtype)


def _write(
    staged: Path,
    config: ModelConfig,
    weights: Weights,
    text: TextProcessor | None,
    provenance: dict[str, object],
    dtype: torch.dtype | None,
) -> None:
    save_weights(staged, weights, dtype)
    (staged / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    if text is not None:
        text.save(staged)
    if provenance:
        (staged / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
