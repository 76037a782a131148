"""Probabilities of the next token, the greedy choice, and stop texts in an answer that comes in pieces."""

import random
from typing import Any

import numpy as np

from himix_edge.runtimes.sampling import Sampler
from himix_edge.runtimes.stopping import StopTexts

SETTINGS = [(1.0, 1.0), (0.7, 0.9), (0.3, 1.0), (1.0, 0.9), (2.0, 0.5), (0.1, 0.01), (1.0, 0.01), (1.5, 0.95)]


def probabilities() -> list[dict[str, Any]]:
    """Logits with two equal ones, and what temperature and top-p make of them."""
    rng = np.random.default_rng(6)
    cases = []
    for temperature, top_p in SETTINGS:
        logits = rng.normal(0, 3, 50).astype(np.float32)
        logits[7] = logits[3]
        values = Sampler(temperature, top_p).probabilities(logits)
        cases.append({
            "logits": logits.tolist(), "temperature": temperature, "top_p": top_p, "probabilities": values.tolist(),
            "greedy": Sampler(0).pick(logits),
        })  # fmt: skip
    return cases


def stops() -> list[dict[str, Any]]:
    """What is shown of an answer's pieces while a stop text could still come, and whether one came."""
    rng = random.Random(7)
    cases = []
    for _ in range(200):
        stops = ["".join(rng.choices("ab\u0301", k=rng.randrange(1, 4))) for _ in range(rng.randrange(3))]
        pieces = ["".join(rng.choices("ab\u0301", k=rng.randrange(4))) for _ in range(6)]
        texts = StopTexts(stops)
        shown = []
        for piece in pieces:
            text, stopped = texts.feed(piece)
            shown.append([text, stopped])
            if stopped:
                break
        cases.append({"stops": stops, "pieces": pieces, "shown": shown, "rest": texts.rest()})
    return cases
