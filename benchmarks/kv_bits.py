"""A decoder's cache in 8 bits: what it saves and costs.

    himix export --target openvino --quant int4 --model qwen2-0.5b --random-weights --group-size 128 --out bundles/shape
    python -m benchmarks.kv_bits [--bundle bundles/shape] [--filled N] [--rounds R]

Of an OpenVINO bundle: bytes of the cache, and the times of filling it, of a prompt and of a token, with 8 bits beside
those with 32, medians of rounds taken in turns in one run; and how far logits are apart, over their own spread. Then
ONNX Runtime's GroupQueryAttention by itself, one layer with Qwen2-0.5B's heads, a token behind N filled slots: float32
beside int8 with a scale for each channel. Its scales are fixed, so they have to be known before anything is said.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from himix_edge.cli.console import print_table
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.verifying import open_verified

PROMPT, TOKENS = 24, 12
HEADS, KV_HEADS, SIZE = 14, 2, 64  # Qwen2-0.5B's
Times = dict[str, list[float]]
Result = TypeVar("Result")


def bundle_table(folder: Path, filled: int, rounds: int) -> Iterator[tuple[str, float, float, float]]:
    """Rows of what, with 32 bits, with 8, and their ratio; times in ms."""
    bundle = open_verified(folder)
    engines = {bits: load_engine(bundle, kv_bits=bits) for bits in (32, 8)}
    decoder, source = bundle.config.decoder, np.random.default_rng(0)
    shape = (2, bundle.config.num_vision_rows, decoder.num_key_value_heads, filled, decoder.head_dim)
    key, value = source.standard_normal(shape, np.float32)
    ids = source.integers(0, decoder.vocab_size, PROMPT)
    times: dict[int, Times] = {bits: {"fill": [], "prompt": [], "token": []} for bits in engines}
    logits: dict[int, NDArray[np.float32]] = {}
    for _ in range(rounds):
        for bits, engine in engines.items():
            logits[bits] = np.stack(list(_ask(engine, key, value, ids, times[bits])))
    numbers = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * bundle.manifest.context_capacity
    row, block = 4 * decoder.head_dim, decoder.head_dim + 8
    sizes = numbers * row / 1e6, numbers * block / 1e6
    yield "cache, MB", *sizes, sizes[1] / sizes[0]
    for what in times[32]:
        spent = [1000 * float(np.median(times[bits][what])) for bits in engines]
        yield f"{what}, ms", *spent, spent[1] / spent[0]
    apart = float(np.std(logits[8] - logits[32]) / np.std(logits[32]))
    yield "logits' difference over their spread", 0.0, apart, float("nan")


def _ask(
    engine: Engine, key: NDArray[np.float32], value: NDArray[np.float32], ids: NDArray[np.int64], times: Times
) -> Iterator[NDArray[np.float32]]:
    _timed(times["fill"], lambda: engine.start(key, value, 0))
    yield _timed(times["prompt"], lambda: engine.step(ids))
    for _ in range(TOKENS):
        yield _timed(times["token"], lambda: engine.step(ids[:1]))


def _timed(times: list[float], call: Callable[[], Result]) -> Result:
    began = time.perf_counter()
    result = call()
    times.append(time.perf_counter() - began)
    return result


def onnx_table(filled: int, rounds: int) -> Iterator[tuple[str, float, float, float]]:
    """A row as `bundle_table` has them: one layer's attention in ONNX Runtime, ms."""
    runs = [_attention(filled, bits) for bits in (32, 8)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds * TOKENS):
        for run, spent in zip(runs, times, strict=True):
            _timed(spent, run)
    plain, packed = (1000 * float(np.median(spent)) for spent in times)
    yield "a layer's attention, a token, ms", plain, packed, packed / plain


def _attention(filled: int, bits: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto as T
    from onnx import helper

    width, kept = KV_HEADS * SIZE, [1, KV_HEADS, filled + 1, SIZE]
    stored, numpy_type = (T.FLOAT, np.float32) if bits == 32 else (T.INT8, np.int8)
    ports = {
        "query": (T.FLOAT, [1, 1, HEADS * SIZE]), "key": (T.FLOAT, [1, 1, width]), "value": (T.FLOAT, [1, 1, width]),
        "past_key": (stored, kept), "past_value": (stored, kept), "seqlens_k": (T.INT32, [1]), "total": (T.INT32, [1]),
    }  # fmt: skip
    names, attributes = list(ports), {}
    if bits == 8:
        names += [""] * 5 + ["k_scale", "v_scale"]
        ports |= dict.fromkeys(("k_scale", "v_scale"), (T.FLOAT, [1, KV_HEADS, 1, SIZE]))
        attributes = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    node = helper.make_node(
        "GroupQueryAttention", names, ["output", "present_key", "present_value"], domain="com.microsoft",
        num_heads=HEADS, kv_num_heads=KV_HEADS, **attributes,
    )  # fmt: skip
    outputs = {
        "output": (T.FLOAT, [1, 1, HEADS * SIZE]),
        "present_key": (stored, kept),
        "present_value": (stored, kept),
    }
    graph = helper.make_graph(
        [node], "attention", *([helper.make_tensor_value_info(n, *p) for n, p in of.items()] for of in (ports, outputs))
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    source, binding = np.random.default_rng(0), session.io_binding()
    caches = [np.ones(kept, numpy_type), np.ones(kept, numpy_type)]
    for name, (kind, shape) in ports.items():
        if kind == T.FLOAT and not name.startswith("past"):
            binding.bind_cpu_input(name, source.random(shape, np.float32))
    binding.bind_cpu_input("seqlens_k", np.array([filled], np.int32))
    binding.bind_cpu_input("total", np.array([filled + 1], np.int32))
    for name, cache in zip(("key", "value"), caches, strict=True):
        for port in (f"past_{name}", f"present_{name}"):
            bind = binding.bind_input if port.startswith("past") else binding.bind_output
            bind(port, "cpu", 0, numpy_type, kept, cache.ctypes.data)
    binding.bind_output("output")

    def run(caches: list[NDArray[np.generic]] = caches) -> None:  # which are bound, and have to stay
        session.run_with_iobinding(binding)

    return run


def main() -> None:
    """Print a table of both runtimes, or of ONNX Runtime alone without a bundle."""
    parser = argparse.ArgumentParser(description="What a cache in 8 bits saves and costs.")
    parser.add_argument("--bundle", type=Path, help="of OpenVINO")
    parser.add_argument("--filled", type=int, default=728)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    columns = ("", "32 bits", "8 bits", "ratio")
    if asked.bundle:
        print_table(f"OpenVINO, {asked.bundle}", columns, list(bundle_table(asked.bundle, asked.filled, asked.rounds)))
    print_table("ONNX Runtime", columns, list(onnx_table(asked.filled, asked.rounds)))


if __name__ == "__main__":
    main()
