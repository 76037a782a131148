"""Published tasks scored by hand and by the official scorers' own examples."""

import math

import pytest

from himix_edge.evaluation.measures import mean, means_by, total
from himix_edge.evaluation.task import TaskQuestion
from himix_edge.evaluation.tasks import gqa, mme, mmmu, nlvr, pope, vqav2
from himix_edge.evaluation.tasks import textvqa as text_vqa
from himix_edge.evaluation.vqa_answers import CONTRACTIONS, agreement, evalai_normalize, vqa_normalize


def ask(kind, *answers, group="", options=()):
    return TaskQuestion("1", "?", "?", None, answers, kind, group, options)


# the evaluation page of visualqa.org names these, and the processor's authors the last
@pytest.mark.parametrize(("answer", "normal"), [
    ("Dont", "don't"), ("100,978", "100978"), ("2:50 pm", "2:50 pm"), ("the girl's", "girl's"), ("two", "2"),
    ("3.5", "3.5"), ("U.S.A.", "usa"), ("none", "0"), ("top-left", "top left"), ("well , no", "well no"),
    ("couldnt've", "couldn't've"), ("somebody'd", "somebodyd"), ("lets", "lets"),
    ("The poster shows a 10% discount.", "poster shows 10% discount"),
])  # fmt: skip
def test_vqa_normalization(answer, normal):
    assert vqa_normalize(answer) == normal


def test_evalai_splits_the_possessive_and_drops_a_lone_article():
    assert evalai_normalize("the girl's, well?") == "girl 's well"
    assert evalai_normalize("A") == ""  # LLaVA issue 618
    assert evalai_normalize("\n1,000\t") == "1000"


def test_contractions_are_those_of_the_official_table():
    assert len(CONTRACTIONS) == 114  # of its 120, without those that change nothing or begin with a capital letter
    assert {CONTRACTIONS[word] for word in ("yall'd've", "y'alld've", "y'all'dve")} == {"y'all'd've"}
    assert not {"hell", "ill", "shed", "shell", "shes", "wed", "well", "were", "lets"} & set(CONTRACTIONS)


