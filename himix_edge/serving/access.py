"""Who may ask: an API key, and the names that this machine is called by."""

import hmac
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from himix_edge.serving.refusals import Refused

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    Attributes:
        key: without it nothing is answered; None: nobody needs one.
        names: of this machine, that a request's Host header may have beside an address; None: any.
        image_folder: that file URLs may lead into; None: nowhere.
    """

    key: str | None = None
    names: frozenset[str] | None = frozenset({"localhost"})
    image_folder: Path | None = None

    def check_host(self, request: Request) -> None:
        """A page of another site, whose name was made to lead here (DNS rebinding), gets nothing.

        Raises:
            Refused: the Host header names another machine.
        """
        if self.names is None:
            return
        given = request.headers.getlist("host")
        found = HOST.fullmatch(given[0]) if len(given) == 1 else None
        host = found[1].strip("[]").lower().removesuffix(".") if found else ""
        if host not in self.names and not _is_address(host):
            raise Refused(421, "the Host header does not name this machine")

    def check_key(self, request: Request) -> None:
        """Raises Refused for a request without the key."""
        if self.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.key.encode())
        if scheme.lower() != "bearer" or not same:
            raise Refused(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _is_address(host: str) -> bool:
    """An address cannot be made to lead here: it is what the client connected to."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
