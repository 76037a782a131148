"""Declarative chat templates give the ids of apply_chat_template; unknown ones are refused, none is run."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from himix_edge.checkpoints.chat_templates import NAMED, declarative, folder_template, gguf_template
from himix_edge.checkpoints.gguf_file import read_gguf
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.tokenizers import gguf_tokenizer
from himix_edge.errors import InputError
from himix_edge.text import Message, TextProcessor

# written here in the families' well-known structure
# ruff: noqa: E501
CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA_3 = """{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' \
+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
ZEPHYR = """{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + eos_token \
+ '\\n' }}{% elif message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + eos_token + '\\n' }}{% else %}\
{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
VICUNA = """{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ 'A chat between a curious user and an artificial \
intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user\\'s questions. ' }}{% endif %}\
{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}\
{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}{% else %}\
{{ 'ASSISTANT:' + message['content'] + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
CASES = {
    "chatml": (CHATML, "<|endoftext|>", "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|begin_of_text|>", "<|eot_id|>"),
    "zephyr": (ZEPHYR, "<s>", "</s>"),
    "vicuna": (VICUNA, "<s>", "</s>"),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
           "<|end_header_id|>", "<s>", "</s>"]  # fmt: skip
SAID = [("user", "What is this?"), ("assistant", "A red circle."), ("user", "And its size,\nin cm?")]


def byte_tokenizer():
    """Every byte a token, and the families' special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer


def reference(template, bos, eos):
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), chat_template=template, bos_token=bos, eos_token=eos
    )


def messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize("system", [None, "Answer in rhymes."])
@pytest.mark.parametrize("family", CASES)
def test_conversations_equal_transformers(family, system):
    template, bos, eos = CASES[family]
    theirs = reference(template, bos, eos)
    text = TextProcessor(byte_tokenizer(), declarative(template, bos, eos, "x"))
    start = [("system", system)] if system else []
    for length in (1, 3):
        said = [*start, *SAID[:length]]
        expected = theirs.apply_chat_template(messages(said), add_generation_prompt=True)
        assert text.encode_chat([Message(*pair) for pair in said]) == expected
    first = text.encode_chat([Message(*pair) for pair in [*start, SAID[0]]])
    answer = text.tokenizer.encode(SAID[1][1], add_special_tokens=False).ids
    assert first + answer + text.encode_next_turn(SAID[2][1]) == expected, "a further turn on top of a cache"
    assert {theirs.convert_tokens_to_ids(eos)} == text.stop_ids


def test_smollm2s_own_template():
    meta = read_gguf(fetch("smollm2-135m")).metadata
    tokenizer = gguf_tokenizer(meta, "x")
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=meta["tokenizer.chat_template"])
    theirs.backend_tokenizer.encode_special_tokens = False
    expected = theirs.apply_chat_template(messages(SAID), add_generation_prompt=True)
    text = TextProcessor(gguf_tokenizer(meta, "x"), gguf_template(meta, "x"))
    assert text.encode_chat([Message(*pair) for pair in SAID]) == expected
    assert "SmolLM" in text.template.default_system


def test_folders(tmp_path):
    with pytest.raises(InputError, match="--chat-template"):
        folder_template(tmp_path)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": ZEPHYR}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path) == NAMED["zephyr"]
    settings["chat_template"] = [{"name": "tool", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path).default_system == "You are a helpful assistant."
    (tmp_path / "chat_template.jinja").write_text(LLAMA_3)
    assert folder_template(tmp_path).bos == "<s>"


def test_an_unknown_template_is_refused_and_nothing_runs(tmp_path):
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**9) %}{% endfor %}"
    with pytest.raises(InputError, match="no known family"):
        declarative(hostile, "", "", "x")
    assert declarative(hostile + CHATML, "", "", "x").user == NAMED["chatml"].user
