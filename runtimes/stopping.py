"""Stop texts: ending an answer where a given text appears, without ever showing a part of that text."""

from collections.abc import Iterable, Sequence

from himix_edge.errors import InputError


class StopTexts:
    """Holds back what may be the beginning of a stop text until it is clear whether it is one."""

    def __init__(self, texts: str | Sequence[str]):
        """One stop text, or several. Raises InputError for an empty one, and for what is no text."""
        given = [texts] if isinstance(texts, str) else texts
        if not isinstance(given, Iterable) or isinstance(given, bytes):
            raise InputError(f"stop is {texts!r:.60}; it must be a text, or several")
        self._texts = list(given)
        for text in self._texts:
            if not isinstance(text, str):
                raise InputError(f"a stop text is {text!r:.60}; it must be text")
            if not text:
                raise InputError("a stop text is empty; every answer would end before it begins")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"the stop text {text!a:.60} is not Unicode; no answer holds it")
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may be shown after `text` came, and whether a stop text was found.

        Of several the one that is complete first counts, however the text was cut into tokens.
        """
        self._held += text
        found = [(at + len(stop), at) for stop in self._texts if (at := self._held.find(stop)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)[1]], ""
            return shown, True
        keep = max((self._overlap(stop) for stop in self._texts), default=0)
        split = len(self._held) - keep
        shown, self._held = self._held[:split], self._held[split:]
        return shown, False

    def rest(self) -> str:
        """What was held back when the answer ended by itself."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that is a beginning of `stop`."""
        most = min(len(stop) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(stop[:n])), 0)
