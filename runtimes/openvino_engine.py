"""OpenVINO: the cache is state inside the decoder; an image's keys and values are put there as its first slots."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import BackendMissing, InputError
from himix_edge.runtimes.engine import Floats

# the CPU plugin's own defaults are an 8-bit cache, int8 activations and, where the CPU has it, bfloat16
FLOAT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


class OpenVinoEngine:
    """See `Engine`; stateful, the cache grows by what it is given."""

    def __init__(
        self, files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
    ):
        self.capacity = capacity
        settings = {"PERFORMANCE_HINT": "LATENCY", **(FLOAT if activations == "float" else {})}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._rows = config.vision_rows
        self._encoder, self._injector, self._decoder = (
            _open(files[role], settings) for role in ("vision_encoder", "vision_injector", "decoder")
        )
        self._request = self._decoder.create_infer_request()
        self._states = {}
        for state in self._request.query_state():
            _, layer, kind = state.name.split("present")[0].split(".")
            self._states[int(layer), kind == "value"] = state
        expected = 2 * config.decoder.num_hidden_layers
        if len(self._states) != expected:
            raise InputError(
                f"{files['decoder']}: {len(self._states)} cache states, the manifest's model has {expected}"
            )
        self._position = 0

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
        import openvino

        self._position = position
        self._request.reset_state()
        if not key.shape[2]:
            return
        for layer, row in enumerate(self._rows):
            if row is not None:
                for is_value, tensor in enumerate((key, value)):
                    self._states[layer, bool(is_value)].state = openvino.Tensor(np.ascontiguousarray(tensor[row][None]))

    def step(self, token_ids: NDArray[np.int64]) -> Floats:
        count = len(token_ids)
        inputs = {
            "input_ids": token_ids[None],
            "position_ids": np.arange(self._position, self._position + count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._position += count
        logits: Floats = self._request.infer(inputs)["logits"][0].copy()
        return logits


def load(
    files: dict[str, Path], config: ModelConfig, capacity: int, threads: int | None, activations: str
) -> OpenVinoEngine:
    """Open the three graphs. Raises BackendMissing, or InputError if OpenVINO refuses a file."""
    return OpenVinoEngine(files, config, capacity, threads, activations)


def _open(path: Path, settings: dict[str, str]) -> Any:
    try:
        import openvino
    except ImportError:
        raise BackendMissing("openvino", "openvino") from None
    try:
        return openvino.Core().compile_model(path, "CPU", settings)
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise InputError(f"{path}: OpenVINO cannot load it: {str(error).splitlines()[0]}") from None
