"""Answers that parse: schemas, expressions, choices; judged by Python's own json and re."""

import json
import re

import numpy as np
import pytest
import torch

from benchmarks.structured import KINDS, draw, judge
from himix_edge.checkpoints import load_checkpoint
from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.preprocess import load_image
from himix_edge.runtimes import Structure, open_bundle, open_checkpoint
from himix_edge.runtimes.registry import runtime_names
from himix_edge.text import TextProcessor
from tests.commands import himix
from tests.conftest import FEW

SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square", "triangle"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "sure": {"type": "boolean"},
    },
    "required": ["shape", "count", "sure"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"],
        "additionalProperties": False}, "minItems": 1, "maxItems": 2}  # fmt: skip
NESTED = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "more": SCHEMA},
          "required": ["name", "more"], "additionalProperties": False}  # fmt: skip


def follows(value):
    """SCHEMA, in words that were not written by who wrote the masks."""
    return (
        set(value) == {"shape", "count", "sure"} and value["shape"] in ("circle", "square", "triangle")
        and type(value["count"]) is int and 0 <= value["count"] <= 20 and type(value["sure"]) is bool
    )  # fmt: skip


def follows_list(value):
    return 1 <= len(value) <= 2 and all(set(each) == {"x"} and type(each["x"]) in (int, float) for each in value)


def follows_nested(value):
    return set(value) == {"name", "more"} and len(value["name"]) <= 8 and follows(value["more"])


@pytest.fixture(scope="module")
def torch_session(tiny_checkpoint):
    return open_checkpoint(tiny_checkpoint)


@pytest.fixture(params=["pytorch", "onnx"])
def session(request, torch_session, tiny_bundle):
    return torch_session if request.param == "pytorch" else open_bundle(tiny_bundle)


def said(session, structure, seed=0, **settings):
    """An answer drawn at a high temperature from a model that knows nothing: only the mask can make it right."""
    settings = {"temperature": 3.0, "max_new_tokens": 90, **settings}
    answer = session.generate("what is it?", seed=seed, structure=structure, **settings)
    return "".join(piece.text for piece in answer), answer.stats


@pytest.mark.parametrize(("schema", "check"), [(SCHEMA, follows), (LIST, follows_list), (NESTED, follows_nested)])
def test_every_finished_answer_follows_its_schema(session, schema, check):
    structure, whole = Structure.json_schema(schema), 0
    for seed in range(8):
        text, stats = said(session, structure, seed)
        if stats.finish_reason == "stop":
            assert check(json.loads(text)), text
            whole += 1
        else:
            assert stats.finish_reason == "length"
    assert whole >= 3


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name in runtime_names() if name != "onnx"])
def test_every_runtime_follows_a_schema(target, tiny_checkpoint, tmp_path):
    """Slow: adds all runtimes."""
    export(plan(ExportRequest(str(tiny_checkpoint), target, "int8", tmp_path / target, probe_questions=FEW)))
    with open_bundle(tmp_path / target) as opened:
        found = [said(opened, Structure.json_schema(SCHEMA), seed) for seed in range(4)]
    assert [follows(json.loads(text)) for text, stats in found if stats.finish_reason == "stop"].count(True) >= 2
    assert {stats.finish_reason for _, stats in found} <= {"stop", "length"}


def test_the_benchmark_draws_what_pydantic_takes(tiny_bundle):
    """Few answers in one runtime; `python -m benchmarks.structured` draws thousands of all three schemas in each."""
    with open_bundle(tiny_bundle) as opened:
        for kind in KINDS[:2]:  # the third's are longer than the tiny model's cache
            found = draw(opened, kind, 6)
            assert (found.valid, found.wrong) == (6, "")
    assert "Input should be 'red'" in judge(KINDS[0], '{"color": "pink", "code": "#fff"}')
    assert judge(KINDS[0], '{"color": "red", "code": "#f')
    assert judge(KINDS[1], '{"shape": "circle", "count": "1", "sure": true}')


def test_expressions_match_as_a_whole(session):
    for pattern in (r"[a-c]{3}-[0-9]{2}", r"(yes|no), [a-z]{1,4}\.", "a/b\\n?c", r"a\/b", 'a/\nstart2: "x{1,2}"'):
        for seed in range(3):
            text, stats = said(session, Structure.regex(pattern), seed)
            assert stats.finish_reason == "stop"
            assert re.fullmatch(pattern, text), (pattern, text)


def test_choices_are_said_as_they_stand(session):
    texts = ["red", "reddish", 'a "quoted" one', "ö/\\n"]
    found = {said(session, Structure.choices(texts), seed)[0] for seed in range(24)}
    assert found <= set(texts)
    assert len(found) > 1


