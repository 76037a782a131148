"""What is fuzzed: each parser of outside data, with the files that it takes."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Kind

Seeds = Callable[[Path], list[bytes]]  # of the material's folder
Parse = Callable[[Path], Any]  # of the damaged file


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        seeds: valid files.
        parse: raises a HimixError for what is no valid file, and nothing else.
        file_name: of the damaged file; it may lie in folders.
        around: what of the material is copied to where the damaged file will be put, e.g. the rest of a bundle.
        deep: needs bundles that take minutes to make.
        seconds: an input that takes longer is a finding.
    """

    name: str
    kind: Kind
    seeds: Seeds
    parse: Parse
    file_name: str
    around: str | None = None
    deep: bool = False
    seconds: float = 10

    def prepare(self, material: Path, place: Path) -> tuple[list[bytes], Parse]:
        """The seeds and the parser, with `place` filled with what surrounds the damaged file."""
        if self.around:
            shutil.copytree(material / self.around, place, dirs_exist_ok=True)
        return self.seeds(material), self.parse

    def file(self, place: Path, content: bytes) -> Path:
        """The damaged file, written."""
        path = place / self.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def files(pattern: str) -> Seeds:
    """The material's files of this pattern."""
    return lambda material: [path.read_bytes() for path in sorted(material.glob(pattern))]


def given(*texts: str) -> Seeds:
    """These texts."""
    return lambda _: [text.encode() for text in texts]


def _manifest(path: Path) -> Any:
    from himix_edge.runtimes.verifying import open_verified

    return open_verified(path.parent)


def _described(path: Path) -> Any:
    from click.testing import CliRunner

    from himix_edge.cli import himix

    for arguments in (["info", str(path.parent)], ["info", str(path.parent), "--json"]):
        outcome = CliRunner().invoke(himix, arguments)
        if outcome.exception and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception


def _session(path: Path) -> Any:
    """A role's file in a bundle that vouches for it: only the runtime is left to refuse it."""
    from himix_edge.bundle import MANIFEST
    from himix_edge.runtimes import open_bundle

    folder = path.parent
    while not (folder / MANIFEST).exists():
        folder = folder.parent
    manifest = json.loads((folder / MANIFEST).read_text())
    for record in [*(r for records in manifest["roles"].values() for r in records), *manifest["files"]]:
        if record["path"] == path.relative_to(folder).as_posix():
            record.update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (folder / MANIFEST).write_text(json.dumps(manifest))
    session = open_bundle(folder, threads=1)
    return session.answer("What is this?", folder / "selftest" / "pixels.png", max_new_tokens=2)


def _tokenizer(path: Path) -> Any:
    from himix_edge.text import load_tokenizer

    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode(
        "What color is <|user|> the 2nd shape?\n\n caf\u00e9 " + "ab " * 50, add_special_tokens=False
    ).ids
    return tokenizer.decode(ids)


def _text(path: Path) -> Any:
    from himix_edge.text import Message, TextProcessor

    text = TextProcessor.load(path.parent)
    ids = text.encode_chat([Message("user", "What is it? " * 20)])
    stream = text.stream()
    return "".join(stream.step(token) for token in ids)


def _prompt(path: Path) -> Any:
    from himix_edge.text import Message, TextProcessor

    text = TextProcessor.load(path.parent)
    said = path.read_bytes()
    decoded = said.decode("utf-8", "surrogateescape" if len(said) % 2 else "replace")
    return text.encode_chat([Message("user", decoded)])


def _stream(path: Path) -> Any:
    """Bytes as token ids, through a tokenizer that falls back to bytes."""
    from himix_edge.text import TextStream, load_tokenizer

    tokenizer = load_tokenizer(path.parent / "sentencepiece.json")
    stream = TextStream(tokenizer)
    return "".join(stream.step(8 + byte) for byte in path.read_bytes()[:400])


