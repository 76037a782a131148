"""Declarative chat templates give the ids of apply_chat_template, proved on the template itself; others are refused."""

import json
from dataclasses import asdict, replace

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from himix_edge.checkpoints import chat_templates, jinja
from himix_edge.checkpoints.chat_templates import (
    declarative,
    folder_ends,
    folder_template,
    gguf_ends,
    gguf_template,
    jinja_of,
    with_ends,
)
from himix_edge.checkpoints.gguf_file import read_gguf
from himix_edge.checkpoints.named_templates import NAMED
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.tokenizers import gguf_tokenizer
from himix_edge.errors import BackendMissing, InputError
from himix_edge.text import ChatTemplate, Message, TextProcessor, read_template

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
TULU = """{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}\
{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}{% else %}{% if not loop.last %}\
{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}\
{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""
PHI_3 = """{% for message in messages %}{{'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
PHI_4 = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
PHI_4_MINI = """{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
GEMMA_3 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}\
{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
LLAMA_2 = """{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}\
{% set turns = messages %}{% set system = false %}{% endif %}{% for message in turns %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}\
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('No') }}{% endif %}\
{% endfor %}"""
MISTRAL_3 = """{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% else %}\
{% set turns = messages %}{% endif %}{{ bos_token }}{% for message in turns %}{% if message.role == 'user' %}\
{% if loop.last and system is defined %}{{ '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}{% else %}\
{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}"""
GRANITE = """{% for message in messages %}{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] \
+ '<|end_of_text|>\\n' }}{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}{% endfor %}"""
SMOLVLM = """<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}\
{{':'}}{% else %}{{': '}}{% endif %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}\
{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
LLAMA_3_1 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}\
{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' + DATE + '\\n\\n' + system }}\
{{ '<|eot_id|>' }}{% for message in turns %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' \
+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
UNKNOWN = """{% for message in messages %}{{ '### ' + message['role'] | upper + ':\\n' + message['content'] + '\\n\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '### ASSISTANT:\\n' }}{% endif %}"""
CASES = {  # template, bos, eos, the token that ends a turn
    "chatml": (CHATML, "<|endoftext|>", "<|im_end|>", "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>"),
    "zephyr": (ZEPHYR, "<s>", "</s>", "</s>"),
    "vicuna": (VICUNA, "<s>", "</s>", "</s>"),
    "tulu-2": (TULU, "<s>", "</s>", "</s>"),
    "tulu-3": (TULU, "<|begin_of_text|>", "<|end_of_text|>", "<|end_of_text|>"),
    "phi-3": (PHI_3, "<s>", "<|endoftext|>", "<|end|>"),
    "phi-4": (PHI_4, "<|endoftext|>", "<|im_end|>", "<|im_end|>"),
    "phi-4-mini": (PHI_4_MINI, "<|endoftext|>", "<|endoftext|>", "<|end|>"),
    "gemma": (GEMMA, "<bos>", "<eos>", "<end_of_turn>"),
    "gemma 3": (GEMMA_3, "<bos>", "<eos>", "<end_of_turn>"),
    "llama-2": (LLAMA_2, "<s>", "</s>", "</s>"),
    "mistral": (MISTRAL, "<s>", "</s>", "</s>"),
    "mistral-v3": (MISTRAL_3, "<s>", "</s>", "</s>"),
    "granite": (GRANITE, "<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>"),
    "smolvlm": (SMOLVLM, "<|im_start|>", "<end_of_utterance>", "<end_of_utterance>"),
    "llama 3.1": (LLAMA_3_1.replace("DATE", "'26 Jul 2024'"), "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>"),
    "unknown": (UNKNOWN, "<s>", "</s>", "</s>"),
}
NO_SYSTEM = ("gemma", "mistral", "mistral-v3")
SPECIAL = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|im_sep|>", "<bos>", "<eos>", "<start_of_turn>",
           "<end_of_turn>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<end_of_utterance>",
           "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
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


def messages(pairs, in_parts=False):
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
        for role, content in pairs
    ]


def solved(template, bos="<s>", eos="</s>", tokenizer=None):
    special = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    return declarative(jinja_of(template, special, "x"), tokenizer or byte_tokenizer())


@pytest.mark.parametrize("system", [None, "Answer in rhymes."])
@pytest.mark.parametrize("family", CASES)
def test_conversations_equal_transformers(family, system):
    template, bos, eos, end = CASES[family]
    theirs = reference(template, bos, eos)
    text = TextProcessor(byte_tokenizer(), solved(template, bos, eos))
    text.tokenizer.encode_special_tokens = True
    text.check_ids("x")
    start = [("system", system)] if system else []
    if system and family in NO_SYSTEM:
        with pytest.raises(InputError, match="no system messages"):
            text.encode_chat([Message("system", system), Message(*SAID[0])])
        return
    for length in (1, 3):
        said = [*start, *SAID[:length]]
        expected = theirs.apply_chat_template(messages(said, family == "smolvlm"), add_generation_prompt=True)
        assert text.encode_chat([Message(*pair) for pair in said]) == expected
    first = text.encode_chat([Message(*pair) for pair in [*start, SAID[0]]])
    answer = text.encode_text(text.template.said + SAID[1][1])
    assert first + answer + text.encode_next_turn(SAID[2][1]) == expected, "a further turn on top of a cache"
    assert {theirs.convert_tokens_to_ids(token) for token in (eos, end)} == text.stop_ids


@pytest.mark.parametrize("family", [name for name in CASES if name in NAMED])
def test_the_named_templates_write_the_same(family):
    template, bos, eos, _ = CASES[family]
    theirs = solved(template, bos, eos)
    start = [] if family in NO_SYSTEM else [Message("system", "Answer in rhymes.")]
    said = [*start, *(Message(*pair) for pair in SAID)]
    assert written(NAMED[family], said) == written(replace(theirs, default_system=""), said)
    assert NAMED[family].stop[0] == theirs.stop[0]
    assert (NAMED[family].system is None) == (theirs.system is None)


def written(template, said):
    return "".join(part.text for part in template.render(said))


def test_todays_date_is_left_out_by_its_line():
    text = written(solved(LLAMA_3_1.replace("DATE", "strftime_now('%d %b %Y')")), [Message("user", "hi")])
    assert "Cutting Knowledge Date: December 2023\n\n<|eot_id|>" in text
    assert "Today" not in text
    with pytest.raises(InputError, match="--chat-template"):
        solved(
            CHATML.replace("You are", "{{ strftime_now('%Y') }} <|im_end|> you are").replace("'<|im_start|>system", "'")
        )


@pytest.mark.parametrize("default", ["You're kind.", 'Say "hi".', "{ braces }", "two\nlines"])
def test_a_default_system_message_in_any_quoting(default):
    quoted = json.dumps(default)
    template = CHATML.replace(
        "'<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'",
        "'<|im_start|>system\\n' + " + quoted + " + '<|im_end|>\\n'",
    )
    assert quoted in template
    assert solved(template, "", "<|im_end|>").default_system == default


def test_smollm2s_own_template():
    meta = read_gguf(fetch("smollm2-135m")).metadata
    tokenizer = gguf_tokenizer(meta, "x")
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=meta["tokenizer.chat_template"])
    theirs.backend_tokenizer.encode_special_tokens = False
    expected = theirs.apply_chat_template(messages(SAID), add_generation_prompt=True)
    text = TextProcessor(gguf_tokenizer(meta, "x"), gguf_template(meta, tokenizer, "x"))
    assert text.encode_chat([Message(*pair) for pair in SAID]) == expected
    assert "SmolLM" in text.template.default_system


def test_folders(tmp_path):
    tokenizer = byte_tokenizer()
    with pytest.raises(InputError, match="--chat-template"):
        folder_template(tmp_path, tokenizer)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": ZEPHYR}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path, tokenizer) == NAMED["zephyr"]
    settings["chat_template"] = [{"name": "tool", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path, tokenizer).default_system == "You are a helpful assistant."
    (tmp_path / "chat_template.jinja").write_text(LLAMA_3)
    assert folder_template(tmp_path, tokenizer).bos == "<s>"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": ZEPHYR}))
    assert folder_template(tmp_path, tokenizer) == NAMED["zephyr"], "transformers' file of our name"
    (tmp_path / "chat_template.json").write_text(json.dumps(asdict(NAMED["granite"])))
    assert folder_template(tmp_path, tokenizer) == NAMED["granite"]


def test_tokens_that_the_class_brings(tmp_path):
    settings = {"tokenizer_class": "LlamaTokenizerFast", "chat_template": LLAMA_2}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert folder_template(tmp_path, byte_tokenizer()).bos == "<s>[INST] "


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ 'a' * 10**11 }}", "{% for", "{{ messages }}", "", "hi",
    "{{ x.y.z }}", "{% for m in messages %}{{ m.content }}{{ 'a' * 9999 * 99 }}{% endfor %}", "{% include '/etc/passwd' %}",
    # what a prompt ends with is not in the history; who spoke before counts; a system message is repeated
    CHATML + "{{ '<think>' }}", CHATML.replace("message['content']", "(loop.index | string) + message['content']"),
    CHATML.replace("message['content']", "message['content'] | upper"),
    CHATML.replace("message['content']", "message['content'][:9]"),
])  # fmt: skip
def test_what_writes_more_than_messages_is_refused(template):
    with pytest.raises(InputError, match="--chat-template"):
        solved(template)


