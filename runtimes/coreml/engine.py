"""Core ML: on macOS the real runtime; anywhere else the reference interpreter, which says so."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.coreml import COMPUTE_UNITS
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from torch import Tensor

CAPACITY_MULTIPLE = 32  # states whose dimensions are multiples of it run on the Neural Engine
PREFILL = 64  # tokens that the decoder's prefill function takes at once
STATES = ("key_cache", "value_cache")
OUTPUTS = ("vision_key", "vision_value", "vision_embeds")  # of the injector: the first two, or the last
CPU = "cpu"
ROLES = ("vision_encoder", "vision_injector", "decoder")


class CoreMlEngine:
    """See `Engine`. The cache is the decoder's state, written directly when an image's keys and values are put in."""

    def __init__(
        self, files: dict[str, Path], config: ModelConfig, capacity: int, rounding: bool = True, device: str = CPU
    ):
        """Without `rounding` the interpreter is used everywhere and rounds nothing to float16."""
        self.capacity, self._rows = capacity, config.vision_rows
        packages = {role: files[role].parent for role in ROLES}
        apple = sys.platform == "darwin" and rounding
        self._models: _Apple | _Interpreted = (
            _Apple(packages, device) if apple else _Interpreted(packages, config, rounding)
        )
        decoder = config.decoder
        slots = -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        shape = (decoder.num_hidden_layers, decoder.num_key_value_heads, slots, decoder.head_dim)
        states = self._models.state_shapes()
        for name in STATES:
            if states.get(name) != shape:
                raise InputError(
                    f"{packages['decoder']}: state {name} is {states.get(name)}, the manifest says {shape}"
                )
        self._shape, self._used, self._position = shape, 0, 0
        self._prefill = min(PREFILL, slots)
        self._embeds, self._hidden = config.images is not None, decoder.hidden_size

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._models.encode(pixels)

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._models.inject(features)
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        return self._models.inject(features)[0]

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        key, value = (self._models.read_state(name)[:, :, : self._used].astype(np.float32) for name in STATES)
        return key, value

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        for name, tensor in zip(STATES, (key, value), strict=True):
            cache = np.zeros(self._shape, np.float32)
            for layer, row in enumerate(self._rows):
                if row is not None:
                    cache[layer, :, : self._used] = tensor[row]
            self._models.write_state(name, cache)

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        logits = np.empty(0, np.float32)
        while len(token_ids):
            fits = len(token_ids) > 1 and self._used + self._prefill <= self._shape[2]
            chunk = token_ids[: self._prefill if fits else 1]
            padded = np.zeros((1, self._prefill if fits else 1), np.int32)
            padded[0, : len(chunk)] = chunk
            numbers = {"start": self._used, "position": self._position, "last": len(chunk) - 1}
            inputs: dict[str, Array] = {name: np.array([n], np.int32) for name, n in numbers.items()}
            inputs["input_ids"] = padded
            if self._embeds:
                inputs["vision_embeds"] = rows = np.zeros((1, padded.shape[1], self._hidden), np.float32)
                if embeddings is not None:
                    rows[0, : len(chunk)] = embeddings[: len(chunk)]
                    embeddings = embeddings[len(chunk) :]
            logits = self._models.decode("prefill" if fits else "decode", inputs)
            self._used += len(chunk)
            self._position += len(chunk)
            token_ids = token_ids[len(chunk) :]
        return logits


class _Interpreted:
    """The packages in the reference interpreter."""

    def __init__(self, packages: dict[str, Path], config: ModelConfig, rounding: bool):
        import torch

        from himix_edge.runtimes.coreml.interpreter import Dequantized, Interpreter, load_program

        self._torch = torch
        programs = {role: load_program(package) for role, package in packages.items()}
        weights = Dequantized()
        self._encoder, self._injector = (
            Interpreter(programs[role], "main", packages[role], rounding, weights)
            for role in ("vision_encoder", "vision_injector")
        )
        self._functions = {
            name: Interpreter(programs["decoder"], name, packages["decoder"], rounding, weights)
            for name in ("prefill", "decode")
        }
        self._states: dict[str, Tensor] = {}
        functions = {"vision_encoder": self._encoder, "vision_injector": self._injector}
        for role, function in (*functions.items(), *(("decoder", each) for each in self._functions.values())):
            inputs, outputs = function.ports()
            check_ports(packages[role], role, config, dict.fromkeys(inputs), outputs)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return self._functions["decode"].state_shapes()

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        image = self._torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        return self._encoder.run({"image": image}, {})["vision_features"].float().numpy()

    def inject(self, features: Floats) -> list[Floats]:
        given = {"vision_features": self._torch.from_numpy(np.ascontiguousarray(features))}
        made = self._injector.run(given, {})
        return [made[name].float().numpy() for name in OUTPUTS if name in made]

    def read_state(self, name: str) -> Floats:
        return self._states[name].float().numpy()

    def write_state(self, name: str, cache: Floats) -> None:
        dtype = self._functions["decode"].state_dtypes()[name]
        self._states[name] = self._torch.from_numpy(cache).to(dtype)

    def decode(self, function: str, inputs: dict[str, Array]) -> Floats:
        given = {name: self._torch.from_numpy(array) for name, array in inputs.items()}
        logits: Floats = self._functions[function].run(given, self._states)["logits"][0].float().numpy()
        return logits


class _Apple:
    """The packages in Core ML itself."""

    def __init__(self, packages: dict[str, Path], device: str):
        from coremltools import ComputeUnit
        from coremltools.models import MLModel

        units = ComputeUnit[COMPUTE_UNITS.get(device, "CPU_ONLY")]
        self._encoder, self._injector = (
            MLModel(str(packages[role]), compute_units=units) for role in ("vision_encoder", "vision_injector")
        )
        self._functions = {
            name: MLModel(str(packages["decoder"]), function_name=name, compute_units=units)
            for name in ("prefill", "decode")
        }
        self._state = self._functions["decode"].make_state()

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._state.read_state(name).shape for name in STATES}

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        from PIL import Image

        features: Floats = self._encoder.predict({"image": Image.fromarray(pixels[0])})["vision_features"]
        return features

    def inject(self, features: Floats) -> list[Floats]:
        made = self._injector.predict({"vision_features": features})
        return [made[name] for name in OUTPUTS if name in made]

    def read_state(self, name: str) -> Floats:
        state: Floats = self._state.read_state(name)
        return state

    def write_state(self, name: str, cache: Floats) -> None:
        self._state.write_state(name, cache)

    def decode(self, function: str, inputs: dict[str, Array]) -> Floats:
        logits: Floats = self._functions[function].predict(inputs, self._state)["logits"][0]
        return logits


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    device: str = CPU,
) -> CoreMlEngine:
    """Open the three packages. Raises InputError for a package that cannot be read.

    `device` is one of COMPUTE_UNITS; `threads` and `activations` are Core ML's own choice.
    """
    return CoreMlEngine(files, config, capacity, device=device)
