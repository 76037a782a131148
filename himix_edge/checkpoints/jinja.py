"""Rendering a checkpoint's Jinja chat template, a program from somebody else: sandboxed, in a bounded process."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from himix_edge import extras
from himix_edge.errors import BackendMissing, InputError

CHILD = Path(__file__).with_name("jinja_child.py")
SECONDS = 20
DATE = "Th1rd0fM4y"  # what the templates get as today's date
Said = Sequence[tuple[str, str]]  # (role, content) pairs


class JinjaTemplate:
    """A chat template as transformers renders it.

    Args:
        template: the Jinja text.
        special: the special tokens by their names (`bos_token`).
        where: the file, for messages.
    """

    def __init__(self, template: str, special: Mapping[str, str], where: str):
        if find_spec("jinja2") is None:
            raise BackendMissing("jinja2", extras.CONVERT)
        self._template, self.special, self.where = template, dict(special), where
        self._in_parts = False  # whether contents are lists of parts, as for models of several kinds of input

    def render(self, conversations: Sequence[tuple[Said, bool]]) -> list[str | None]:
        """The text of each (conversation, whether an answer is to come); None where the template refuses it.

        Raises:
            InputError: it takes too much time or memory.
        """
        found = self._run(conversations)
        pairs = zip(found, conversations, strict=True)
        if not self._in_parts and not any(_has_contents(text, said) for text, (said, _) in pairs):
            self._in_parts = True
            found = self._run(conversations)
        return found

    def render_pictures(self, questions: Sequence[tuple[str, int]]) -> list[str | None]:
        """The text of each question with so many pictures before its words, an answer to come; see `render`."""
        return self._texts([
            ([{"role": "user", "content": [*[{"type": "image"}] * count, {"type": "text", "text": words}]}], True)
            for words, count in questions
        ])  # fmt: skip

    def _run(self, conversations: Sequence[tuple[Said, bool]]) -> list[str | None]:
        return self._texts([([self._message(*turn) for turn in said], to_come) for said, to_come in conversations])

    def _texts(self, conversations: Sequence[tuple[list[dict[str, object]], bool]]) -> list[str | None]:
        renders = [{"messages": messages, "add_generation_prompt": to_come} for messages, to_come in conversations]
        job = {"template": self._template, "special": self.special, "date": DATE, "renders": renders}
        command = [sys.executable, "-P", str(CHILD)]
        try:
            done = subprocess.run(
                command, input=json.dumps(job).encode(), capture_output=True, timeout=SECONDS, check=True
            )
            answers = json.loads(done.stdout)
        except (subprocess.SubprocessError, OSError, ValueError):
            raise InputError(
                f"{self.where}: its chat template takes too much time or memory; give one with --chat-template "
                "NAME_OR_FILE"
            ) from None
        return [answer.get("text") for answer in answers]

    def _message(self, role: str, content: str) -> dict[str, object]:
        return {"role": role, "content": [{"type": "text", "text": content}] if self._in_parts else content}


def _has_contents(text: str | None, said: Said) -> bool:
    return text is not None and all(content in text for _, content in said)