def _checkpoint(path: Path) -> Any:
    from himix_edge import load_checkpoint

    return load_checkpoint(path.parent)


def _config(path: Path) -> Any:
    from himix_edge.config import ModelConfig
    from himix_edge.reading import read_json

    return ModelConfig.from_dict(read_json(path), str(path))


def _source(path: Path) -> Any:
    from himix_edge.checkpoints import open_source

    source = open_source(path.parent)
    return source.load_text()


def _gguf(path: Path) -> Any:
    from himix_edge.checkpoints import load_checkpoint, open_source

    open_source(path).load_text()
    return load_checkpoint(path)


def _image(path: Path) -> Any:
    from himix_edge.preprocess import load_image

    return load_image(path, 64)


def _image_kv(path: Path) -> Any:
    from himix_edge.runtimes import ImageKV

    image = ImageKV.load(path)
    return image.key, image.value, image.in_bits(8)


def _recipe(path: Path) -> Any:
    from himix_edge.training.recipe import read_recipe

    return read_recipe(str(path))


def _setting(path: Path) -> Any:
    from himix_edge.training.recipe import read_recipe

    return read_recipe("nano", (path.read_bytes().decode("utf-8", "replace"),))


def _policy(path: Path) -> Any:
    from himix_edge.export.quantization.policy import POLICIES, read_policy

    return read_policy(path, POLICIES["int4"])


def _llava(path: Path) -> Any:
    from himix_edge.data.llava import load_llava

    return load_llava(path)


def _task(name: str) -> Parse:
    def parse(path: Path) -> Any:
        from himix_edge.evaluation.task import find_task

        task = find_task(name)
        folder = path.parents[len(Path(TASKS[name][0]).parts) - 1]
        return task.read(folder, task.splits[0], None)

    return parse


def _records(path: Path) -> Any:
    from himix_edge.bench.record import read_records

    return read_records(path)


def _report(path: Path) -> Any:
    from click.testing import CliRunner

    from himix_edge.cli import himix

    outcome = CliRunner().invoke(himix, ["report", str(path), "--out", str(path.with_suffix(".html"))])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception


def _device(path: Path) -> Any:
    from himix_edge.bench.devices.ssh_link import parse_address

    return parse_address(path.read_bytes().decode("utf-8", "replace"))


def _chat_request(path: Path) -> Any:
    """A request's body up to its pictures, which are read as files are."""
    from himix_edge.errors import InputError
    from himix_edge.serving.pictures import read_picture
    from himix_edge.serving.refusals import Refused
    from himix_edge.serving.requests import read_chat_request

    try:
        request = read_chat_request(path.read_bytes())
        pictures = [read_picture(url, path.parent) for message in request.messages for url in message.pictures]
        return request.structure, pictures
    except Refused as refused:
        raise InputError(str(refused)) from None


def _questions(path: Path) -> Any:
    from himix_edge.evaluation.batch import read_questions

    return read_questions(path)


def _structured(path: Path, make: Callable[[str], Any]) -> Any:
    import numpy as np

    from himix_edge.errors import InputError
    from himix_edge.text import TextProcessor

    try:
        content = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    text = TextProcessor.load(path.parent)
    size = text.tokenizer.get_vocab_size()
    matcher, logits = make(content).matcher(text, size), np.zeros(size, np.float32)
    for _ in range(20):
        allowed = matcher.allowed(logits)
        if not np.isfinite(allowed).any() or matcher.take(int(allowed.argmax())):
            break


def _schema(path: Path) -> Any:
    from himix_edge.runtimes import Structure

    return _structured(path, Structure.json_schema)


def _expression(path: Path) -> Any:
    from himix_edge.runtimes import Structure

    return _structured(path, Structure.regex)