def test_a_greedy_answer_is_the_likeliest_that_may_be(torch_session):
    """Of single tokens, compared with the logits themselves."""
    text = torch_session.text
    letters = [letter for letter in "abcdefgh" if len(text.encode_text(letter)) == 1]
    answer = said(torch_session, Structure.choices(letters), temperature=0)
    first = next(torch_session.generate("what is it?", alternatives=400))
    order = [text.decode([token]) for token, _ in first.alternatives]
    assert answer[0] == next(letter for letter in order if letter in letters)


def test_probabilities_stay_the_models_own(torch_session):
    pieces = list(torch_session.generate("hi", structure=Structure.choices(["abc"]), alternatives=400))
    for piece in pieces:
        if piece.token_id is not None:
            assert dict(piece.alternatives)[piece.token_id] == pytest.approx(piece.log_probability, abs=1e-5)


def test_white_space_that_a_model_says_first_may_come(torch_session):
    import dataclasses

    usual = torch_session.text
    template = dataclasses.replace(usual.template, said=" ")
    text = TextProcessor(usual.tokenizer, template)
    matcher = Structure.choices(["yes"]).matcher(text, torch_session.config.decoder.vocab_size)
    logits = np.zeros(torch_session.config.decoder.vocab_size, np.float32)
    may = {usual.decode([token]) for token in np.flatnonzero(np.isfinite(matcher.allowed(logits)))}
    assert {" ", "y"} <= may <= {" ", "y", "ye", "yes", " y", " ye", " yes"}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Structure.json_schema("{"), "not valid JSON"), (lambda: Structure.json_schema("[" * 9999), "nested"),
    (lambda: Structure.json_schema([1]), "an object"),
    (lambda: Structure.json_schema({"a": float("nan")}), "not JSON"),
    (lambda: Structure.json_schema({"enum": ["x" * 300_000]}), "256 KiB"),
    (lambda: Structure.regex(""), "empty"), (lambda: Structure.regex(5), "text"),
    (lambda: Structure.choices([]), "0 choices"), (lambda: Structure.choices(["a", ""]), "empty"),
    (lambda: Structure.choices(["a"] * 5000), "5000 choices"), (lambda: Structure.choices([1]), "text"),
])  # fmt: skip
def test_what_is_no_structure_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("structure", [
    Structure.json_schema({"type": "nothing"}), Structure.json_schema({"$ref": "elsewhere.json"}),
    Structure.json_schema({"type": "object", "unevaluatedProperties": False, "propertyNames": {"pattern": "a"}}),
    Structure.json_schema({"oneOf": []}), Structure.regex("("), Structure.regex(r"(a)\1"), Structure.regex("(?=a)b"),
], ids=range(7))  # fmt: skip
def test_what_is_not_supported_is_one_line(torch_session, structure):
    with pytest.raises(InputError, match="structure") as refused:
        list(torch_session.generate("hi", structure=structure, max_new_tokens=5))
    assert "\n" not in str(refused.value)


def test_himix_run_takes_them(tiny_bundle, tmp_path):
    def run(*options):
        return himix("run", "--bundle", tiny_bundle, "--prompt", "is it?", "--json", *options, cwd=tmp_path)

    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    done = run("--json-schema", "schema.json", "--max-new-tokens", 80)
    assert follows(json.loads(json.loads(done.stdout)["answers"][0]["answer"])), done.stderr
    done = run("--choices", "yes", "--choices", "no")
    assert json.loads(done.stdout)["answers"][0]["answer"] in ("yes", "no")
    for options, words in ((["--choices", "a", "--regex", "b"], "exclude each other"), (["--regex", "("], "unclosed"),
                           (["--json-schema", "gone.json"], "no such file")):  # fmt: skip
        done = run(*options)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_choices_are_ranked_by_the_models_own_likelihood(session, tiny_checkpoint, probe_image):
    """Compared with PyTorch's on the whole conversation at once; the ONNX bundle's weights are int8."""
    choices, prompt = ["red", "a red circle", "no"], "what is it?"
    found = session.rank(prompt, choices, probe_image)
    model, pixels = load_checkpoint(tiny_checkpoint), torch.from_numpy(load_image(probe_image, 32).copy())
    off = 1e-3 if hasattr(session.engine, "model") else 0.5
    for choice, share in zip(choices, found, strict=True):
        ids, target = session.text.encode_conversation([(prompt, choice)])
        shares = model(torch.tensor([ids]), pixels)[0].log_softmax(-1)
        expected = sum(float(shares[at - 1, token]) for at, token in enumerate(ids) if target[at])
        assert share == pytest.approx(expected, abs=off)
    kept = session.encode_image(probe_image)
    assert session.rank(prompt, choices[::-1], kept) == pytest.approx(found[::-1], abs=1e-4)
    for wrong, message in (([], "choices"), ("yes", "choices"), (["word " * 300], "needs"), ([5], "text")):
        with pytest.raises(InputError, match=message):
            session.rank(prompt, wrong)
