"""Perplexity of a plain text, in any runtime: what a language model loses by a conversion or a quantisation."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from himix_edge import reading
from himix_edge.errors import InputError
from himix_edge.runtimes import Session

MAX_BYTES = 16 << 20
MOST = 700.0  # nats; exp of more is beyond a float
Progress = Callable[[range], Iterable[int]]


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError if it is missing, no text, or over 16 MiB."""
    return reading.read_text(path, MAX_BYTES)


def perplexity(session: Session, text: str, max_tokens: int, progress: Progress = iter) -> tuple[float, int]:
    """exp of the mean negative log-likelihood of each token but the first, given all before it.

    Args:
        session: an opened bundle or checkpoint; no image is involved.
        text: encoded without a chat template or special tokens.
        max_tokens: use the first so many tokens; bounded by the cache.
        progress: wraps the range of positions, for a progress bar.

    Returns:
        The perplexity, and the number of tokens predicted.

    Raises:
        InputError: fewer than two tokens, or a model that does not give numbers for them.
    """
    ids = session.text.tokenizer.encode(text, add_special_tokens=False).ids[: min(max_tokens, session.engine.capacity)]
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens")
    count = len(ids) - 1
    each = surprise(session, ids, progress) / count
    if not each < MOST:
        raise InputError(f"the model's logits are no numbers to reckon with (mean surprise {each:.3g}): it is damaged")
    return math.exp(each), count


def surprise(session: Session, ids: list[int], progress: Progress = iter) -> float:
    """Negative log-likelihood in nats of all tokens but the first, given those before them."""
    nothing = session.no_image()
    session.engine.start(nothing.key, nothing.value, 0)
    total = 0.0
    for position in progress(range(len(ids) - 1)):
        logits = session.engine.step(np.array([ids[position]], np.int64)).astype(np.float64)
        best = logits.max()
        total += best + math.log(np.exp(logits - best).sum()) - logits[ids[position + 1]]
    return total