RECORD = {
    "schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "himix bench x", "harness": "himix-edge 0.1.0",
    "device": {"name": "board", "cores": 4, "memory_bytes": 4000000000},
    "bundle": {"name": "nano-onnx-int8", "target": "onnx", "precision": "int8", "bytes": 1000, "accuracy": 0.5},
    "settings": {"warm_up": 1, "timed": 3, "vision_tokens": 64, "new_tokens": 8},
    "samples": {"load": [20.0], "prefill": [1.0, 1.5, 1.25], "ttft": [3.0, 3.5, 3.25], "inter_token": [0.5] * 9},
    "memory": {"baseline_bytes": 1000, "peak_bytes": 2000}, "readings": [{"at_s": 0.5, "cpu_temperature_c": 50.0}],
    "answers": [{"prompt": "q", "text": "a", "token_ids_sha256": "0" * 64, "runs": 3, "equal_runs": 3}],
    "verdict": "valid", "reasons": [],
}  # fmt: skip
LLAVA = [
    {
        "id": "1",
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}],
    },
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
]
TASKS = {
    "gqa": ("testdev_balanced_questions.json",
            {"1": {"imageId": "1", "question": "q", "answer": "a", "types": {"structural": "query"}}}),
    "textvqa": ("TextVQA_0.5.1_val.json",
                {"data": [{"question_id": 1, "image_id": "a", "question": "q", "answers": ["a"] * 10}]}),
    "mm-vet": ("mm-vet.json", {"v1_0": {"imagename": "v1_0.png", "question": "q"}}),
}  # fmt: skip
REQUEST = {
    "model": "m", "max_tokens": 5, "temperature": 0.5, "stop": ["a"], "n": 1, "seed": 1, "logprobs": True, "user": "u",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [
            {"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ]},
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
}  # fmt: skip
QUESTIONS = '{"prompt": "q", "id": 1, "system": "s"}\n{"prompt": "r"}\n'
SCHEMA = {
    "type": "object", "required": ["a", "b"], "additionalProperties": False,
    "properties": {
        "a": {"enum": ["x", 1, None]}, "b": {"type": "array", "items": {"$ref": "#/$defs/c"}, "maxItems": 3},
        "d": {"type": "string", "pattern": "^[a-c]{2,5}$"},
        "e": {"anyOf": [{"type": "number", "maximum": 5}, {"const": "z"}]},
    },
    "$defs": {"c": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}},
}  # fmt: skip
POLICY = "embedding: 8\ngroup_size: 64\noverrides:\n  'model.layers.0.*': 8\n"
ROLES = {
    "onnx": ("decoder.onnx", "vision_encoder.onnx", "vision_injector.onnx"),
    "onnx_portable": ("decoder.onnx",),
    "openvino": ("decoder.xml", "vision_injector.xml"),
    "executorch": ("model.pte",),
    "coreml": tuple(
        f"vision_injector.mlpackage/Data/com.apple.CoreML/{name}" for name in ("model.mlmodel", "weights/weight.bin")
    ),
}


def _all() -> list[Target]:
    checkpoint, llama, bundle = "checkpoint", "llama", "bundle-onnx"
    found = [
        Target("manifest", "json", files("bundle-onnx/manifest.json"), _manifest, "manifest.json", bundle),
        Target("info", "json", files("bundle-onnx/manifest.json"), _described, "manifest.json", bundle),
        Target(
            "tokenizer",
            "json",
            lambda m: [*files("*/tokenizer.json")(m), *files("llama/sentencepiece.json")(m)],
            _tokenizer,
            "tokenizer.json",
        ),
        Target(
            "chat template", "json", files("checkpoint/chat_template.json"), _text, "chat_template.json", checkpoint
        ),
        Target(
            "jinja template",
            "text",
            lambda m: [json.loads(s)["chat_template"].encode() for s in files("llama/tokenizer_config.json")(m)],
            _source,
            "chat_template.jinja",
            llama,
        ),
        Target(
            "tokenizer_config", "json", files("llama/tokenizer_config.json"), _source, "tokenizer_config.json", llama
        ),
        Target(
            "generation_config",
            "json",
            files("llama/generation_config.json"),
            _source,
            "generation_config.json",
            llama,
        ),
        Target("prompt", "text", given("What is it?\n<|user|> caf\u00e9 \U0001f600 x"), _prompt, "prompt", checkpoint),
        Target(
            "token stream",
            "bytes",
            lambda _: [bytes(range(256)), "caf\u00e9 \U0001f600\n\r".encode() * 9],
            _stream,
            "ids",
            llama,
        ),
        Target(
            "config",
            "json",
            lambda m: [*files("checkpoint/config.json")(m), *files("llama/config.json")(m)],
            _config,
            "config.json",
        ),
        Target(
            "config of a checkpoint", "json", files("checkpoint/config.json"), _checkpoint, "config.json", checkpoint
        ),
        Target("config of a Llama", "json", files("llama/config.json"), _checkpoint, "config.json", llama),
        Target(
            "weights",
            "safetensors",
            files("checkpoint/model.safetensors"),
            _checkpoint,
            "model.safetensors",
            checkpoint,
        ),
        Target("gguf", "bytes", files("gguf/*.gguf"), _gguf, "model.gguf"),
        Target("image", "bytes", files("images/*"), _image, "image"),
        Target("image kv", "safetensors", files("image-*.kv"), _image_kv, "image.kv"),
        Target("recipe", "text", files("recipe.yaml"), _recipe, "recipe.yaml"),
        Target("setting", "text", given("all.steps=500", "blind=true", "tests=[]"), _setting, "setting"),
        Target("policy", "text", given(POLICY), _policy, "policy.yaml"),
        Target("llava", "json", given(json.dumps(LLAVA)), _llava, "data.json", "images"),
        Target(
            "record",
            "json",
            given(json.dumps(RECORD), json.dumps([RECORD] * 2)),
            _records,
            "record.json",
        ),
        Target("chat request", "json", given(json.dumps(REQUEST)), _chat_request, "body.json"),
        Target("questions", "text", given(QUESTIONS), _questions, "questions.jsonl"),
        Target("json schema", "json", given(json.dumps(SCHEMA)), _schema, "schema.json", checkpoint),
        Target("expression", "text", given("(yes|no), [a-z]{1,9}/?\\.", "\\d{3}-x+"), _expression, "regex", checkpoint),
        Target("device", "text", given("pi@board:22", "[::1]:22", "pi@[fe80::1]"), _device, "device"),
        *(
            Target(f"task {name}", "json", given(json.dumps(content)), _task(name), file)
            for name, (file, content) in TASKS.items()
        ),
    ]
    for target, roles in ROLES.items():
        found += [
            Target(
                f"{target} {Path(role).stem}",
                "bytes",
                files(f"bundle-{target}/{role}"),
                _session,
                role,
                f"bundle-{target}",
                target != "onnx",
                20,
            )
            for role in roles
        ]
    return found


TARGETS = {target.name: target for target in _all()}
WEIGHTS = dict.fromkeys(
    ("manifest", "config", "image", "llava", "record", "policy", "setting", "device", "prompt", "token stream"), 30
) | dict.fromkeys(("tokenizer", "chat template", "gguf", "image kv", "recipe", "task gqa", "task mm-vet"), 10)
"""Shares of the inputs where all are fed; 1 for what is not here, which takes long."""


def _fail(path: Path) -> None:
    """Each way that a parser can fail, by how often it was called; the harness is tested with it."""
    calls = Path(os.environ["HIMIX_FUZZ_FAULTY"])
    count = len(calls.read_text()) if calls.exists() else 0
    calls.write_text("x" * (count + 1))
    if count == 1:
        raise ZeroDivisionError
    if count == 2:
        time.sleep(60)
    if count == 4:  # in between a new worker took the seed
        os.abort()


if "HIMIX_FUZZ_FAULTY" in os.environ:
    TARGETS["faulty"] = Target("faulty", "bytes", given("x"), _fail, "x", seconds=2)
