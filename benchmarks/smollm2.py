"""SmolLM2-135M in every target and precision: perplexity, beside round-to-nearest and what others make of its weights.

    himix convert smollm2-135m --out models/smollm2
    python -m benchmarks.smollm2 [--model DIR] [--tokens N] [--keep DIR] [--only TABLE]

Perplexity is that of the first N tokens of this project's LICENSE and that of eight passages of 512 tokens of Python's
own help topics, which the model knows less well than a licence: enough that runtimes which round differently don't
differ by chance. Bundles compute them a token at a time; those in --keep are made only where they are missing. The
methods of rounding are compared in PyTorch on dequantised weights. The peers quantise the same float decoder: ONNX
Runtime's and NNCF's quantisers our float exports, torchao the PyTorch model (pip install 'himix-edge[peers]').
"""

import argparse
import math
import pydoc_data.topics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from himix_edge.bundle import Bundle, GenerationDefaults
from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.assemble import assemble
from himix_edge.cli.console import print_table, progress_console
from himix_edge.errors import GateRefused
from himix_edge.evaluation.perplexity import read_text, surprise
from himix_edge.export.pipeline import ExportRequest, Plan, export_all, plan, quantized_model
from himix_edge.export.targets import find_targets
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes import Session, open_bundle
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.verifying import open_verified

TEXT = Path(__file__).parents[1] / "LICENSE"
CAPACITY = 1024
PASSAGES, EVERY, LENGTH = 8, 3000, 512  # of the help topics, in tokens
NONE = float("nan")
Row = tuple[str, str, float, float, float, float]


def topics() -> str:
    """Python's help topics, a text of the standard library."""
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


class Benchmark:
    """One model and its texts.

    Rows are (runtime, weights, MB of the decoder, perplexity of LICENSE, of the help topics, seconds to make it).
    """

    def __init__(self, model: str, tokens: int, folder: Path, targets: str = "all"):
        self.model, self.tokens, self.folder, self.targets = model, tokens, folder, targets
        self.source = open_source(model)
        encode = self.source.load_text().tokenizer.encode
        ids = encode(topics()[: 10 * PASSAGES * EVERY], add_special_tokens=False).ids
        starts = range(0, PASSAGES * EVERY, EVERY)
        self.texts = (
            [encode(read_text(TEXT), add_special_tokens=False).ids[:tokens]],
            [ids[start : start + LENGTH] for start in starts],
        )

    def perplexities(self, surprise_of: Callable[[list[int]], float]) -> tuple[float, float]:
        """Of LICENSE and of the help topics; `surprise_of` a passage is its negative log-likelihood."""
        license, topics = (
            math.exp(sum(map(surprise_of, passages)) / sum(len(ids) - 1 for ids in passages)) for passages in self.texts
        )
        return license, topics

    def measure(self, engine: Engine) -> tuple[float, float]:
        """Perplexities in an engine, a token at a time."""
        session = Session(engine, self.source.load_text(), self.source.config, "", GenerationDefaults())
        return self.perplexities(lambda ids: surprise(session, ids))

    @torch.inference_mode()
    def pytorch(self, model: VisionLanguageModel) -> tuple[float, float]:
        """Perplexities in PyTorch, a passage in one pass."""
        return self.perplexities(
            lambda ids: float(
                F.cross_entropy(model(torch.tensor([ids]))[0, :-1], torch.tensor(ids[1:]), reduction="sum")
            )
        )

    def float_model(self) -> VisionLanguageModel:
        """The model as it is."""
        return assemble(self.source.config, self.source.weights, self.source.where)

    def request(self, target: str, precision: Any, rounding: Any = None) -> ExportRequest:
        """An export to this benchmark's folder."""
        out = self.folder / f"smollm2-{target}-{precision}"
        return ExportRequest(self.model, target, precision, out, capacity=CAPACITY, rounding=rounding, force=True)

    def methods(self) -> Iterator[Row]:
        """Ways of rounding, in PyTorch."""
        yield "PyTorch", "float", NONE, *self.pytorch(self.float_model()), 0.0
        for precision, rounding in (("int8", None), ("int4", "nearest"), ("int4", "gptq"), ("int4", "tuned")):
            began = time.monotonic()
            model = quantized_model(plan(self.request("onnx", precision, rounding)), progress_console.print).reference
            seconds = time.monotonic() - began
            yield "PyTorch", f"{precision} {rounding or ''}", NONE, *self.pytorch(model), seconds

    def bundles(self) -> Iterator[Row]:
        """Every target in int8 and int4, as it ships; seconds are those to make it, if it was."""
        for precision in ("int8", "int4"):
            plans = [plan(self.request(target, precision)) for target in find_targets(self.targets)]
            seconds = self.make([plan for plan in plans if not plan.request.out.exists()])
            for made in plans:
                folder = made.request.out
                session = open_bundle(folder)
                answer = session.answer("What is the capital of France?", max_new_tokens=12)
                progress_console.print(f"{folder.name}: {answer}")
                values = self.perplexities(partial(surprise, session))
                size = decoder_megabytes(open_verified(folder))
                yield made.target.name, precision, size, *values, seconds.get(made.target.name, NONE)

    def make(self, plans: list[Plan]) -> dict[str, float]:
        """Export what plans ask for -> seconds by target; the first one's include quantising."""
        seconds, began = {}, time.monotonic()
        for bundle in export_all(plans, progress_console.print):
            if isinstance(bundle, GateRefused):
                raise SystemExit(str(bundle))
            now = time.monotonic()
            seconds[bundle.manifest.target], began = now - began, now
        return seconds

    def peers(self) -> Iterator[Row]:
        """Others' 4-bit rounding, groups of 32, of the same decoder."""
        float_bundles = {
            bundle.manifest.target: bundle
            for bundle in export_all([plan(self.request(target, "none")) for target in ("onnx", "openvino")])
            if isinstance(bundle, Bundle)
        }
        for name, quantize, target in (
            ("onnxruntime's MatMulNBitsQuantizer", onnxruntime_nearest, "onnx"),
            ("NNCF, all layers", nncf_all_layers, "openvino"),
            ("NNCF, embedding and head 8 bit", nncf_default, "openvino"),
        ):
            bundle, began = float_bundles[target], time.monotonic()
            path = quantize(bundle.role_path("decoder"), self.folder / name.replace(" ", "-"))
            seconds = time.monotonic() - began
            size = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
            values = self.measure(load_engine(bundle, role_files={"decoder": path}, activations="int8"))
            yield name, "int4", size, *values, seconds
        began = time.monotonic()
        model = torchao_nearest(self.float_model())
        seconds = time.monotonic() - began
        yield "torchao, embedding and head float", "int4", NONE, *self.pytorch(model), seconds


