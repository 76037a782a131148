"""OpenVINO: three graphs; an image's keys and values are written into the first slots of the decoder's cache."""

import copy
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Factors, Floats, given_or_zeros
from himix_edge.runtimes.openvino.cache import Cache, PagedCache, StateCache, paged
from himix_edge.runtimes.openvino.signal_stack import signal_stack_kept
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from openvino import CompiledModel, Model, Node, Output

# the CPU plugin's own defaults are int8 activations, 32 of them with a scale, and bfloat16 where the CPU has it
GROUP, PRECISION = "DYNAMIC_QUANTIZATION_GROUP_SIZE", "INFERENCE_PRECISION_HINT"
FLOAT = {PRECISION: "f32", GROUP: "0"}
CPU = "cpu"
DECODER = {PRECISION: "f32"}
CACHE = "KV_CACHE_PRECISION"
UNFUSED = {"SNIPPETS_MODE": "DISABLE"}  # attention and chains of elementwise operators, each operator by itself


class OpenVinoEngine:
    """See `Engine`."""

    def __init__(
        self,
        files: dict[str, Path],
        config: ModelConfig,
        capacity: int,
        threads: int | None,
        activations: str,
        paging: bool = True,
        device: str = CPU,
        factors: Factors | None = None,
        kv_bits: int = 32,
    ):
        """Without `paging` the decoder runs as it is stored, on states; so it does on another `device` than the CPU.

        Raises InputError for `kv_bits` 8, of a paged cache's numbers, where there is none.
        """
        self.capacity, self._factors = capacity, factors or {}
        settings = {"PERFORMANCE_HINT": "LATENCY", **(FLOAT if activations == "float" else {})}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        device, paging = device.upper(), paging and device == CPU
        graphs = {role: _read(path) for role, path in files.items()}
        for role, graph in graphs.items():
            inputs = {name: _shape(port) for port in graph.inputs for name in port.get_names()}
            outputs = [name for port in graph.outputs for name in port.get_names()]
            check_ports(files[role], role, config, inputs, outputs, self._factors.get(role))
        images = [
            _compile(graphs[role], image_settings(graphs[role], device) | settings, files[role], device)
            for role in ("vision_encoder", "vision_injector")
        ]
        where, graph, settings = (
            files["decoder"],
            graphs["decoder"],
            settings | DECODER | {CACHE: "u8" if kv_bits == 8 else "f32"},
        )
        try:
            self._decoder = _compile(
                paged(graph, config.layers_without_image) if paging else graph, settings, where, device
            )
        except (InputError, RuntimeError):  # no paged attention on this CPU, or the file is not ours
            self._decoder = _compile(_read(where), settings, where, device)
        self._paged = bool(self.layer_types["PagedAttention"])
        if kv_bits == 8 and not self._paged:
            raise InputError(f"kv_bits 8: OpenVINO has no paged attention on this {device}; open it with 32")
        self._embeds, self._hidden = config.images is not None, config.decoder.hidden_size
        self._allocate(images, config, where)

    def fork(self) -> "OpenVinoEngine":
        """See `ForkableEngine`. Requests of one compiled graph take turns on its threads."""
        other = copy.copy(self)
        images = [request.get_compiled_model() for request in (self._encoder, self._injector)]
        other._allocate(images, self._config, self._where)
        return other

    def _allocate(self, images: list["CompiledModel"], config: ModelConfig, where: Path) -> None:
        """Requests and a cache of its own for the compiled graphs; `images` are encoder and injector."""
        self._config, self._where = config, where
        self._encoder, self._injector = (graph.create_infer_request() for graph in images)
        self._request = self._decoder.create_infer_request()
        self._cache: Cache = (
            PagedCache(self._decoder, self._request, config, self.capacity, where)
            if self._paged
            else StateCache(self._request, config, where)
        )
        self._used = self._position = 0
        self.use_adapter(self._factors)

    def use_adapter(self, factors: Factors) -> None:
        """See `AdaptableEngine`."""
        import openvino

        for role, request in (("vision_injector", self._injector), ("decoder", self._request)):
            for name, array in factors.get(role, {}).items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        self._factors = factors  # whose memory it is

    @property
    def layer_types(self) -> Counter[str]:
        """What the plugin runs the decoder with, by kind of layer."""
        nodes = self._decoder.get_runtime_model().get_ops()
        return Counter(node.get_rt_info()["layerType"].astype(str) for node in nodes)

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        features: Floats = self._encoder.infer({"image": pixels})["vision_features"].copy()
        return features

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        result = self._injector.infer({"vision_features": features})
        return result["vision_key"].copy(), result["vision_value"].copy()

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        embeddings: Floats = self._injector.infer({"vision_features": features})["vision_embeds"].copy()
        return embeddings

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return self._cache.kept(self._used)

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        self._cache.fill(key, value)

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        inputs = self._cache.inputs(token_ids, self._used, self._position)
        if self._embeds:
            rows = given_or_zeros(embeddings, len(token_ids), self._hidden)
            inputs["vision_embeds"] = self._cache.embeddings(rows)
        self._used += len(token_ids)
        self._position += len(token_ids)
        logits: Floats = self._request.infer(inputs)["logits"][0].copy()
        return logits


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    device: str = CPU,
    factors: Factors | None = None,
    kv_bits: int = 32,
) -> OpenVinoEngine:
    """Open the three graphs, with a cache of 32 or 8 bits.

    Raises InputError if OpenVINO refuses a file, or has not got the device or such a cache.
    """
    return OpenVinoEngine(
        files, config, capacity, threads, activations, device=device, factors=factors, kv_bits=kv_bits
    )


