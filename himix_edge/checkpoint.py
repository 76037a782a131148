"""Checkpoints: a folder with config.json, model.safetensors and, for a complete model, tokenizer and chat template.

Reads the project's own checkpoints and decoders in the authors' parameter layout (DESIGN of the `*_img` names).
Only safetensors is ever opened; shapes are checked against the config before a tensor is read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from himix_edge.config import ModelConfig, read_json
from himix_edge.errors import InputError
from himix_edge.files import staged_folder
from himix_edge.model import VisionLanguageModel, build_model
from himix_edge.presets import resolve_model
from himix_edge.text import TextProcessor

WEIGHTS = "model.safetensors"


def load_checkpoint(source: str | Path) -> VisionLanguageModel:
    """Load a model for inference on the CPU, in float32.

    Args:
        source: the folder of a checkpoint, or the name of a model that ships with the package ("nano").

    Raises:
        InputError: no such folder, a config that is not understood or contradicts the weights, missing, surplus or
            misshapen tensors (named), a truncated file, or weights in a pickle format (never opened).
    """
    folder = resolve_model(source)
    config = ModelConfig.from_dict(read_json(folder / "config.json"), str(folder / "config.json"))
    with torch.device("meta"):
        model = build_model(config)
    state = read_weights(folder, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict(state, assign=True)
    if model.vision_tower is not None:  # the two buffers that come from the config, not from the file
        vision = model.vision_tower.config
        model.vision_tower.mean = torch.tensor(vision.image_mean) * 255
        model.vision_tower.std = torch.tensor(vision.image_std) * 255
    return model.eval().requires_grad_(False)


def save_checkpoint(
    folder: str | Path,
    model: VisionLanguageModel,
    text: TextProcessor | None = None,
    provenance: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint folder atomically: after a kill at any moment the old folder or none is there.

    Args:
        folder: where; an existing checkpoint there is replaced.
        model: the model; its parameters are stored as `dtype` (float32 or float16).
        text: tokenizer and chat template, stored beside the weights.
        provenance: how the model was made, stored as provenance.json.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    with staged_folder(Path(folder)) as staged:
        state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, staged / WEIGHTS, metadata={"format": "pt"})
        (staged / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
        if text is not None:
            text.save(staged)
        if provenance is not None:
            (staged / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def read_weights(folder: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the tensors named in `expected` as float32, after checking every name and shape of the file's header."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        if pickles:
            raise InputError(
                f"{folder / pickles[0]}: pickle weights are never opened; convert them to safetensors first"
            )
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
            _check_names(path, found, expected)
            return {name: file.get_tensor(name).to(torch.float32) for name in expected}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error})") from None


def _check_names(path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    # a tied checkpoint may repeat its embedding as lm_head; Hugging Face ignores it too
    tied_head = {"lm_head.weight"} if "lm_head.weight" not in expected else set()
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys() - tied_head)
    if missing or surplus:
        words = [f"{kind} {_some(names)}" for kind, names in (("missing", missing), ("surplus", surplus)) if names]
        raise InputError(f"{path}: tensors do not fit config.json: {'; '.join(words)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(f"{path}: {name} has shape {found[name]}, config.json says {shape}")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def image_kv_id(model: VisionLanguageModel) -> str:
    """Names the weights that turn an image into keys and values: equal ids make interchangeable ImageKV."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    vanilla = model.config.architecture == "vanilla"  # there the whole decoder takes part
    for name, tensor in sorted(model.state_dict().items()):
        if vanilla or name.startswith("vision_tower") or "_img" in name:
            digest.update(name.encode() + tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
