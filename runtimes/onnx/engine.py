"""ONNX Runtime: past and present of every layer are bound to the same memory, so a step copies no cache."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Array, Factors, Floats, given_or_zeros
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SETTINGS = {
    "session.load_model_format": "ONNX",  # whatever a file looks like
    "session.force_spinning_stop": "1",  # threads of the tower would spin beside those of the decoder
    "session.disable_quant_qdq": "1",  # int8 weights that are dequantised would be multiplied by int8 activations
    "session.disable_qdq_constant_folding": "1",  # nor are they all held in float
}
FLOAT = "tensor(float)"
CPU = "cpu"
OVERFLOWS = {"session.x64quantprecision": "1"}  # the slower kernel, for a CPU whose int8 sums overflow
# an ONNX file: a (1, 4) uint8 by four 127 of int8 -> y (1, 1) int32, with MatMulInteger
LARGEST_SUM = (
    b'\x08\x08:X\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01g*\x0f\x08\x04\x08\x01\x10\x03B\x01bJ\x04\x7f\x7f\x7f\x7f'
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x04b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\n"
)


class OnnxEngine:
    """See `Engine`. The cache is one float32 array (2, L, G, C, h) that the graph reads and writes in place."""

    def __init__(
        self,
        files: dict[str, Path],
        config: ModelConfig,
        capacity: int,
        threads: int | None,
        device: str = CPU,
        factors: Factors | None = None,
    ):
        self.capacity, self._factors = capacity, factors or {}
        self._encoder, self._injector, self._decoder = (
            open_role(files, role, config, threads, device=device, factors=self._factors.get(role))
            for role in ("vision_encoder", "vision_injector", "decoder")
        )
        self._vision_rows, self._embeds = config.vision_rows, config.images is not None
        decoder = config.decoder
        self._hidden = decoder.hidden_size
        layers, heads, head_dim = decoder.num_hidden_layers, decoder.num_key_value_heads, decoder.head_dim
        self._check(files["decoder"], layers, [1, heads, capacity, head_dim], [1, decoder.vocab_size])
        self._allocate((2, layers, heads, capacity, head_dim), decoder.vocab_size)

    def fork(self) -> "OnnxEngine":
        """See `ForkableEngine`: ONNX Runtime's sessions may run several times at once."""
        other = copy.copy(self)
        other._allocate(self._cache.shape, self._logits.shape[1])
        return other

    def _allocate(self, cache: tuple[int, ...], vocabulary: int) -> None:
        """A cache and logits of its own, bound to the decoder's inputs and outputs."""
        _, layers, heads, capacity, head_dim = cache
        self._cache = np.zeros(cache, np.float32)
        self._logits = np.zeros((1, vocabulary), np.float32)
        self._binding = self._decoder.io_binding()
        for layer in range(layers):
            for kind, name in enumerate(("key", "value")):
                where = self._cache[kind, layer].ctypes.data
                shape = [1, heads, capacity, head_dim]
                self._binding.bind_input(f"past_key_values.{layer}.{name}", "cpu", 0, np.float32, shape, where)
                self._binding.bind_output(f"present.{layer}.{name}", "cpu", 0, np.float32, shape, where)
        self._binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
        self._length = self._position = 0
        self.use_adapter(self._factors)

    def use_adapter(self, factors: Factors) -> None:
        """See `AdaptableEngine`."""
        from onnxruntime import OrtValue

        self._factors = factors  # whose memory it is
        for name, array in factors.get("decoder", {}).items():
            self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))

    def _check(self, path: Path, layers: int, cache: list[int], logits: list[int]) -> None:
        """A graph that is not what the manifest says would write outside of the buffers it is given."""
        past = {f"past_key_values.{layer}.{kind}": cache for layer in range(layers) for kind in ("key", "value")}
        present = {name.replace("past_key_values", "present"): cache for name in past}
        for expected, found in ((past, self._decoder.get_inputs()), (present, self._decoder.get_outputs())):
            ports = {port.name: (port.type, port.shape) for port in found}
            for name, shape in (expected | ({"logits": logits} if expected is present else {})).items():
                if ports.get(name) != (FLOAT, shape):
                    kind, given = ports.get(name, (None, None))
                    of_type = "" if kind in (FLOAT, None) else f" of {kind}"
                    raise InputError(f"{path}: {name} is {given}{of_type}, the manifest says {shape}")

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        features: Floats = self._encoder.run(None, {"image": pixels})[0]
        return features

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._injector.run(None, {"vision_features": features, **self._factors.get("vision_injector", {})})
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        embeddings: Floats = self._injector.run(None, {"vision_features": features})[0]
        return embeddings

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        return self._cache[0, :, :, : self._length].copy(), self._cache[1, :, :, : self._length].copy()

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._length, self._position = key.shape[2], position
        for layer, row in enumerate(self._vision_rows):
            if row is not None:
                self._cache[0, layer, :, : self._length] = key[row]
                self._cache[1, layer, :, : self._length] = value[row]

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        count = len(token_ids)
        positions = np.arange(self._position, self._position + count, dtype=np.int64)[None]
        self._length += count
        self._position += count
        inputs: dict[str, Array] = {
            "input_ids": token_ids[None],
            "position_ids": positions,
            "seqlens_k": np.array([self._length - 1], np.int32),
            "total_sequence_length": np.array(self._length, np.int32),
        }
        if self._embeds:
            inputs["vision_embeds"] = given_or_zeros(embeddings, count, self._hidden)
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        self._decoder.run_with_iobinding(self._binding)
        return self._logits[0].copy()


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    device: str = CPU,
    factors: Factors | None = None,
) -> OnnxEngine:
    """Open the three graphs. Raises InputError if ONNX Runtime refuses a file, or has not got the device.

    `activations` is written into these graphs, node by node; it is not decided here.
    """
    return OnnxEngine(files, config, capacity, threads, device, factors)


