"""Perplexity of a plain text, in any runtime: what a language model loses by a conversion or a quantisation."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from himix_edge.errors import InputError
from himix_edge.runtimes import Session

MAX_BYTES = 16 << 20
Progress = Callable[[range], Iterable[int]]


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError if it is missing, no text, or over 16 MiB."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB; give a shorter text")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


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
        InputError: fewer than two tokens.
    """
    ids = session.text.tokenizer.encode(text, add_special_tokens=False).ids[: min(max_tokens, session.engine.capacity)]
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens")
    count = len(ids) - 1
    return math.exp(surprise(session, ids, progress) / count), count


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
