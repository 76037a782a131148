"""Putting a task's questions to a session, each in a chat of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from himix_edge.data.image_files import is_file
from himix_edge.errors import InputError
from himix_edge.evaluation.talking import GREEDY, Talk, Way
from himix_edge.evaluation.task import TaskQuestion
from himix_edge.runtimes import ImageKV, Session
from himix_edge.runtimes.packed import FLOAT_BITS


def require_images(questions: Sequence[TaskQuestion]) -> None:
    """Raises InputError for the first image file that is missing: before hours of asking, not after them."""
    for image, question in {question.image: question for question in reversed(questions)}.items():
        if isinstance(image, Path) and not is_file(image):
            raise InputError(f"question {question.id}: {image}: no such image; --image-folder names another folder")


def answer_all(
    session: Session,
    questions: Sequence[TaskQuestion],
    max_new_tokens: int,
    ways: Sequence[Way] | Way = GREEDY,
    image_bits: int = FLOAT_BITS,
) -> Iterator[str]:
    """The answer to each question, without surrounding space; successive questions share their image's K/V.

    Args:
        session: what is asked.
        questions: of one task.
        max_new_tokens: most tokens of an answer that is not chosen among some.
        ways: how the answers are found: one for all questions, or one for each.
        image_bits: of the images' K/V, see `ImageKV.in_bits`.

    Raises:
        InputError: an image that cannot be read, or a question that does not fit into the cache; the question is named.
    """
    encoded: ImageKV | None = None
    each = [ways] * len(questions) if isinstance(ways, Way) else ways
    for before, question, way in zip([None, *questions[:-1]], questions, each, strict=True):
        try:
            if before is None or encoded is None or question.image != before.image:
                encoded = session.encode_image(question.image, image_bits)
            yield Talk(session, encoded, way).ask(question.prompt, max_new_tokens).strip()
        except InputError as error:
            raise InputError(f"question {question.id}: {error}") from None