@pytest.mark.parametrize(("same", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_agreement_with_ten_people(same, accuracy):
    assert agreement("red", ["red"] * same + ["blue"] * (10 - same)) == pytest.approx(accuracy)


def test_vqav2_normalizes_only_where_people_disagree():
    assert vqav2.accuracy("yes!", ["yes"] * 10) == 0  # GT-Vision-Lab/VQA issue 14
    assert vqav2.accuracy("yes!", ["yes"] * 9 + ["no"]) == 1
    assert vqav2.accuracy("The Cat", ["a cat"] * 3 + ["dog"] * 7) == pytest.approx(0.9)
    assert vqav2.accuracy("none", ["none"] + ["nothing"] * 9) == pytest.approx(0.3)  # both become 0; issue 7
    questions = [ask("yes/no", *["yes"] * 10), ask("number", *["2"] * 3, *["3"] * 7), ask("yes/no", *["no"] * 10)]
    overall, *kinds = vqav2.score(questions, ["Yes!", "Two.", "yes"])
    assert (overall.name, overall.questions) == ("accuracy", 3)
    assert overall.value == pytest.approx(1.9 / 3)
    assert [(kind.name, kind.value) for kind in kinds] == [("yes/no", 0.5), ("number", pytest.approx(0.9))]


def test_textvqa_normalizes_always():
    assert text_vqa.accuracy("Coca-Cola.", ["coca cola"] * 10) == 1
    assert text_vqa.accuracy("pepsi", ["coca cola"] * 8 + ["Pepsi", "the pepsi"]) == pytest.approx(0.6)


def test_gqa_wants_the_very_answer():
    questions = [ask("query", "bag"), ask("verify", "yes"), ask("query", "left")]
    measures = {m.name: m.value for m in gqa.score(questions, ["Bag.", "Yes, it is", "the left"])}
    assert measures == {"accuracy": pytest.approx(1 / 3), "open": 0.5, "binary": 0, "query": 0.5, "verify": 0}


@pytest.mark.parametrize(("answer", "yes"), [
    ("Yes", True), ("No", False), ("no.", False), ("There is not one", False), ("NO", True), ("Nothing", True),
    ("Yes. Not that I know", True), ("Well, no, it is", False), ("", True),
])  # fmt: skip
def test_pope_reads_the_first_sentence(answer, yes):
    assert pope.says_yes(answer) == yes


def test_pope_scores():
    questions = [ask("random", "yes"), ask("random", "yes"), ask("random", "no"), ask("random", "no")]
    measures = {m.name: m.value for m in pope.score(questions * 2, ["yes", "no", "yes", "no"] * 2)}
    assert {name.removeprefix("random: ") for name in measures} == {
        "F1",
        "accuracy",
        "precision",
        "recall",
        "yes ratio",
    }
    assert set(measures.values()) == {0.5}
    one = pope.score([ask("random", "yes")] * 3 + [ask("popular", "no")], ["yes", "yes", "no", "no"])
    values = {m.name: m.value for m in one}
    assert (values["random: recall"], values["random: precision"]) == (pytest.approx(2 / 3), 1)
    assert values["random: F1"] == pytest.approx(0.8)
    assert values["popular: F1"] == 0  # 0/0
    assert values["F1"] == pytest.approx(0.4)
    assert values["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert all(m.interval[0] <= m.value <= m.interval[1] for m in one)


@pytest.mark.parametrize(("answer", "meaning"), [
    ("Yes", "yes"), ("no, it is", "no"), ("NO.", "no"), ("The yes", "other"), ("Not", "no"), ("A no", "no"),
    ("", "other"),
])  # fmt: skip
def test_mme_reads_four_letters(answer, meaning):
    assert mme.yes_or_no(answer) == meaning


def test_mme_adds_accuracy_and_accuracy_plus():
    questions = [ask("count", "Yes", group=image) for image in "aabbcc"]
    answers = ["yes", "Yes.", "yes", "no", "no", "maybe"]
    questions += [ask("OCR", "No", group="a")] * 2 + [ask("OCR", "No", group="b"), ask("code_reasoning", "No")]
    answers += ["No", "no", "no", "no"]
    measures = {m.name: m.value for m in mme.score(questions, answers)}
    assert measures == {
        "count": pytest.approx(50 + 100 / 3),
        "OCR": 200,
        "perception, 2 of 10 subtasks": pytest.approx(250 + 100 / 3),
    }
    every = [ask(name, "Yes", group="a") for name in mme.SUBTASKS["perception"] for _ in range(2)]
    best = mme.score(every, ["yes"] * 20)[0]
    assert (best.name, best.value) == ("perception", 2000)


OPTIONS = ("red wine", "beer", "tea", "water")


@pytest.mark.parametrize(("answer", "letter"), [
    ("B", "B"), ("B.", "B"), ("(C)", "C"), ("A or rather (B), no, (C)", "C"), ("Not A but D I think", "D"),
    ("it must be the beer that they drink", "B"), ("beer", ""), ("Beer it is and not the Tea", "C"), ("b", ""),
    ("", ""), ("first the tea and then the Red wine", "A"),
])  # fmt: skip
def test_mmmu_choices(answer, letter):
    assert mmmu.choice(answer, OPTIONS) == letter


def test_mmmu_open_answers():
    assert mmmu.open_answers("So the answer is 12.345 Ohm.") == {"12.345 ohm", 12.35}
    assert mmmu.open_answers("It is 1,234.5") == {1234.5, 1234, 234.5}  # pieces too, as in the official script
    assert mmmu.open_answers("x = 7") == {7.0}
    assert mmmu.open_answers("It is x") == {" x", "x "}
    for expected, given, right in [
        (("30",), "36 watts", False),  # MMMU's own example
        (("36",), "36 watts", True),
        (("0.0",), "The result is 0", True),
        (("paris",), "It is in Paris, France", True),
        (("1,200", "1300"), "= 1300", True),
        (("x",), "so it is yx", False),
    ]:
        assert mmmu.is_right(ask("Math", *expected), given) == right, (expected, given)


def test_mmmu_scores_by_discipline_and_counts_what_it_could_not_read_as_wrong():
    questions = [ask("Math", "A", options=OPTIONS), ask("Music", "B", options=OPTIONS), ask("Math", "2")]
    values = {m.name: m.value for m in mmmu.score(questions, ["(A)", "beer", "3"])}
    assert values == {
        "accuracy": pytest.approx(1 / 3), "no choice to be read": 0.5, "Science": 0.5, "Art and Design": 0,
        "subject Math": 0.5, "subject Music": 0,
    }  # fmt: skip
    assert len(mmmu.DISCIPLINE_OF) == 30


def test_nlvr_accuracy_and_consistency():
    questions = [ask("true", "true", group="7")] * 2 + [ask("false", "false", group=group) for group in "78"]
    values = {m.name: m.value for m in nlvr.score(questions, ["Yes", "yes, it is", "yes", "No."])}
    assert values == {"accuracy": 0.75, "consistency": 0.5, "true": 1, "false": 0.5}


def test_intervals():
    half = mean("half", [0.5] * 10)
    assert half.interval == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson of 5 of 10
    doubled = mean("half", [0.5] * 10, scale=2)
    assert (doubled.value, doubled.interval) == (1, pytest.approx((2 * 0.2366, 2 * 0.7634), abs=2e-4))
    both = total("both", [half, half])
    width = (0.7634 - 0.5) * math.sqrt(2)
    assert (both.value, both.interval) == (1, pytest.approx((1 - width, 1 + width), abs=1e-3))
    assert [m.name for m in means_by(["a", "b", "b"], [1, 0, 1])] == ["b", "a"]
