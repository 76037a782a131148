"""What several questions about one image could gain in one pass: a bound, without a graph for it.

    himix export --target onnx,openvino --quant int4 --model qwen2-0.5b --random-weights --out bundles/shape
    python -m benchmarks.questions_at_once bundles/shape/* [--rounds R]

Decoders here take one sequence. A step of B tokens of one sequence multiplies the same weights by the same rows as a
step of one token in each of B sequences; it attends to one cache in place of B, and gives logits of one row in place
of B. So it is the least that a batch of B costs. The gain is the time of B steps of a token over that of one step of B,
and the same of prompts of M tokens, medians of rounds in turns.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from himix_edge.cli.console import print_table
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.verifying import open_verified

BATCHES = (1, 2, 4, 8)
PROMPTS, FILLED = (1, 16), 64  # tokens that each sequence gets in a step; slots that the image fills


def gains(folder: Path, rounds: int) -> Iterator[tuple[str, int, float, float, float, float]]:
    """Rows of bundle, tokens of each sequence, ms of one sequence, and the gains of 2, 4 and 8 at most."""
    bundle = open_verified(folder)
    engine, decoder, source = load_engine(bundle), bundle.config.decoder, np.random.default_rng(0)
    shape = (2, bundle.config.num_vision_rows, decoder.num_key_value_heads, FILLED, decoder.head_dim)
    key, value = source.standard_normal(shape, np.float32)
    ids = source.integers(0, decoder.vocab_size, PROMPTS[-1] * BATCHES[-1])
    for prompt in PROMPTS:
        times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        for number in range(rounds + 1):
            for batch, spent in times.items():
                engine.start(key, value, 0)
                began = time.perf_counter()
                engine.step(ids[: batch * prompt])
                if number:  # the first is warming up
                    spent.append(time.perf_counter() - began)
        alone, *several = (float(np.median(spent)) for spent in times.values())
        two, four, eight = (batch * alone / spent for batch, spent in zip(BATCHES[1:], several, strict=True))
        yield folder.name, prompt, 1000 * alone, two, four, eight


def main() -> None:
    """Print a table of bundles."""
    parser = argparse.ArgumentParser(description="What a batch of questions could gain at most.")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    rows = [row for bundle in asked.bundles for row in gains(bundle, asked.rounds)]
    print_table("Gain at most", ("bundle", "tokens each", "ms alone", "of 2", "of 4", "of 8"), rows)


if __name__ == "__main__":
    main()
