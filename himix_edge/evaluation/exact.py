"""Accuracy by asking: every question is put to a session and the greedy answer compared with the expected one."""

from collections import Counter
from collections.abc import Iterator

from himix_edge.data import Dataset
from himix_edge.runtimes import Session


def normalise(answer: str) -> str:
    """Lower case, without surrounding space and a final full stop."""
    return answer.strip().rstrip(".").strip().lower()


def ask_all(session: Session, dataset: Dataset, limit: int | None = None) -> Iterator[tuple[str, str, str]]:
    """Put each conversation to the session, its turns in order, an image encoded once.

    Yields:
        (question, expected answer, given answer), at most `limit` of them.
    """
    asked = 0
    for sample in dataset.samples:
        vision = session.encode_image(sample.image) if sample.image else None
        for conversation in sample.conversations:
            chat = session.chat(vision)
            for turn in conversation:
                if limit is not None and asked >= limit:
                    return
                asked += 1
                answer = "".join(piece.text for piece in chat.send(turn.question, temperature=0))
                yield turn.question, turn.answer, answer


class Score:
    """Counts of right answers, over all and by expected answer."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def add(self, expected: str, given: str) -> None:
        """Count one answer."""
        kind = normalise(expected)
        self.asked[kind] += 1
        self.right[kind] += normalise(given) == kind

    @property
    def accuracy(self) -> float:
        """Share of exactly right answers, 0 to 1."""
        return self.right.total() / max(1, self.asked.total())
