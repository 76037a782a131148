"""From Hugging Face's Jinja chat templates to declarative ones, without running them.

A template in a checkpoint is a program from somebody else; it is not executed here, only recognised: every family has
markers of its own, and what stands around a message of each role follows from the family. What a template computes
beyond that is left out: dates and tool descriptions (Llama 3.2's template puts today's date into a system message;
here there is a system message only if one is given).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from himix_edge.errors import InputError
from himix_edge.reading import read_json
from himix_edge.text import ChatTemplate

MAX_TEMPLATE_BYTES = 1 << 20
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
NAMED = {
    "chatml": ChatTemplate(
        user=("<|im_start|>user\n", "<|im_end|>\n"), assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        system=("<|im_start|>system\n", "<|im_end|>\n"), stop=("<|im_end|>",),
    ),
    "llama-3": ChatTemplate(
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        stop=("<|eot_id|>",), bos="<|begin_of_text|>",
    ),
    "zephyr": ChatTemplate(
        user=("<|user|>\n", "</s>\n"), assistant=("<|assistant|>\n", "</s>\n"), system=("<|system|>\n", "</s>\n"),
        stop=("</s>",),
    ),
    "vicuna": ChatTemplate(
        user=("USER: ", " "), assistant=("ASSISTANT:", "</s>"), system=("", " "), stop=("</s>",), bos="<s>",
        default_system=VICUNA_SYSTEM,
    ),
}  # fmt: skip
MARKERS = {
    "chatml": "<|im_start|>", "llama-3": "<|start_header_id|>", "zephyr": "<|user|>", "vicuna": "ASSISTANT:",
}  # fmt: skip
DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\n|\\n)([^'\"{}]+?)<\|im_end\|>")


def declarative(template: str, bos: str, eos: str, where: str) -> ChatTemplate:
    """The declarative form of a Jinja template of a known family.

    Args:
        template: the Jinja text.
        bos: the token that the tokenizer writes in front of a text, "" if it does not.
        eos: the tokenizer's end-of-text token.
        where: the file, for messages.

    Raises:
        InputError: the family is not known.
    """
    family = next((name for name, marker in MARKERS.items() if marker in template), None)
    if family is None:
        raise InputError(
            f"{where}: its chat template is of no known family ({', '.join(MARKERS)}); give one with "
            "--chat-template NAME_OR_FILE"
        )
    chosen = NAMED[family]
    if family == "chatml":
        default = DEFAULT_SYSTEM.search(template)
        return replace(chosen, default_system=default[1] if default else "", bos=bos if "bos_token" in template else "")
    if family == "llama-3":
        return replace(chosen, bos=bos or chosen.bos)
    return replace(_with_eos(chosen, eos or "</s>"), bos=bos if "bos_token" in template or family == "vicuna" else "")


def folder_template(folder: Path) -> ChatTemplate:
    """The chat template of a Hugging Face folder. Raises InputError if there is none or it is not understood."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path, MAX_TEMPLATE_BYTES * 16) if path.is_file() else {}
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        path = jinja
        if jinja.stat().st_size > MAX_TEMPLATE_BYTES:
            raise InputError(f"{jinja}: larger than {MAX_TEMPLATE_BYTES} bytes; this is not a chat template")
        template: Any = jinja.read_text(encoding="utf-8", errors="replace")
    else:
        template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None
        )
    if not isinstance(template, str):
        raise InputError(f"{folder}: no chat template; give one with --chat-template NAME_OR_FILE")
    return declarative(template, _token(settings, "bos_token"), _token(settings, "eos_token"), str(path))


def gguf_template(metadata: Mapping[str, Any], where: str) -> ChatTemplate:
    """The chat template of a GGUF file. Raises InputError if there is none or it is not understood."""
    template, tokens = metadata.get("tokenizer.chat_template"), metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(template, str):
        raise InputError(f"{where}: no chat template; give one with --chat-template NAME_OR_FILE")

    def token(name: str) -> str:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""

    return declarative(template, token("bos"), token("eos"), where)


def _with_eos(template: ChatTemplate, eos: str) -> ChatTemplate:
    """A template of the family whose turns end with the tokenizer's own end-of-text token."""

    def put(pair: tuple[str, str]) -> tuple[str, str]:
        return pair[0].replace("</s>", eos), pair[1].replace("</s>", eos)

    return replace(
        template, user=put(template.user), assistant=put(template.assistant), system=put(template.system), stop=(eos,)
    )


def _token(settings: dict[str, Any], name: str) -> str:
    """A special token of tokenizer_config.json: a string, or a dictionary with its content."""
    value = settings.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""
