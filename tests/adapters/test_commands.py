"""`himix adapter`, `--adapter` where bundles are used, and adapters merged at an export."""

import json
import urllib.request

import numpy as np
import pytest

from himix_edge.adapter_file import Adapter
from himix_edge.cli import himix as command
from himix_edge.errors import InputError
from himix_edge.evaluation.batch import Opening
from himix_edge.export.traces import distance
from himix_edge.manifest import read_manifest
from himix_edge.runtimes import open_bundle
from himix_edge.runtimes.pool import SessionPool, adapted_pool
from tests.adapters.conftest import TEXT, peft_model
from tests.adapters.test_swapping import logits, reference
from tests.commands import himix
from tests.conftest import TINY
from tests.serving.running import running


def run(*arguments):
    """In this process: these tests are about what is computed, not about how it ends."""
    command.main([str(argument) for argument in arguments], standalone_mode=False)


def test_a_peft_folder_becomes_a_file_that_run_takes(bundles, adapted, adapter_file, probe_image, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    run("adapter", adapted[1], "--bundle", bundles["onnx"], "--out", out)
    assert "rank 3, 18 of 18 linears" in capsys.readouterr().out
    made, expected = (Adapter.load(path, TINY) for path in (out, adapter_file))
    assert made.base == expected.base
    assert made.tensors.keys() == expected.tensors.keys()
    assert all(np.array_equal(made.tensors[name], tensor) for name, tensor in expected.tensors.items())
    asked = ("run", "--bundle", bundles["onnx"], "--image", probe_image, "--prompt", "what is it?", "--json")
    answers = []
    for more in ((), ("--adapter", out)):
        run(*asked, *more)
        answers.append(json.loads(capsys.readouterr().out)["answers"][0]["answer"])
    session = open_bundle(bundles["onnx"])
    assert answers[0] == session.answer("what is it?", probe_image)
    session.use_adapter(out)
    assert answers[1] == session.answer("what is it?", probe_image)
    assert answers[0] != answers[1]


def test_mistakes_get_one_line_and_exit_code_2(bundles, tiny_bundle, adapted, adapter_file, tmp_path):
    for arguments, words in (
        (("adapter", tmp_path / "gone", "--bundle", bundles["onnx"], "--out", "x"), "no such adapter"),
        (("adapter", adapted[1], "--bundle", tiny_bundle, "--out", "x"), "takes no adapters; export it again"),
        (("run", "--bundle", tiny_bundle, "--prompt", "hi", "--adapter", adapter_file), "takes no adapters"),
        (("run", "--prompt", "hi", "--adapter", adapter_file), "--adapter is of an exported bundle"),
        (("eval", "--adapter", adapter_file), "--adapter is of an exported bundle"),
        (("serve", tiny_bundle, "--adapter", f"a={adapter_file}"), "was made for none of these bundles"),
        (("serve", tiny_bundle, "--adapter", "a"), "give NAME=FILE"),
        (("serve", f"a={bundles['onnx']}", "--adapter", f"a={adapter_file}"), "called a is there already"),
        (("export", "--target", "coreml", "--adapter-rank", 4, "--out", "x"), "bundles for coreml take no adapters"),
    ):
        done = himix(*arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_batch_goes_on_with_the_same_adapter_alone(bundles, adapter_file, text_adapter_file):
    files = (None, adapter_file, text_adapter_file[2])
    assert len({Opening(bundles["onnx"], adapter=file).identity for file in files}) == 3
    session = Opening(bundles["onnx"], adapter=adapter_file)()
    assert session.adapter.where == str(adapter_file)


def test_a_server_has_a_model_of_each_adapter(bundles, adapter_file):
    session = open_bundle(bundles["onnx"])
    pool = SessionPool([session])
    models = {"base": pool, "shapes": adapted_pool(pool, adapter_file, lambda: session)}
    expected = {name: models[name].sessions[0].answer("what is it?", max_new_tokens=6) for name in models}
    assert expected["base"] != expected["shapes"]
    with running(models) as server:
        for name in ("base", "shapes", "base"):
            body = {"model": name, "messages": [{"role": "user", "content": "what is it?"}], "max_tokens": 6,
                    "temperature": 0}  # fmt: skip
            request = urllib.request.Request(
                f"{server.address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                said = json.loads(answer.read())["choices"][0]["message"]["content"]
            assert said.strip() == expected[name]
    assert not server.errors


def test_an_adapter_is_merged_at_the_export_and_said_so(tiny_checkpoint, adapter_file, tmp_path, pixels, capsys):
    model = peft_model(tiny_checkpoint, 3, TEXT)
    model.save_pretrained(str(tmp_path / "red"))
    out = tmp_path / "b"
    run("export", "--target", "onnx_portable", "--quant", "none", "--model", tiny_checkpoint, "--adapter",
        tmp_path / "red", "--out", out, "--probe-questions", 2)  # fmt: skip
    assert "red is merged into its weights, and cannot be swapped" in capsys.readouterr().out
    assert read_manifest(out).provenance["merged_adapter"]["name"] == "red"
    session = open_bundle(out)
    assert distance(reference(model, pixels), logits(session, pixels)) < 2e-5
    with pytest.raises(InputError, match="takes no adapters, and 'red' is merged into its weights for good"):
        session.use_adapter(adapter_file)