def change(value: float, exact: float) -> str:
    """How much larger a perplexity is than that of the float model."""
    return "" if math.isnan(value) else f"{100 * (value / exact - 1):+.1f}%"


def decoder_megabytes(bundle: Bundle) -> float:
    """1e6 bytes of the decoder's files (ExecuTorch: of the whole program)."""
    return sum(record.bytes for record in bundle.manifest.roles["decoder"]) / 1e6


def onnxruntime_nearest(decoder: Path, out: Path) -> Path:
    """ONNX Runtime's own quantiser, with int8 activations as its kernels prefer."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    out.mkdir()
    settings: dict[str, Any] = {"block_size": 32, "is_symmetric": True, "accuracy_level": 4}
    made = MatMulNBitsQuantizer(onnx.load(decoder), op_types_to_quantize=("MatMul", "Gather"), **settings)
    made.process()
    made.model.save_model_to_file(str(out / "decoder.onnx"), False)
    return out / "decoder.onnx"


def nncf_all_layers(decoder: Path, out: Path) -> Path:
    """NNCF's symmetric 4 bits for every layer."""
    return _nncf(decoder, out, all_layers=True)


def nncf_default(decoder: Path, out: Path) -> Path:
    """NNCF's symmetric 4 bits as it comes, embedding and head in 8."""
    return _nncf(decoder, out, all_layers=False)


def _nncf(decoder: Path, out: Path, all_layers: bool) -> Path:
    import nncf
    import openvino

    out.mkdir()
    mode = nncf.CompressWeightsMode.INT4_SYM
    graph = openvino.Core().read_model(decoder)
    made = nncf.compress_weights(graph, mode=mode, group_size=32, ratio=1.0, all_layers=all_layers)
    openvino.save_model(made, out / "decoder.xml")
    return out / "decoder.xml"


def torchao_nearest(model: VisionLanguageModel) -> VisionLanguageModel:
    """torchao's 4-bit linears with int8 activations, as its ExecuTorch recipes have them."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    quantize_(model.model, config)
    return model


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--keep", type=Path, help="folder for the bundles")
    parser.add_argument("--targets", default="all", help="of the bundles")
    parser.add_argument("--only", choices=("methods", "bundles", "peers"), help="one of the three tables")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = Benchmark(arguments.model, arguments.tokens, arguments.keep or Path(scratch), arguments.targets)
        exact = benchmark.pytorch(benchmark.float_model())
        for name in ("methods", "bundles", "peers"):
            if arguments.only in (None, name):
                rows = []
                for runtime, weights, size, *values, seconds in getattr(benchmark, name)():
                    changes = [change(value, of) for value, of in zip(values, exact, strict=True)]
                    rows.append((runtime, weights, size, values[0], changes[0], values[1], changes[1], seconds))
                    progress_console.print(*rows[-1])
                texts = (f"{arguments.tokens} tokens of LICENSE", "to float", "help topics", "to float")
                print_table(name, ("runtime", "weights", "decoder MB", *texts, "seconds"), rows)


if __name__ == "__main__":
    main()
