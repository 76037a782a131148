"""What a tokenizer of transformers' writes in front of every text by itself, as Llama's `<s>`.

The processors of vision-language models leave it to the tokenizer, unless the chat template has written it: see
`ProcessorMixin.apply_chat_template`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from himix_edge.checkpoints.chat_templates import special_tokens
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, read_json
from himix_edge.text import TOKENIZER, ChatTemplate, Message, TextProcessor
from himix_edge.tokenizer_file import MAX_BYTES

LLAMA = ("LlamaTokenizer", "CodeLlamaTokenizer")  # these go by add_bos_token, and by no post-processor


def start_token(folder: Path) -> str:
    """The token that the tokenizer of a Hugging Face folder writes in front of a text; "" for none.

    Raises:
        InputError: it writes several, or one behind the text.
    """
    settings = _object(folder / "tokenizer_config.json")
    if str(settings.get("tokenizer_class", "")).removesuffix("Fast") in LLAMA:
        if settings.get("add_eos_token"):
            raise InputError(f"{folder / 'tokenizer_config.json'}: add_eos_token is true; not supported")
        return special_tokens(folder).get("bos_token", "") if settings.get("add_bos_token", True) else ""
    steps = list(_templates(_object(folder / TOKENIZER).get("post_processor")))
    if not steps:
        return ""
    match [step.get("single") for step in steps]:
        case [[{"Sequence": _}]]:
            return ""
        case [[{"SpecialToken": {"id": str(token)}}, {"Sequence": _}]]:
            return token
    raise InputError(f"{folder / TOKENIZER}: post_processor adds more than one token in front; not supported")


def with_start_token(template: ChatTemplate, token: str, tokenizer: Tokenizer, where: str) -> ChatTemplate:
    """The template with `token` in front, unless it writes it already.

    Raises:
        InputError: the ids behind it are not those of the text alone.
    """
    if not token or template.bos.startswith(token):
        return template
    questions = [[Message("user", "What?")], [Message("system", "Be brief."), Message("user", "What?")]]
    asked = questions if template.system else questions[:1]
    alone = TextProcessor(tokenizer, template)
    number = tokenizer.token_to_id(token)
    expected = [[number, *alone.encode_chat(messages)] for messages in asked]
    for gap in ("", " "):  # a tokenizer that puts a space before the first text does not do so behind a token
        found = replace(template, bos=token + gap + template.bos)
        text = TextProcessor(tokenizer, found)
        if number is not None and [text.encode_chat(messages) for messages in asked] == expected:
            return found
    raise InputError(f"{where}: its tokenizer writes {token!r:.40} in front of a text in a way that is not supported")


def _object(path: Path) -> JsonObject:
    raw = read_json(path, MAX_BYTES) if path.is_file() else {}
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _templates(processor: object) -> Iterator[JsonObject]:
    """The steps of a post-processor that add tokens."""
    if not isinstance(processor, dict):
        return
    steps = processor.get("processors")
    if processor.get("type") == "Sequence" and isinstance(steps, list):
        for step in steps[:64]:
            if isinstance(step, dict) and step.get("type") == "TemplateProcessing":
                yield step
    elif processor.get("type") == "TemplateProcessing":
        yield processor