def image_settings(graph: "Model", device: str = CPU) -> dict[str, str]:
    """What the graph of an image's tower or injector is compiled with.

    Where attention has as many tokens as heads, OpenVINO 2026.4 takes the one for the other when it fuses it on the
    CPU with the transposes around it, and computes something else; so it is not fused there.
    """
    attentions = (n for n in graph.get_ops() if n.get_type_name() == "ScaledDotProductAttention")
    shapes = [_shape(attention.input_value(0)) or [] for attention in attentions]
    ambiguous = any(heads == tokens for shape in shapes for heads, tokens in [shape[-3:-1]])
    return {PRECISION: "f32", GROUP: str(_group(graph)), **(UNFUSED if ambiguous and device.lower() == CPU else {})}


def _read(path: Path) -> "Model":
    import openvino

    try:
        return openvino.Core().read_model(path, path.with_suffix(".bin"))
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise _refused(path, error) from None


def _shape(port: "Output") -> list[int] | None:
    """A port's lengths, -1 for one that may be any; None: their number is open."""
    partial = port.get_partial_shape()
    if partial.rank.is_dynamic:
        return None
    return [-1 if length.is_dynamic else length.get_length() for length in partial]


def _compile(graph: "Model", settings: dict[str, str], path: Path, device: str) -> "CompiledModel":
    import openvino

    try:
        with signal_stack_kept():
            return openvino.Core().compile_model(graph, device, settings)
    except Exception as error:  # as above; what it says goes on to the user
        raise _refused(path, error) from None


def _refused(path: Path, error: Exception) -> InputError:
    said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return InputError(f"{path}: OpenVINO cannot load it: {said[-1]}")  # before it stand the places in its source


def _group(graph: "Model") -> int:
    """How many activations of an image's graph get a scale together: more are faster, up to the weights' own groups."""
    stored = [node.shape for node in graph.get_ops() if node.get_type_name() == "Constant" and _is_quantized(node)]
    return next(group for group in (128, 64, 32) if all(size % group == 0 for *_, size in stored) or group == 32)


def _is_quantized(constant: "Node") -> bool:
    """Integers (rows, groups, group)."""
    return constant.get_element_type().to_string() in ("i4", "i8") and len(constant.shape) == 3
