"""OpenVINO: paged attention over blocks of slots, into the first of which an image's keys and values are written."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import BackendMissing, InputError
from himix_edge.runtimes.engine import Floats
from himix_edge.runtimes.openvino_paging import PagedCache, paged
from himix_edge.runtimes.signal_stack import signal_stack_kept

# the CPU plugin's own defaults are int8 activations, 32 of them with a scale, and bfloat16 where the CPU has it
GROUP, PRECISION = "DYNAMIC_QUANTIZATION_GROUP_SIZE", "INFERENCE_PRECISION_HINT"
FLOAT = {PRECISION: "f32", GROUP: "0"}
DECODER = {PRECISION: "f32", "KV_CACHE_PRECISION": "f32"}


class OpenVinoEngine:
    """See `Engine`."""

    def __init__(
        self, files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
    ):
        self.capacity, self._rows = capacity, config.vision_rows
        settings = {"PERFORMANCE_HINT": "LATENCY", **(FLOAT if activations == "float" else {})}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        plain = {layer for layer, row in enumerate(self._rows) if row is None}
        self._encoder, self._injector, self._decoder = (
            _open(files[role], settings, plain if role == "decoder" else None)
            for role in ("vision_encoder", "vision_injector", "decoder")
        )
        self._request = self._decoder.create_infer_request()
        self._cache = PagedCache(self._decoder, self._request, config.decoder, capacity, files["decoder"])
        self._used = self._position = 0

    @property
    def layer_types(self) -> Counter[str]:
        """What the plugin runs the decoder with, by kind of layer."""
        nodes = self._decoder.get_runtime_model().get_ops()
        return Counter(node.get_rt_info()["layerType"].astype(str) for node in nodes)

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        features: Floats = self._encoder({"image": pixels})["vision_features"].copy()
        return features

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        result = self._injector({"vision_features": features})
        return result["vision_key"].copy(), result["vision_value"].copy()

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        for layer, row in enumerate(self._rows):
            if row is not None:
                self._cache.write(layer, key[row], value[row])

    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        count = len(token_ids)
        inputs = {
            "input_ids": token_ids,
            "position_ids": np.arange(self._position, self._position + count, dtype=np.int64),
            **self._cache.inputs(self._used, self._position, count),
        }
        self._used += count
        self._position += count
        logits: Floats = self._request.infer(inputs)["logits"][0].copy()
        return logits


def load(
    files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
) -> OpenVinoEngine:
    """Open the three graphs. Raises BackendMissing, or InputError if OpenVINO refuses a file."""
    return OpenVinoEngine(files, config, capacity, threads, activations)


def _open(path: Path, settings: dict[str, str], plain: set[int] | None) -> Any:
    """Compile a graph; `plain` are a decoder's layers without the image."""
    try:
        import openvino
    except ImportError:
        raise BackendMissing("openvino", "openvino") from None
    core = openvino.Core()
    try:
        graph = core.read_model(path)
        if plain is None:
            settings = {PRECISION: "f32", GROUP: str(_group(graph))} | settings
        else:
            paged(graph, plain)
            settings = settings | DECODER
        with signal_stack_kept():
            return core.compile_model(graph, "CPU", settings)
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise InputError(f"{path}: OpenVINO cannot load it: {str(error).splitlines()[0]}") from None


def _group(graph: Any) -> int:
    """How many activations of an image's graph get a scale together: more are faster, up to the weights' own groups."""
    stored = [node.shape for node in graph.get_ops() if node.get_type_name() == "Constant" and _is_quantised(node)]
    return next(group for group in (128, 64, 32) if all(size % group == 0 for *_, size in stored) or group == 32)


def _is_quantised(constant: Any) -> bool:
    """Integers (rows, groups, group)."""
    return constant.get_element_type().to_string() in ("i4", "i8") and len(constant.shape) == 3
