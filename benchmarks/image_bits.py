"""Images' keys and values in fewer bits: what rounding costs, and which numbers should share a scale.

    python -m benchmarks.image_bits [--model nano=easy-vqa] [--images N] [--text-model DIR]

For each way of rounding, over the images of a model's test split, each with its first question: the divergence (KL, in
nats) of the next token's distribution from the one behind float32 keys and values, the largest difference of a logit,
and the root mean square of the rounding over that of the numbers. `--text-model` does the same with a language model's
own keys and values, of Python's help topics, 700 tokens and the 20 behind them: they are rotated and have the first
token's, which an image's have not. Bytes and times are those of the way that is kept (`ImageKV.in_bits`); the first
token is the one behind a kept image, medians of turns taken in one run.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.smollm2 import topics
from himix_edge.cli.console import print_table
from himix_edge.data import load_dataset
from himix_edge.runtimes import ImageKV, Session, open_checkpoint
from himix_edge.runtimes.engine import Floats
from himix_edge.runtimes.packed import BITS, FLOAT_BITS, pack
from himix_edge.text import Message

LENGTH, BEHIND, PASSAGES, APART = 700, 20, 6, 3000  # of the help topics, in tokens
ROUNDS = 9
WAYS: dict[str, Callable[[Floats], Floats]] = {
    "float32": lambda array: array,
    "float16": lambda array: pack(array, 16, 3).floats(),
    "8, channel": lambda array: pack(array, 8, 2).floats(),
    "8, token": lambda array: pack(array, 8, 3).floats(),
}
PAIRS = [
    ("float16", "float16"), ("8, channel", "float32"), ("8, token", "float32"), ("float32", "8, channel"),
    ("float32", "8, token"), ("8, channel", "8, token"),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is kept, and the tokens behind it."""

    kept: ImageKV
    ids: NDArray[np.int64]


def of_images(session: Session, task: str, images: int) -> Iterator[Case]:
    """The first `images` of a task's test split, each with its first question."""
    for sample in load_dataset(task, "test").samples[:images]:
        assert sample.image is not None
        prompt = Message("user", sample.conversations[0][0].question)
        yield Case(session.encode_image(sample.image), np.array(session.text.encode_chat([prompt]), np.int64))


def of_text(session: Session) -> Iterator[Case]:
    """A decoder's own keys and values, as those of an image."""
    from himix_edge.runtimes.pytorch_engine import PytorchEngine

    engine, nothing = session.engine, session.no_image()
    assert isinstance(engine, PytorchEngine)
    read = session.text.tokenizer.encode(topics()[: 10 * PASSAGES * APART], add_special_tokens=False).ids
    for start in range(0, PASSAGES * APART, APART):
        ids = np.array(read[start : start + LENGTH + BEHIND], np.int64)
        engine.start(nothing.key, nothing.value, 0)
        engine.step(ids[:LENGTH])
        yield Case(ImageKV(*engine.kept(), session.model_id, LENGTH), ids[LENGTH:])


def costs(session: Session, cases: list[Case]) -> list[tuple[str, str, str, str, str, str]]:
    """A row for each of PAIRS: ways of keys and values, mean divergence, largest difference, both roundings."""
    rows = []
    plain = [_logits(session, case, case.kept.key, case.kept.value) for case in cases]
    for of_key, of_value in PAIRS:
        apart, most, keys, values = [], [], [], []
        for case, expected in zip(cases, plain, strict=True):
            key, value = WAYS[of_key](case.kept.key), WAYS[of_value](case.kept.value)
            found = _logits(session, case, key, value)
            right, given = _log_softmax(expected), _log_softmax(found)
            apart.append(float((np.exp(right) * (right - given)).sum()))
            most.append(float(np.abs(found - expected).max()))
            keys.append(_share(key, case.kept.key))
            values.append(_share(value, case.kept.value))
        rounded = (f"{np.mean(keys):.2%}", f"{np.mean(values):.2%}")
        rows.append((of_key, of_value, f"{np.mean(apart):.1e}", f"{np.mean(most):.4f}", *rounded))
    return rows


def sizes(session: Session, case: Case) -> list[tuple[int, int, float, float]]:
    """A row for each number of bits: KB in memory, ms of rounding, the first token's time over that with float32."""
    kept = {bits: case.kept.in_bits(bits) for bits in BITS}
    first: dict[int, list[float]] = {bits: [] for bits in BITS}
    rounding: dict[int, list[float]] = {bits: [] for bits in BITS}
    for _ in range(ROUNDS):
        for bits in BITS:
            began = time.perf_counter()
            case.kept.in_bits(bits)
            rounding[bits].append(time.perf_counter() - began)
            began = time.perf_counter()
            _logits(session, case, kept[bits].key, kept[bits].value)
            first[bits].append(time.perf_counter() - began)
    base = float(np.median(first[FLOAT_BITS]))
    return [
        (bits, kept[bits].nbytes // 1000, 1000 * float(np.median(rounding[bits])), float(np.median(first[bits])) / base)
        for bits in BITS
    ]


def _logits(session: Session, case: Case, key: Floats, value: Floats) -> Floats:
    session.engine.start(key, value, case.kept.next_position)
    return session.engine.step(case.ids)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _share(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(((found - expected) ** 2).sum() / (expected**2).sum()))


def main() -> None:
    """Print two tables for each model."""
    parser = argparse.ArgumentParser(description="What images' keys and values lose in fewer bits.")
    parser.add_argument("--model", action="append", metavar="MODEL=TASK", help="default: nano=easy-vqa")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--text-model", help="a checkpoint folder, such as himix convert smollm2-135m makes")
    asked = parser.parse_args()
    given = [model.rpartition("=") for model in asked.model or ["nano=easy-vqa"]]
    tables = [(model, open_checkpoint(model), task) for model, _, task in given]
    found = [(model, session, list(of_images(session, task, asked.images))) for model, session, task in tables]
    if asked.text_model:
        session = open_checkpoint(asked.text_model)
        found.append((f"{asked.text_model}, text", session, list(of_text(session))))
    for name, session, cases in found:
        columns = ("keys", "values", "KL", "largest difference", "keys' rounding", "values' rounding")
        print_table(f"{name}: {list(cases[0].kept.shape)}", columns, costs(session, cases))
        columns = ("bits", "KB an image", "rounding, ms", "first token, to float32's")
        print_table(f"{name}: kept", columns, sizes(session, cases[0]))


if __name__ == "__main__":
    main()
