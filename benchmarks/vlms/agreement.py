"""How many of 200 questions a bundle answers with the same tokens as PyTorch on the same integers.

    python -m benchmarks.vlms.agreement [--quant int4] [--targets LIST] [--questions N] [--activations float]

The model is SmolVLM's architecture with SmolLM2-135M's own weights as decoder (from a package), so that its answers are
as sure as a language model's are; tower and connector are small and random, and make of a picture what has the size
of words. Questions are easy-VQA's test split.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

from benchmarks.vlms.folders import smolvlm_256m, write_folder
from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.packages import fetch
from himix_edge.cli.console import print_table
from himix_edge.data import load_dataset
from himix_edge.export.graphs import share_weights, swap_linears
from himix_edge.export.pipeline import ExportRequest, export, plan, quantized_model
from himix_edge.export.quantization.tensors import QuantizedLinear, QuantizedModule
from himix_edge.export.targets import target_names
from himix_edge.model import VisionLanguageModel
from himix_edge.model.decoder import TokenEmbedding
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.pytorch_engine import PytorchEngine
from himix_edge.runtimes.session import Session

NEW_TOKENS = 12
SIDE = 64  # of a tile, in pixels


def model(folder: Path) -> Path:
    """The folder of the model."""

    def change(theirs: torch.nn.Module) -> None:
        source = open_source(fetch("smollm2-135m"))
        weights = {name: tensor.read() for name, tensor in source.weights.items()}
        inner = theirs.get_submodule("model.text_model").state_dict()
        for name, tensor in inner.items():
            given = weights[f"model.{name}"].to(tensor.dtype)
            tensor[: len(given)] = given
        words = weights["model.embed_tokens.weight"].float().square().mean().sqrt()
        connector = theirs.get_submodule("model.connector.modality_projection.proj").get_parameter("weight")
        connector.normal_(std=float(words) * connector.shape[1] ** -0.5)  # of a feature whose norm makes it one

    vision = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8,
    }  # fmt: skip
    return write_folder(lambda tokenizer: smolvlm_256m(tokenizer, vision, tile=SIDE, longest=2 * SIDE), folder, change)


def asked(count: int) -> Iterator[tuple[Path, str]]:
    """Images and questions."""
    for sample in load_dataset("easy-vqa", "test").samples:
        for turns in sample.conversations:
            if count:
                assert isinstance(sample.image, Path)
                yield sample.image, turns[0].question
                count -= 1


def answer(session: Session, image: Path, question: str) -> list[int | None]:
    """Greedy tokens."""
    return [piece.token_id for piece in session.generate(question, image, NEW_TOKENS, temperature=0)]


def in_float(model: VisionLanguageModel) -> VisionLanguageModel:
    """The same numbers, dequantized once instead of at every token."""

    def made(linear: QuantizedLinear) -> nn.Linear:
        plain = nn.Linear(1, 1, device="meta")
        plain.weight = nn.Parameter(linear.quantized.dequantize(), requires_grad=False)
        plain.bias = None if linear.bias is None else nn.Parameter(linear.bias, requires_grad=False)
        return plain

    model = swap_linears(share_weights(model), made)
    table = model.model.embed_tokens
    if isinstance(table, QuantizedModule):
        plain = TokenEmbedding(1, 1, device="meta")
        plain.weight = nn.Parameter(table.quantized.dequantize(), requires_grad=False)
        model.model.embed_tokens = plain
    return model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quant", default="int4", choices=["none", "int8", "int4"])
    parser.add_argument("--targets", default=",".join(target_names()))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--activations", choices=["float", "int8"])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = model(Path(scratch) / "model")
        int8 = None if arguments.activations is None else arguments.activations == "int8"
        expected: list[list[int | None]] = []
        for target in arguments.targets.split(","):
            work = plan(ExportRequest(
                str(folder), target, arguments.quant, Path(scratch) / target, rounding="nearest", probe_questions=4,
                int8_activations=int8,
            ))  # fmt: skip
            session = open_bundle(export(work).folder)
            questions = list(asked(arguments.questions))
            if not expected:
                engine = PytorchEngine(in_float(quantized_model(work).reference), work.options.capacity)
                reference = Session(engine, session.text, session.config, session.model_id, session.defaults)
                expected = [answer(reference, *question) for question in track(questions, "PyTorch")]
            found = [answer(session, *question) for question in track(questions, target)]
            equal = sum(a == b for a, b in zip(expected, found, strict=True))
            tokens = sum(x == y for a, b in zip(expected, found, strict=True) for x, y in zip(a, b, strict=False))
            rows.append((target, f"{equal / len(questions):.1%}", f"{tokens / sum(map(len, expected)):.1%}"))
            print(*rows[-1], flush=True)
    print_table(f"{arguments.questions} questions, {arguments.quant}", ("target", "answers", "tokens"), rows)


if __name__ == "__main__":
    main()
