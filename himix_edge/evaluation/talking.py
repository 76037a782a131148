"""How an answer is found: said freely, bound to a structure, or chosen among several by likelihood."""

from dataclasses import dataclass

from himix_edge.runtimes import ImageKV, Session, Structure
from himix_edge.text import Message


@dataclass(frozen=True)
class Way:
    """How answers are found: greedily; bound to a structure; or with `choices`, as the likeliest of them."""

    structure: Structure | None = None
    choices: tuple[str, ...] = ()


class Talk:
    """A conversation about an image, or about none, whose answers are found in one way."""

    def __init__(self, session: Session, image: ImageKV | None, way: Way):
        self._session, self._image, self._way = session, image, way
        self._chat = session.chat(image)
        self._said: list[Message] = []

    def ask(self, prompt: str, max_new_tokens: int | None = None) -> str:
        """The answer, which is part of the conversation from then on.

        Raises:
            InputError: as `Session.generate` and `Session.rank`.
        """
        choices = self._way.choices
        if not choices:
            pieces = self._chat.send(prompt, max_new_tokens, temperature=0, structure=self._way.structure)
            return "".join(piece.text for piece in pieces)
        chats = [self._session.chat(self._image, history=self._said) for _ in choices]
        found = [chat.log_probability(prompt, choice) for chat, choice in zip(chats, choices, strict=True)]
        answer = choices[found.index(max(found))]
        self._said += [Message("user", prompt), Message("assistant", answer)]
        return answer


GREEDY = Way()
