"""Our model class for lmms-eval, over a stand-in of its base class and of its requests.

The stand-in is written after lmms-eval 0.7.3: the base class's constructor, `task_dict` and `cache_hook`, the six
fields of a request, GenerationResult and the manifest. There the smallest
number is the choice that is taken. docs/guides/evaluate.md has the commands that run the real one.
"""

import importlib
import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from himix_edge.errors import InputError
from himix_edge.evaluation.exact import normalize
from himix_edge.runtimes import open_checkpoint

ROOT = Path(__file__).parents[2]
PROBE = ROOT / "himix_edge" / "assets" / "probe"
CLASS = "himix_edge.evaluation.lmms"


class Lmms:
    def __init__(self):
        self._rank, self._world_size, self.cache_hook, self.task_dict = 0, 1, Hook(), {}


class Hook:
    def __init__(self):
        self.kept = []

    def add_partial(self, kind, request, result):
        self.kept.append((kind, request, result))


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Result:
    text: object
    token_counts: object = None


@dataclass(frozen=True)
class Instance:
    args: tuple


@pytest.fixture(scope="module")
def himix_lmms():
    """The class, imported over the stand-in, and our module forgotten afterwards."""
    stand_ins = {name: ModuleType(name) for name in
                 ("lmms_eval", "lmms_eval.api", "lmms_eval.api.instance", "lmms_eval.api.model", "lmms_eval.models",
                  "lmms_eval.models.registry_v2")}  # fmt: skip
    stand_ins["lmms_eval.api.instance"].GenerationResult = Result
    stand_ins["lmms_eval.api.model"].lmms = Lmms
    stand_ins["lmms_eval.models.registry_v2"].ModelManifest = Manifest
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
        module, function = declared["himix"].split(":")
        manifest = getattr(importlib.import_module(module), function)()
        assert (manifest.model_id, manifest.chat_class_path) == ("himix", None)
        where, name = manifest.simple_class_path.rsplit(".", 1)
        yield getattr(importlib.import_module(where), name)
    del sys.modules[CLASS]


def documents():
    rows = json.loads((PROBE / "probe.json").read_text())
    return [
        {"image": row["image"], "question": row["conversations"][0]["value"].replace("<image>", "").strip(),
         "answer": row["conversations"][1]["value"]}
        for row in rows
    ]  # fmt: skip


def visual(document):
    return [Image.open(PROBE / document["image"]).convert("RGB")]


def asked(number, second, text=None, pictures=visual):
    return Instance((documents()[number]["question"] if text is None else text, second, pictures, number, "t", "test"))


@pytest.fixture(scope="module")
def model(himix_lmms):
    model = himix_lmms(model="nano", batch_size="1", device=None, max_batch_size=None)
    model.task_dict = {"t": {"test": documents()}}
    return model


@pytest.fixture(scope="module")
def session():
    return open_checkpoint("nano")


def test_answers_are_the_sessions_own(model, session):
    options = {"until": ["\n\n"], "max_new_tokens": 16, "temperature": 0.0, "do_sample": False, "top_p": None}
    given = model.generate_until([asked(number, options) for number in range(12)])
    wanted = documents()[:12]
    assert given == [session.answer(d["question"], PROBE / d["image"], 16) for d in wanted]
    assert sum(normalize(a) == d["answer"] for a, d in zip(given, wanted, strict=True)) >= 11
    assert len(set(given)) > 3
    assert [result for _, _, result in model.cache_hook.kept[-12:]] == given


def test_until_and_the_limit_end_an_answer(model):
    (whole,) = model.generate_until([asked(0, {"until": None})])
    assert whole == "triangle"
    assert model.generate_until([asked(0, {"until": ["ang"]})]) == ["tri"]
    (short,) = model.generate_until([asked(0, {"max_new_tokens": 1})])
    assert whole.startswith(short)
    assert model.generate_until([asked(0, {"temperature": 50.0, "do_sample": False})]) == [whole]


def test_sampling_is_the_same_in_each_run_and_differs_between_repeats(himix_lmms):
    def run():
        model = himix_lmms(model="nano", seed=3)
        model.task_dict = {"t": {"test": documents()}}
        return model.generate_until([asked(0, {"temperature": 5.0, "max_new_tokens": 6})] * 3)

    first = run()
    assert first == run()
    assert len(set(first)) == 3