def test_a_template_that_runs_on_is_ended(monkeypatch):
    monkeypatch.setattr(jinja, "SECONDS", 0.5)
    with pytest.raises(InputError, match="too much time"):
        solved("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")


def test_a_template_without_an_end(monkeypatch):
    with pytest.raises(InputError, match="no token ends an answer"):
        solved(UNKNOWN, "", "")


def test_a_large_template_and_jinja2_missing(monkeypatch):
    with pytest.raises(InputError, match="larger than"):
        solved(CHATML + " " * chat_templates.MAX_TEMPLATE_BYTES)
    monkeypatch.setattr(jinja, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=r"jinja2 .*himix-edge\[convert\]"):
        solved(CHATML)


def test_all_end_tokens_end_an_answer(tmp_path):
    tokenizer = byte_tokenizer()
    first, second, third = (tokenizer.token_to_id(token) for token in ("<|eot_id|>", "<|endoftext|>", "<|end|>"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": first, "text_config": {"eos_token_id": third}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [first, second]}))
    template = with_ends(NAMED["zephyr"], folder_ends(tmp_path), tokenizer)
    assert template.stop == ("</s>", "<|eot_id|>", "<|end|>", "<|endoftext|>")
    meta = {"tokenizer.ggml.eos_token_id": first, "tokenizer.ggml.eot_token_id": third}
    assert with_ends(NAMED["zephyr"], gguf_ends(meta, "x"), tokenizer).stop == ("</s>", "<|eot_id|>", "<|end|>")


@pytest.mark.parametrize("number", [-1, 10**6, 1 << 40, "2", 1.0, True, [[1]], {}])
def test_an_end_token_that_is_none_is_named(tmp_path, number):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [number]}))
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id: .* is not the id of a token"):
        with_ends(NAMED["zephyr"], folder_ends(tmp_path), byte_tokenizer())


@pytest.mark.parametrize("change", [
    {"stop": []}, {"user": ["a"]}, {"user": "ab"}, {"bos": 1}, {"system": 0}, {"extra": 1}, {"said": None},
    {"bos": "\ud800"}, {"default_system": "x", "system": None},
])  # fmt: skip
def test_a_template_file_is_strict(tmp_path, change):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({**asdict(NAMED["llama-2"]), **change}))
    with pytest.raises(InputError, match=next(iter(change)) if "\ud800" not in str(change) else "chat.json"):
        read_template(path)


def test_every_named_template_can_be_written_and_read(tmp_path):
    for name, template in NAMED.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(asdict(template)))
        assert read_template(path) == template
        assert isinstance(template, ChatTemplate)
