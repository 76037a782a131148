"""How a request is refused: an HTTP status and the error body that OpenAI's clients read."""

from himix_edge.errors import one_line
from himix_edge.reading import JsonObject


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        body: the JSON body.
        headers: beside it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        parameter: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body: JsonObject = {
            "error": {"message": one_line(message), "type": kind, "param": parameter, "code": code}
        }


def busy(message: str, status: int = 429) -> Refused:
    """Too much is asked at once: clients try again."""
    return Refused(status, message, "rate_limit_error", code="busy", headers={"Retry-After": "1"})
