"""Accuracy by asking: every question is put to a session and its answer compared with the expected one."""

import math
from collections import Counter
from collections.abc import Iterator

from himix_edge.data import Dataset, Turn
from himix_edge.evaluation.talking import GREEDY, Talk, Way
from himix_edge.runtimes import Session
from himix_edge.runtimes.packed import FLOAT_BITS


def normalize(answer: str) -> str:
    """Lower case, without surrounding space and a final full stop."""
    return answer.strip().rstrip(".").strip().lower()


def ask_all(
    session: Session, dataset: Dataset, limit: int | None = None, way: Way = GREEDY, image_bits: int = FLOAT_BITS
) -> Iterator[tuple[Turn, str]]:
    """Put each conversation to the session, its turns in order, an image encoded once and kept in `image_bits`.

    `way`: how answers are found.

    Yields:
        (question and expected answer, given answer), at most `limit` of them.
    """
    asked = 0
    for sample in dataset.samples:
        vision = session.encode_image(sample.image, image_bits) if sample.image else None
        for conversation in sample.conversations:
            talk = Talk(session, vision, way)
            for turn in conversation:
                if limit is not None and asked >= limit:
                    return
                asked += 1
                yield turn, talk.ask(turn.question)


class Score:
    """Counts of right answers, over all and by the skill asked for, or by expected answer where no skill is told."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def add(self, turn: Turn, given: str) -> None:
        """Count one answer."""
        expected = normalize(turn.answer)
        kind = turn.skill or expected
        self.asked[kind] += 1
        self.right[kind] += normalize(given) == expected

    @property
    def accuracy(self) -> float:
        """Share of exactly right answers, 0 to 1."""
        return self.right.total() / max(1, self.asked.total())


def interval(right: float, asked: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927); half rights may count."""
    if not asked:
        return 0.0, 1.0
    z, share = 1.959964, right / asked
    middle = share + z * z / (2 * asked)
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    whole = 1 + z * z / asked
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