def likelihoods(model, *requests):
    return [result.text for result in model.loglikelihood(requests)]


def test_several_pictures_and_none(model, session):
    both = [PROBE / "easy-vqa-0.png", PROBE / "easy-vqa-11.png"]
    pictures = [Image.open(path).convert("RGB") for path in both]
    text = "<image><image>\nwhat color is the shape?"
    ((seen, _),) = likelihoods(model, asked(0, "red", text, lambda _: pictures))
    assert -seen == pytest.approx(session.rank("what color is the shape?", ["red"], both)[0], abs=1e-5)
    for none in (None, []):
        ((blind, _),) = likelihoods(model, asked(0, "red", "what color is it?", lambda _, none=none: none))
        assert -blind == pytest.approx(session.rank("what color is it?", ["red"])[0], abs=1e-5)


def test_the_smallest_number_is_the_likeliest_choice_and_the_greedy_answer_is_marked(model, session):
    words = ["circle", "triangle", "red"]
    found = likelihoods(model, *(asked(0, f" {word}") for word in words))
    ranked = session.rank(documents()[0]["question"], words, PROBE / documents()[0]["image"])
    assert [-value for value, _ in found] == pytest.approx(ranked, abs=1e-5)
    assert min(found)[0] == found[1][0]
    assert [greedy for _, greedy in found] == [False, True, False]
    assert likelihoods(model, asked(0, " tri"))[0][1] is False  # how the answer begins, not all of it


def test_a_tasks_own_target_has_its_logarithm(model, session):
    ((value, greedy),) = likelihoods(model, asked(0, lambda document: document["answer"]))
    ranked = session.rank(documents()[0]["question"], ["triangle"], PROBE / documents()[0]["image"])
    assert (value, greedy) == (pytest.approx(ranked[0], abs=1e-5), True)


@pytest.mark.parametrize(("thing", "named"), [
    ("clip.mp4", "a file, such as a video ('clip.mp4')"),
    ({"array": np.zeros(9), "sampling_rate": 16000}, "a record, such as sound"),
    (np.zeros((8, 4, 4, 3), np.uint8), "of type ndarray"),
])  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(model, thing, named):
    with pytest.raises(InputError) as raised:
        model.generate_until([asked(2, {}, pictures=lambda document: [*visual(document), thing])])
    assert str(raised.value) == f"task t, test 2: visual 2 is {named}; himix takes pictures, as Pillow images"


@pytest.mark.parametrize(("options", "says"), [
    ({"num_beams": 4}, "num_beams is 4"),
    ({"repetition_penalty": 1.2}, "does not know repetition_penalty"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
])  # fmt: skip
def test_an_option_that_would_be_passed_over_is_refused(model, options, says):
    with pytest.raises(InputError, match=f"task t, test 1: .*{says}"):
        model.generate_until([asked(1, options)])


def test_what_it_cannot_ask_is_refused(model):
    with pytest.raises(InputError, match="several"):
        model.generate_until_multi_round([])
    with pytest.raises(InputError, match="acc_mutual_info"):
        model.loglikelihood([Instance(("", "red"))])


@pytest.mark.parametrize(("arguments", "says"), [
    ({"pretrained": "x"}, "does not know pretrained"),
    ({"batch_size": "4"}, "--batch_size 4"),
    ({"max_batch_size": 8}, "--max_batch_size"),
    ({"device": "cuda"}, "add bundle="),
    ({"adapter": "a.himix"}, "add bundle="),
    ({"seed": -1}, "seed is -1"),
    ({"bundle": "no-such-folder"}, "no-such-folder"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(himix_lmms, arguments, says):
    with pytest.raises(InputError, match=says):
        himix_lmms(**arguments)


def test_several_processes_are_refused(himix_lmms, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        himix_lmms(model="nano")


def test_a_bundle_is_opened(himix_lmms, tiny_bundle, probe_image):
    model = himix_lmms(bundle=str(tiny_bundle), device="cpu")
    model.task_dict = {"t": {"test": documents()}}
    (given,) = model.generate_until([asked(0, {"max_new_tokens": 3}, "yes", lambda _: [Image.open(probe_image)])])
    assert given == model.session.answer("yes", probe_image, 3)
