"""Putting a task's questions to a session, each in a chat of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from himix_edge.data.image_files import is_file
from himix_edge.errors import InputError
from himix_edge.evaluation.task import TaskQuestion
from himix_edge.runtimes import ImageKV, Session


def require_images(questions: Sequence[TaskQuestion]) -> None:
    """Raises InputError for the first image file that is missing: before hours of asking, not after them."""
    for image, question in {question.image: question for question in reversed(questions)}.items():
        if isinstance(image, Path) and not is_file(image):
            raise InputError(f"question {question.id}: {image}: no such image; --image-folder names another folder")


def answer_all(session: Session, questions: Sequence[TaskQuestion], max_new_tokens: int) -> Iterator[str]:
    """The greedy answer to each question, without surrounding space; successive questions share their image's K/V.

    Raises:
        InputError: an image that cannot be read, or a question that does not fit into the cache; the question is named.
    """
    encoded: ImageKV | None = None
    for before, question in zip([None, *questions], questions, strict=False):
        try:
            if before is None or encoded is None or question.image != before.image:
                encoded = session.encode_image(question.image)
            pieces = session.chat(encoded).send(question.prompt, max_new_tokens, temperature=0)
            yield "".join(piece.text for piece in pieces).strip()
        except InputError as error:
            raise InputError(f"question {question.id}: {error}") from None
