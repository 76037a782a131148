"""What a chat completion's request may hold. What is not supported is refused by its name, never passed over."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from himix_edge.errors import InputError
from himix_edge.reading import MAX_VALUE, first_problem, parse_json
from himix_edge.runtimes import Structure
from himix_edge.serving.refusals import Refused

# fields of the API that change nothing as long as they have one of these values, or null
NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (), "best_of": (1,), "frequency_penalty": (0,), "function_call": ("none", "auto"), "functions": ([],),
    "logit_bias": ({},), "modalities": (["text"],), "moderation": (), "parallel_tool_calls": (True, False),
    "prediction": (), "presence_penalty": (0,), "reasoning_effort": ("none",), "service_tier": ("auto", "default"),
    "store": (False,), "tool_choice": ("none", "auto"), "tools": ([],), "verbosity": ("medium",),
    "web_search_options": (),
}  # fmt: skip
UNUSED = ("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user")  # notes of the caller
MOST_MESSAGES, MOST_CHOICES, MOST_STOPS, MOST_LIKELY = 1024, 16, 16, 20


def _kind(value: object) -> str:
    return "text" if isinstance(value, str) else "list"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Where a picture is; `detail` is a wish that no model here has a choice for."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Part):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Text = Annotated[str, Tag("text")]
Parts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Tag("list")]
Stops = Annotated[list[str], Field(max_length=MOST_STOPS), Tag("list")]


class ChatMessage(_Part):
    """One message; `developer` is another name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text | Parts, Discriminator(_kind)]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: object) -> object:
        """Without what an answer says it has not (`"refusal": null`): clients send it back as it came."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name in cls.model_fields or value not in (None, [])}

    @property
    def text(self) -> str:
        """All its words."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def pictures(self) -> list[str]:
        """The addresses of its pictures."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(_Part):
    """What a stream tells beside its pieces."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextFormat(_Part):
    """Any text."""

    type: Literal["text"]

    @property
    def structure(self) -> Structure | None:
        """What the answer has to be."""
        return None


class ObjectFormat(_Part):
    """Any JSON object."""

    type: Literal["json_object"]

    @property
    def structure(self) -> Structure | None:
        """What the answer has to be."""
        return Structure.json_object()


class NamedSchema(_Part):
    """A JSON Schema; it is followed whether `strict` or not."""

    name: str
    description: str | None = None
    schema_: dict[str, object] = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(_Part):
    """What a JSON Schema allows."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def structure(self) -> Structure | None:
        """What the answer has to be. Raises InputError for a schema that is too large."""
        return Structure.json_schema(self.json_schema.schema_)


class Structured(_Part):
    """A field that other servers of this API have: one of these."""

    json_: dict[str, object] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None

    @property
    def structure(self) -> Structure | None:
        """What the answer has to be. Raises InputError for what is none."""
        if self.regex is not None:
            return Structure.regex(self.regex)
        if self.choice is not None:
            return Structure.choices(self.choice)
        return None if self.json_ is None else Structure.json_schema(self.json_)


class ChatRequest(BaseModel):
    """A chat completion, as far as it is supported here."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_VALUE)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_VALUE)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: Annotated[Text | Stops, Discriminator(_kind)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELY)
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    structured_outputs: Structured | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None: the model's default."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def structure(self) -> Structure | None:
        """What the answer has to be. Raises InputError for what is no schema, expression or list of choices."""
        wanted = self.structured_outputs or self.response_format
        return None if wanted is None else wanted.structure

    @property
    def alternatives(self) -> int:
        """How many likely tokens are named with each."""
        return self.top_logprobs or 0


_REQUEST = TypeAdapter(ChatRequest)


def read_chat_request(body: bytes) -> ChatRequest:
    """A request's body. Raises Refused, naming the field, for what is wrong or not supported."""
    try:
        raw = parse_json(body.decode(), "the body")
    except (UnicodeDecodeError, InputError) as error:
        raise Refused(400, f"the body is not JSON in UTF-8: {error}") from None
    if not isinstance(raw, dict):
        raise Refused(400, "the body is no JSON object")
    given = {name: value for name, value in raw.items() if value is not None and name not in UNUSED}
    for name in [name for name in given if name in NEUTRAL]:
        _refuse_meaningful(name, given.pop(name))
    try:
        request = _REQUEST.validate_python(given, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise Refused(
                400, f"{name!s:.60}: no field that this server knows", parameter=name, code="unknown_parameter"
            ) from None
        raise Refused(400, first_problem(error), parameter=name) from None
    _check(request)
    return request


def _refuse_meaningful(name: str, value: object) -> None:
    if not any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL[name]):
        raise Refused(
            400, f"{name} is not supported by this server; leave it out", parameter=name, code="unsupported_parameter"
        )


def _check(request: ChatRequest) -> None:
    """What is wrong with fields together."""
    roles = [message.role for message in request.messages]
    if roles[-1] != "user":
        raise Refused(400, "messages: the last one must be the user's", parameter="messages")
    if {"system", "developer"} & set(roles[1:]):
        raise Refused(400, "messages: a system message stands first, and there is one at most", parameter="messages")
    for message in request.messages:
        if message.pictures and message.role != "user":
            raise Refused(400, f"messages: a {message.role} message has pictures", parameter="messages")
    if request.alternatives and not request.logprobs:
        raise Refused(400, "top_logprobs: set logprobs to true, too", parameter="top_logprobs")
    structured = request.structured_outputs
    given = [] if structured is None else [structured.json_, structured.regex, structured.choice]
    if structured is not None and len([each for each in given if each is not None]) != 1:
        raise Refused(400, "structured_outputs: give json, regex or choice", parameter="structured_outputs")
    if structured is not None and request.response_format is not None and request.response_format.type != "text":
        raise Refused(400, "structured_outputs and response_format: give one", parameter="response_format")
    if request.max_tokens and request.max_completion_tokens:
        raise Refused(400, "max_tokens and max_completion_tokens: give one of them", parameter="max_tokens")


def conversation(request: ChatRequest) -> tuple[str | None, list[ChatMessage]]:
    """The system message, if there is one, and what was said behind it."""
    first = request.messages[0]
    if first.role in ("system", "developer"):
        return first.text, request.messages[1:]
    return None, request.messages
