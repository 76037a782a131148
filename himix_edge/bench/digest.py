"""The digest of an answer, computed the same in every language."""

import hashlib
from collections.abc import Iterable


def token_digest(token_ids: Iterable[int]) -> str:
    """SHA-256 (hex) of an answer's token ids, stop token left out: in decimal, joined by commas ([5, 17]: "5,17")."""
    return hashlib.sha256(",".join(str(token) for token in token_ids).encode("ascii")).hexdigest()