def open_role(
    files: dict[str, Path],
    role: str,
    config: ModelConfig,
    threads: int | None,
    optimization: int | None = None,
    device: str = CPU,
    factors: Mapping[str, Floats] | None = None,
) -> "InferenceSession":
    """A role's graph, see `open_graph`. Raises InputError if it is not one of this role and model, too."""
    session = open_graph(files[role], threads, optimization, device)
    # inputs that may be left out, as those of an adapter, stand among the initializers
    ports = [*session.get_inputs(), *(session.get_overridable_initializers() if factors else ())]
    inputs = {port.name: port.shape for port in ports}
    check_ports(files[role], role, config, inputs, [port.name for port in session.get_outputs()], factors)
    return session


def open_graph(
    path: Path, threads: int | None, optimization: int | None = None, device: str = CPU
) -> "InferenceSession":
    """A graph on the CPU, or on one of `devices`, with the CPU for what that has no operator for.

    `optimization` is ONNX Runtime's level (1: basic), all of them by default.

    Raises InputError if ONNX Runtime refuses the file, or gives its graph to the CPU whole.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3 if device == CPU else 4  # what a provider lacks is said by whoever asked for it
    for key, value in (SETTINGS | (OVERFLOWS if int8_sums_overflow() else {})).items():
        options.add_session_config_entry(key, value)
    if optimization is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(optimization)
    if threads:
        options.intra_op_num_threads = threads
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device != CPU:
        from himix_edge.runtimes.onnx.providers import provider_of

        providers.insert(0, provider_of(device))
        options.enable_mem_pattern = device != "directml"  # which cannot have it
    try:
        # its second try, with the same provider, writes to standard output
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise InputError(f"{path}: ONNX Runtime cannot load it: {[*str(error).splitlines(), ''][0]}") from None
    if len(session.get_providers()) < len(providers):
        raise InputError(f"{path}: ONNX Runtime cannot use {device} on this machine")
    return session


@cache
def int8_sums_overflow() -> bool:
    """Whether ONNX Runtime's usual int8 kernel is wrong for large numbers here, as it is on x86 without VNNI."""
    import onnxruntime

    graph = onnxruntime.InferenceSession(LARGEST_SUM, providers=["CPUExecutionProvider"])
    (found,) = graph.run(None, {"a": np.full((1, 4), 255, np.uint8)})
    return int(found[0, 0]) != 4 * 255 * 127
