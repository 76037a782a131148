"""Core AI: the caller owns the decoder's states, so an image's keys and values are written straight into them."""

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.chatter import without_chatter
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from coreai.runtime import NDArray as Tensor

CAPACITY_MULTIPLE = 32  # slots of the cache are a multiple of it
PREFILL = 64  # tokens that the decoder's prefill function takes at once
STATES = ("key_cache", "value_cache")
FUNCTIONS = ("prefill", "decode")
Result = TypeVar("Result")


class CoreAiEngine:
    """See `Engine`."""

    def __init__(self, files: Mapping[str, Path], config: ModelConfig, capacity: int):
        """Open the three folders. Raises InputError for one that is not the manifest's, or cannot be read."""
        self.capacity, self._rows = capacity, config.vision_rows
        loop = _Loop()
        models = {}
        for role, path in files.items():
            models[role] = _Model(loop, path.parent)
            for name in models[role].functions:
                check_ports(
                    path.parent, role, config, dict.fromkeys(models[role].inputs(name)), models[role].gives(name)
                )
        self._encoder, self._injector, self._decoder = (
            models[role] for role in ("vision_encoder", "vision_injector", "decoder")
        )
        decoder = config.decoder
        slots = -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        self._shape = (decoder.num_hidden_layers, decoder.num_key_value_heads, slots, decoder.head_dim)
        self._dtypes = self._decoder.states(FUNCTIONS, self._shape)
        self._states: dict[str, Tensor] = {}
        self._used = self._position = 0
        self._prefill = min(PREFILL, slots)
        self._embeds, self._hidden = config.images is not None, decoder.hidden_size

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._encoder.run("main", {"image": pixels})["vision_features"]

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        made = self._injector.run("main", {"vision_features": features})
        return made["vision_key"], made["vision_value"]

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        return self._injector.run("main", {"vision_features": features})["vision_embeds"]

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        key, value = (self._states[name].numpy()[:, :, : self._used].astype(np.float32) for name in STATES)
        return key, value

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        for name, tensor in zip(STATES, (key, value), strict=True):
            cache = np.zeros(self._shape, self._dtypes[name])
            for layer, row in enumerate(self._rows):
                if row is not None:
                    cache[layer, :, : self._used] = tensor[row]
            self._states[name] = as_tensor(cache)

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
            logits = self._decoder.run("prefill" if fits else "decode", inputs, self._states)["logits"][0]
            self._used += len(chunk)
            self._position += len(chunk)
            token_ids = token_ids[len(chunk) :]
        return logits


class _Model:
    """One folder's functions."""

    def __init__(self, loop: "_Loop", folder: Path):
        from coreai.authoring import AIModelAsset

        self._loop, self.folder = loop, folder
        try:
            with without_chatter():
                model = loop.enter(AIModelAsset.load(folder).executable())
                self.functions = {name: model.load_function(name) for name in model.function_names}
        except RuntimeError as error:
            raise InputError(f"{folder}: Core AI cannot load it: {[*str(error).splitlines(), ''][0]:.200}") from None

    def inputs(self, function: str) -> list[str]:
        return list(self.functions[function].desc.input_names)

    def gives(self, function: str) -> list[str]:
        return list(self.functions[function].desc.output_names)

    def states(self, functions: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, np.dtype[Any]]:
        """The types of the states. Raises InputError for functions or states that are not those."""
        found = {}
        for function in functions:
            if function not in self.functions:
                raise InputError(f"{self.folder}: no function {function}, which the manifest's model needs")
            desc = self.functions[function].desc
            for name in STATES:
                if name not in desc.state_names:
                    raise InputError(f"{self.folder}: {function} has no state {name}; export the bundle again")
                state = desc.state_descriptor(name)
                if tuple(state.shape) != shape:
                    raise InputError(
                        f"{self.folder}: state {name} is {tuple(state.shape)!s:.80}, the manifest says {shape}"
                    )
                found[name] = np.dtype(state.dtype)
        return found

    def run(
        self, function: str, inputs: Mapping[str, Array], states: "Mapping[str, Tensor] | None" = None
    ) -> dict[str, Floats]:
        given = {name: as_tensor(np.ascontiguousarray(array)) for name, array in inputs.items()}
        made = self._loop.wait(_called(self.functions[function], given, states))
        return {name: made[name].numpy().astype(np.float32) for name in self.gives(function)}


def as_tensor(array: Array) -> "Tensor":
    """A copy of an array, as Core AI has it."""
    from coreai.runtime import NDArray as Tensor

    return Tensor(array)


async def _called(function: Any, given: "Mapping[str, Tensor]", states: "Mapping[str, Tensor] | None") -> Any:
    return await (function(given, states) if states else function(given))


class _Loop:
    """An event loop in a thread of its own, as callers may have one that runs."""

    def __init__(self) -> None:
        self._loop, self._open = asyncio.new_event_loop(), AsyncExitStack()
        threading.Thread(target=self._loop.run_forever, name="core-ai", daemon=True).start()
        self._end = weakref.finalize(self, _stop, self._loop, self._open)

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def enter(self, context: Any) -> Any:
        return self.wait(self._open.enter_async_context(context))


def _stop(loop: asyncio.AbstractEventLoop, opened: AsyncExitStack) -> None:
    asyncio.run_coroutine_threadsafe(opened.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)


def load(
    files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
) -> CoreAiEngine:
    """Open the three folders. Raises InputError for one that cannot be read.

    `threads` and `activations` are Core AI's own choice.
    """
    return CoreAiEngine(files, config, capacity)
