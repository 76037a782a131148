"""From a checkpoint's chat template to a declarative one, and the tokens that end an answer.

A template in a checkpoint is a program from somebody else; it is run here alone, sandboxed and bounded, to learn what
it writes around each message (see `template_solving`). One that computes more is refused by name. What it computes
from today's date is left out, by the line (Llama 3.2 writes it into a system message), and so are tool descriptions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from himix_edge.checkpoints.jinja import JinjaTemplate
from himix_edge.checkpoints.template_solving import solve
from himix_edge.errors import InputError
from himix_edge.reading import read_json, read_text, validated
from himix_edge.text import TEMPLATE, ChatTemplate

MAX_TEMPLATE_BYTES = 1 << 18
MAX_SETTINGS_BYTES = 16 << 20
MAX_ENDS = 64
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CLASS_DEFAULTS = {  # what transformers' tokenizer classes take where tokenizer_config.json names no token
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "CodeLlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "Qwen2Tokenizer": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
}


def declarative(jinja: JinjaTemplate, tokenizer: Tokenizer) -> ChatTemplate:
    """The declarative form of a Jinja template, for the model whose tokenizer this is.

    Raises:
        InputError: it writes what no declarative template does, takes too much time or memory, or ends no answer.
    """
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    solved = solve(jinja, jinja.special.get("bos_token", ""), added, jinja.where)
    eos = jinja.special.get("eos_token", "")
    stop = dict.fromkeys([*solved.stop, *([eos] if eos and tokenizer.token_to_id(eos) is not None else [])])
    if not stop:
        raise InputError(f"{jinja.where}: no token ends an answer; give a template with one by --chat-template FILE")
    return replace(solved, stop=tuple(stop))


def jinja_of(template: str, special: Mapping[str, str], where: str) -> JinjaTemplate:
    """A Jinja template that is rendered as transformers does.

    Args:
        template: the Jinja text.
        special: the tokenizer's special tokens by their names (`bos_token`).
        where: the file, for messages.

    Raises:
        InputError: it is too large.
        BackendMissing: jinja2 is not installed.
    """
    if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise InputError(f"{where}: its chat template is larger than {MAX_TEMPLATE_BYTES >> 10} KiB; refused")
    return JinjaTemplate(template, special, where)


def folder_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of a folder: ours, or a Hugging Face folder's.

    Raises:
        InputError: there is none, or as in `declarative`.
        BackendMissing: see `declarative`.
    """
    ours = folder / TEMPLATE
    if ours.is_file():
        raw = read_json(ours)
        if not isinstance(raw, dict) or set(raw) != {"chat_template"}:
            return validated(ChatTemplate, raw, str(ours))
    return declarative(folder_jinja(folder), tokenizer)


def folder_jinja(folder: Path) -> JinjaTemplate:
    """The Jinja template of a Hugging Face folder. Raises InputError if there is none."""
    settings = _object(folder / "tokenizer_config.json")
    theirs, jinja = folder / TEMPLATE, folder / "chat_template.jinja"
    path = folder / "tokenizer_config.json"
    template = settings.get("chat_template")
    if theirs.is_file():  # transformers' own file of this name
        path, template = theirs, _object(theirs).get("chat_template")
    elif jinja.is_file():
        path, template = jinja, read_text(jinja, MAX_TEMPLATE_BYTES)
    if isinstance(template, list):  # several named ones
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if not isinstance(template, str):
        raise InputError(f"{folder}: no chat template; give one with himix convert --chat-template NAME_OR_FILE")
    return jinja_of(template, special_tokens(folder), str(path))


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens of a Hugging Face folder by their names (`bos_token`). Raises InputError for damaged files."""
    settings = _object(folder / "tokenizer_config.json")
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    return CLASS_DEFAULTS.get(kind, {}) | _special(_object(folder / "special_tokens_map.json")) | _special(settings)


def gguf_template(metadata: Mapping[str, object], tokenizer: Tokenizer, where: str) -> ChatTemplate:
    """The chat template of a GGUF file; errors as in `folder_template`."""
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise InputError(f"{where}: no chat template; give one with himix convert --chat-template NAME_OR_FILE")
    special = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            special[name] = token_text(tokenizer, number, f"{where}: tokenizer.ggml.{key}_token_id")
    return declarative(jinja_of(template, special, where), tokenizer)


def folder_ends(folder: Path) -> list[tuple[object, str]]:
    """What config.json and generation_config.json name as end tokens: ids, each with its place, for messages."""
    found: list[tuple[object, str]] = []
    for name in ("config.json", "generation_config.json"):
        raw = _object(folder / name)
        inner = raw.get("text_config")
        for part in (raw, inner if isinstance(inner, dict) else {}):
            value = part.get("eos_token_id")
            values = value if isinstance(value, list) else [] if value is None else [value]
            found += [(number, f"{folder / name}: eos_token_id") for number in values]
    return found


def gguf_ends(metadata: Mapping[str, object], where: str) -> list[tuple[object, str]]:
    """A GGUF file's end tokens, as `folder_ends`."""
    keys = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom")]
    return [(metadata[key], f"{where}: {key}") for key in keys if metadata.get(key) is not None]


def with_ends(template: ChatTemplate, ends: Iterable[tuple[object, str]], tokenizer: Tokenizer) -> ChatTemplate:
    """The template with further tokens that end an answer.

    Raises:
        InputError: an id that is not one of the tokenizer's, with its place.
    """
    texts = [token_text(tokenizer, number, where) for number, where in ends]
    stop = tuple(dict.fromkeys([*template.stop, *texts]))
    if len(stop) > MAX_ENDS:
        raise InputError(f"{len(stop)} tokens end an answer; no more than {MAX_ENDS} are supported")
    return replace(template, stop=stop)


def token_text(tokenizer: Tokenizer, number: object, where: str) -> str:
    """The text of a token. Raises InputError unless `number` is an id and the text stands for it alone."""
    valid = type(number) is int and 0 <= number < 1 << 32
    text = tokenizer.id_to_token(number) if valid else None
    if text is None or tokenizer.token_to_id(text) != number:
        raise InputError(f"{where}: {str(number)[:40]} is not the id of a token of this tokenizer")
    return str(text)


def _object(path: Path) -> dict[str, object]:
    """A JSON object; {} where there is no such file."""
    raw = read_json(path, MAX_SETTINGS_BYTES) if path.exists() else {}
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _special(settings: dict[str, object]) -> dict[str, str]:
    """The special tokens that a file names: each a string, or an object with its content."""
    found = {}
    for name in SPECIAL:
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    return found
