"""Static graphs in ONNX Runtime: the host keeps the cache, the masks and the table's rows; the graphs only compute."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.onnx.engine import CPU, open_graph
from himix_edge.runtimes.onnx_qnn import DECODER_PARTS, PREFILL
from himix_edge.runtimes.onnx_qnn.chips import open_for
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

UNSEEN = -1e4  # what a score is lowered by where a token sees nothing; float16 holds it


class OnnxQnnEngine:
    """See `Engine`. The cache is one float32 array (2, L, G, C, h); a graph gets it all and gives the new tokens'."""

    def __init__(
        self, files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, device: str = CPU
    ):
        """On another `device` than the CPU, what was compiled for that chip computes."""
        self.capacity, self._config = capacity, config
        self._encoder, self._injector = (
            _opened(files[role], device, threads) for role in ("vision_encoder", "vision_injector")
        )
        for role, session in (("vision_encoder", self._encoder), ("vision_injector", self._injector)):
            shapes = {port.name: port.shape for port in session.get_inputs()}
            check_ports(files[role], role, config, shapes, [port.name for port in session.get_outputs()])
        step, prefill, inputs = (files["decoder"].with_name(name) for name in DECODER_PARTS)
        self._graphs = {count: _opened(path, device, threads) for count, path in ((1, step), (PREFILL, prefill))}
        self._inputs = open_graph(inputs, threads)
        decoder = config.decoder
        layers, heads, size = decoder.num_hidden_layers, decoder.num_key_value_heads, decoder.head_dim
        self._names = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
        self._group = decoder.num_attention_heads // heads
        self._plain = frozenset(config.layers_without_image)
        for count, path in ((1, step), (PREFILL, prefill)):
            self._check(path, count)
        found = [port.name for port in self._inputs.get_inputs()]
        if found != ["input_ids", "position_ids"]:
            raise InputError(f"{inputs}: takes {', '.join(found)[:80]}, not input_ids and position_ids")
        self._cache = np.zeros((2, layers, heads, capacity, size), np.float32)
        self._used = self._position = 0

    def fork(self) -> "OnnxQnnEngine":
        """See `ForkableEngine`: ONNX Runtime's sessions may run several times at once."""
        other = copy.copy(self)
        other._cache = np.zeros_like(self._cache)
        other._used = other._position = 0
        return other

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        features: Floats = self._encoder.run(None, {"image": pixels})[0]
        return features

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._injector.run(None, {"vision_features": features})
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        embeddings: Floats = self._injector.run(None, {"vision_features": features})[0]
        return embeddings

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return self._cache[0, :, :, : self._used].copy(), self._cache[1, :, :, : self._used].copy()

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        for layer, row in enumerate(self._config.vision_rows):
            if row is not None:
                self._cache[0, layer, :, : self._used] = key[row]
                self._cache[1, layer, :, : self._used] = value[row]

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        positions = np.arange(self._position, self._position + len(token_ids), dtype=np.int64)
        ids = np.maximum(token_ids, 0)[None]
        embeds, cos, sin = self._inputs.run(None, {"input_ids": ids, "position_ids": positions[None]})
        if embeddings is not None:
            embeds = np.where((token_ids < 0)[:, None], embeddings, embeds[0])[None].astype(np.float32)
        logits = np.empty(0, np.float32)
        while (done := len(token_ids)) and done:
            count = 1 if done == 1 else min(done, PREFILL)
            logits = self._chunk(embeds[:, :count], cos[:, :, :count], sin[:, :, :count])
            token_ids, embeds = token_ids[count:], embeds[:, count:]
            cos, sin = cos[:, :, count:], sin[:, :, count:]
        return logits

    def _chunk(self, embeds: Floats, cos: Floats, sin: Floats) -> Floats:
        """Up to PREFILL tokens, which stand at the end of a graph's."""
        new = embeds.shape[1]
        count = 1 if new == 1 else PREFILL
        ahead = count - new
        filled = {False: self._used, True: self._position}  # HiMix's text counts from 0 behind the image
        feeds: dict[str, Array] = {
            "embeds": np.pad(embeds, ((0, 0), (ahead, 0), (0, 0))),
            **{
                name: np.pad(table, ((0, 0), (0, 0), (ahead, 0), (0, 0)))
                for name, table in (("cos", cos), ("sin", sin))
            },
            "mask": self._mask(filled[False], count, ahead),
        }
        if self._plain:
            feeds["text_mask"] = self._mask(filled[True], count, ahead)
        for i, name in enumerate(self._names):
            feeds[f"past.{name}"] = self._cache[i % 2, i // 2][None]
        logits, *made = self._graphs[count].run(None, feeds)
        for i, tensor in enumerate(made):
            first = filled[i // 2 in self._plain]
            self._cache[i % 2, i // 2, :, first : first + new] = tensor[0, :, ahead:]
        self._used += new
        self._position += new
        result: Floats = logits[0]
        return result

    def _mask(self, filled: int, count: int, ahead: int) -> Floats:
        """(1, 1, H/G * T, C+T): every token sees the filled slots, and the new ones up to itself."""
        seen = np.zeros((count, self.capacity + count), bool)
        seen[:, :filled] = True
        seen[:, self.capacity + ahead :] = np.tril(np.ones((count, count), bool))[:, ahead:]
        mask = np.where(seen, 0, UNSEEN).astype(np.float32)
        return np.tile(mask, (self._group, 1))[None, None]

    def _check(self, path: Path, count: int) -> None:
        """Raises InputError for a graph that is not the one of the manifest's model."""
        config = self._config.decoder
        half, slots = config.head_dim // 2, self.capacity + count
        takes = {"embeds": [1, count, config.hidden_size], "cos": [1, 1, count, half], "sin": [1, 1, count, half]}
        masks = ["mask", *(["text_mask"] if self._plain else [])]
        takes |= {name: [1, 1, self._group * count, slots] for name in masks}
        cache = [1, config.num_key_value_heads, self.capacity, config.head_dim]
        takes |= {f"past.{name}": cache for name in self._names}
        gives = {"logits": [1, config.vocab_size]}
        gives |= {f"new.{name}": [*cache[:2], count, cache[3]] for name in self._names}
        graph = self._graphs[count]
        for expected, ports in ((takes, graph.get_inputs()), (gives, graph.get_outputs())):
            found = {port.name: port.shape for port in ports}
            wrong = next((name for name in {**expected, **found} if expected.get(name) != found.get(name)), None)
            if wrong is not None:
                raise InputError(f"{path}: {wrong[:60]} is {found.get(wrong)}, the manifest says {expected.get(wrong)}")


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    device: str = CPU,
) -> OnnxQnnEngine:
    """Open the five graphs. Raises InputError if ONNX Runtime refuses a file, or the bundle has none for the chip."""
    return OnnxQnnEngine(files, config, capacity, threads, device)


def _opened(path: Path, device: str, threads: int | None) -> "InferenceSession":
    if device == CPU:
        return open_graph(path, threads)
    compiled = path.parent / device / path.name
    if not compiled.is_file():
        raise InputError(f"{path.parent}: nothing in it is compiled for {device}; himix export --chip does that")
    return open_for(compiled, device)
