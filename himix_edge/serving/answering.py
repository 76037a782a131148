"""One request in one session: its pictures' keys and values, and one answer after the other. Runs in a thread."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from himix_edge.runtimes import ImageKV, Piece, Session, Stats, Structure
from himix_edge.runtimes.pictures import picture_model_id
from himix_edge.serving.images import ImageStore, image_key
from himix_edge.text import Message


@dataclass(frozen=True)
class Question:
    """A request, read and checked.

    Attributes:
        system: the system message.
        history: what was said before the prompt.
        prompt: the user's last message.
        pictures: image files, in the order of the conversation.
        choices: how many answers.
        settings: of `Chat.send`.
        seed: of the first answer; each further one has the next.
    """

    system: str | None
    history: tuple[Message, ...]
    prompt: str
    pictures: tuple[bytes, ...]
    choices: int
    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    alternatives: int
    structure: Structure | None


@dataclass(frozen=True)
class Said:
    """A piece of the answer `choice`."""

    choice: int
    piece: Piece


@dataclass(frozen=True)
class Ended:
    """The answer `choice` is complete."""

    choice: int
    stats: Stats


Event = Said | Ended


def answer(
    session: Session,
    question: Question,
    images: ImageStore,
    stop: threading.Event,
    deadline: float,
    emit: Callable[[Event], None],
) -> None:
    """Answer, piece by piece, until `stop` is set or the time is over.

    Args:
        session: nobody else uses it meanwhile.
        question: what is asked.
        images: where keys and values are kept.
        stop: no further token is begun once it is set.
        deadline: of `time.monotonic`; an answer ends there with the reason "timeout".
        emit: is given what happens.

    Raises:
        InputError: as `Session.generate`.
    """
    if stop.is_set():
        return
    known = see(session, question, images)
    for choice in range(question.choices):
        chat = session.chat(known, question.system, question.history)
        made = chat.send(
            question.prompt, question.max_new_tokens, question.temperature, question.top_p,
            None if question.seed is None else question.seed + choice, question.stop,
            timeout=max(deadline - time.monotonic(), 1e-3), alternatives=question.alternatives,
            structure=question.structure,
        )  # fmt: skip
        for piece in made:
            if stop.is_set():
                made.close()
                return
            emit(Said(choice, piece))
        emit(Ended(choice, made.stats))


def see(session: Session, question: Question, images: ImageStore) -> ImageKV | None:
    """The pictures' keys and values, from where they are kept or made now. Raises InputError as `encode_images`."""
    if not question.pictures:
        return None
    if session.config.images is not None:  # one behind the other in the text, behind the system message
        name = picture_model_id(session.model_id, question.system)
        return _kept(session, question.pictures, question.system, name, images)
    found = [_kept(session, (picture,), None, session.model_id, images) for picture in question.pictures]
    return session.vision(found, Stats())


def _kept(
    session: Session, pictures: tuple[bytes, ...], system: str | None, model_id: str, images: ImageStore
) -> ImageKV:
    key = image_key(model_id, pictures, images.bits)
    image = images.get(key, session)
    if image is None:
        image = session.vision(pictures, Stats(), system).in_bits(images.bits)
        images.put(key, image)
    return image
