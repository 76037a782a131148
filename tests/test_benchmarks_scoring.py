"""Benchmarks scored by hand, by the official scorers' own examples, and read from made-up folders of their format."""

import io
import json
import math
from importlib import import_module

import pytest
from click.testing import CliRunner
from PIL import Image

from himix_edge.cli import himix
from himix_edge.errors import BackendMissing, InputError
from himix_edge.evaluation.asking import answer_all, require_images
from himix_edge.evaluation.benchmarks import (
    Question,
    benchmark_names,
    find_benchmark,
    gqa,
    mme,
    mmmu,
    nlvr,
    pope,
    vqav2,
)
from himix_edge.evaluation.benchmarks import textvqa as text_vqa
from himix_edge.evaluation.measures import mean, means_by, total
from himix_edge.evaluation.vqa_answers import CONTRACTIONS, agreement, evalai_normalise, vqa_normalise
from himix_edge.preprocess import load_image
from himix_edge.runtimes.session import Piece


def ask(kind, *answers, group="", options=()):
    return Question("1", "?", "?", None, answers, kind, group, options)


# the evaluation page of visualqa.org names these, and the processor's authors the last
@pytest.mark.parametrize(("answer", "normal"), [
    ("Dont", "don't"), ("100,978", "100978"), ("2:50 pm", "2:50 pm"), ("the girl's", "girl's"), ("two", "2"),
    ("3.5", "3.5"), ("U.S.A.", "usa"), ("none", "0"), ("top-left", "top left"), ("well , no", "well no"),
    ("couldnt've", "couldn't've"), ("somebody'd", "somebodyd"), ("lets", "lets"),
    ("The poster shows a 10% discount.", "poster shows 10% discount"),
])  # fmt: skip
def test_vqa_normalisation(answer, normal):
    assert vqa_normalise(answer) == normal


def test_evalai_splits_the_possessive_and_drops_a_lone_article():
    assert evalai_normalise("the girl's, well?") == "girl 's well"
    assert evalai_normalise("A") == ""  # LLaVA issue 618
    assert evalai_normalise("\n1,000\t") == "1000"


def test_contractions_are_those_of_the_official_table():
    assert len(CONTRACTIONS) == 114  # of its 120, without those that change nothing or begin with a capital letter
    assert {CONTRACTIONS[word] for word in ("yall'd've", "y'alld've", "y'all'dve")} == {"y'all'd've"}
    assert not {"hell", "ill", "shed", "shell", "shes", "wed", "well", "were", "lets"} & set(CONTRACTIONS)


@pytest.mark.parametrize(("same", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_agreement_with_ten_people(same, accuracy):
    assert agreement("red", ["red"] * same + ["blue"] * (10 - same)) == pytest.approx(accuracy)


def test_vqav2_normalises_only_where_people_disagree():
    assert vqav2.accuracy("yes!", ["yes"] * 10) == 0  # GT-Vision-Lab/VQA issue 14
    assert vqav2.accuracy("yes!", ["yes"] * 9 + ["no"]) == 1
    assert vqav2.accuracy("The Cat", ["a cat"] * 3 + ["dog"] * 7) == pytest.approx(0.9)
    assert vqav2.accuracy("none", ["none"] + ["nothing"] * 9) == pytest.approx(0.3)  # both become 0; issue 7
    questions = [ask("yes/no", *["yes"] * 10), ask("number", *["2"] * 3, *["3"] * 7), ask("yes/no", *["no"] * 10)]
    overall, *kinds = vqav2.score(questions, ["Yes!", "Two.", "yes"])
    assert (overall.name, overall.questions) == ("accuracy", 3)
    assert overall.value == pytest.approx(1.9 / 3)
    assert [(kind.name, kind.value) for kind in kinds] == [("yes/no", 0.5), ("number", pytest.approx(0.9))]


def test_textvqa_normalises_always():
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


# reading: a folder of each benchmark's format with two or so questions, and one picture


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def make_vqav2(folder, split="val2014"):
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")
    picture(folder / "test2015/COCO_test2015_000000000042.jpg")
    asked = [{"question_id": i, "image_id": 42, "question": "Is it red?"} for i in (1, 2)]
    (folder / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": asked}))
    annotations = [
        {"question_id": i, "answer_type": "yes/no", "answers": [{"answer": "yes", "answer_id": k} for k in range(10)]}
        for i in (1, 2)
    ]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))


def make_gqa(folder):
    picture(folder / "images/n1.jpg")
    record = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps({"1": record, "2": {**record, "answer": "no"}}))


def make_textvqa(folder):
    picture(folder / "train_images/ab.jpg")
    record = {"question_id": 3, "image_id": "ab", "question": "Is it red?", "answers": ["yes"] * 10}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [record]}))


def make_pope(folder):
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")
    record = {"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "Is it red?", "label": "yes"}
    for category in pope.CATEGORIES:
        (folder / f"coco_pope_{category}.json").write_text(lines(record, {**record, "label": "no"}))


def make_mme(folder):
    for index, subtask in enumerate([name for names in mme.SUBTASKS.values() for name in names]):
        texts, images = ("questions_answers_YN", "images") if index % 2 else ("", "")
        picture(folder / subtask / images / "0001.png")
        (folder / subtask / texts).mkdir(exist_ok=True)
        (folder / subtask / texts / "0001.txt").write_text(
            "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
        )


MMMU = {
    "id": "validation_Art_Theory_1", "question": "What is in <image 1>?", "options": "['red', \"the 'blue'\"]",
    "answer": "A", "question_type": "multiple-choice", "image_1": "1.png",
}  # fmt: skip
OPEN = {**MMMU, "id": "validation_Math_2", "question_type": "open", "options": "[]", "answer": "['4', '5']"}


def make_mmmu(folder):
    picture(folder / "images/1.png")
    (folder / "validation.jsonl").write_text(lines(MMMU, OPEN))


def make_mm_vet(folder):
    picture(folder / "images/v1_0.png")
    (folder / "mm-vet.json").write_text(json.dumps({"v1_0": {"imagename": "v1_0.png", "question": "Is it red?"}}))


def make_nlvr(folder):
    for k in range(6):
        picture(folder / f"dev/images/2/dev-72-0-{k}.png")
    record = {"sentence": "It is red.", "label": "true", "identifier": "72-0", "directory": "2"}
    (folder / "dev/dev.json").write_text(lines(record))


MAKERS = {
    "vqav2": make_vqav2, "gqa": make_gqa, "textvqa": make_textvqa, "pope": make_pope, "mme": make_mme,
    "mmmu": make_mmmu, "mm-vet": make_mm_vet, "nlvr": make_nlvr,
}  # fmt: skip


def read(name, folder, split=None):
    benchmark = find_benchmark(name)
    return benchmark.read(folder, split or benchmark.splits[0], None)


def test_every_benchmark_has_a_reading_test():
    assert benchmark_names() == sorted(MAKERS)


@pytest.mark.parametrize(("name", "count", "prompt"), [
    ("vqav2", 2, "Is it red?\nAnswer the question using a single word or phrase."),
    ("gqa", 2, "Is it red?\nAnswer the question using a single word or phrase."),
    ("textvqa", 1, "Is it red?\nAnswer the question using a single word or phrase."),
    ("pope", 6, "Is it red?\nAnswer the question using a single word or phrase."),
    ("mme", 28, "Is it red?\nAnswer the question using a single word or phrase."),
    ("mmmu", 2, "What is in <image 1>?\nA. red\nB. the 'blue'\n"
                "Answer with the option's letter from the given choices directly."),
    ("mm-vet", 1, "Is it red?"),
    ("nlvr", 6, "It is red. Is that right? Answer yes or no."),
])  # fmt: skip
def test_reading(tmp_path, name, count, prompt):
    MAKERS[name](tmp_path)
    questions = read(name, tmp_path)
    require_images(questions)
    assert (len(questions), questions[0].prompt) == (count, prompt)
    assert len({question.id for question in questions}) == count or name == "pope"


def test_mmmu_lists_that_are_written_as_text(tmp_path):
    make_mmmu(tmp_path)
    choice, free = read("mmmu", tmp_path)
    assert (choice.kind, choice.options, choice.answers) == ("Art_Theory", ("red", "the 'blue'"), ("A",))
    assert (free.kind, free.options, free.answers) == ("Math", (), ("4", "5"))
    assert free.prompt.endswith("\nAnswer the question using a single word or phrase.")


def test_mmmu_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    png = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(png, "PNG")
    rows = [
        {**MMMU, "image_1": {"bytes": png.getvalue(), "path": "1.png"}},
        {**OPEN, "image_1": {"bytes": b"broken", "path": "2.png"}},
    ]
    (tmp_path / "Math").mkdir()
    path = tmp_path / "Math/validation-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    first, second = read("mmmu", tmp_path)
    assert load_image(first.image, 2).tolist() == [[[[255, 0, 0]] * 2] * 2]
    with pytest.raises(InputError, match="row 1: image_1: damaged"):
        load_image(second.image, 2)
    parquet.write_table(pa.Table.from_pylist([{"id": "validation_Math_1"}]), path)
    with pytest.raises(InputError, match="no column 'question'"):
        read("mmmu", tmp_path)
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match="not a parquet file"):
        read("mmmu", tmp_path)


def test_mmmu_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "Math").mkdir()
    (tmp_path / "Math/validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(BackendMissing, match="pip install"):
        read("mmmu", tmp_path)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "mmmu"])
def test_a_missing_file_is_named_with_its_source(tmp_path, name):
    with pytest.raises(InputError, match=r"(no such file; it is part of|no questions \(.txt files\))") as caught:
        read(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "file", "content", "message"), [
    ("vqav2", "v2_mscoco_val2014_annotations.json", '{"annotations": []}', "no answers to question 1"),
    ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", '{"questions": [{"question_id": 1}]}', "image_id: Field"),
    ("vqav2", "v2_mscoco_val2014_annotations.json",
     '{"annotations": [{"question_id": 1, "answer_type": "other", "answers": [{"answer": "a"}]}]}', "at least 10"),
    ("gqa", "testdev_balanced_questions.json", "[" * 100_000, "Invalid JSON"),
    ("gqa", "testdev_balanced_questions.json", "[]", "should be an object"),
    ("gqa", "testdev_balanced_questions.json",
     '{"7": {"imageId": "../x", "question": "", "answer": "", "types": {"structural": ""}}}', "question 7: .* leaves"),
    ("textvqa", "TextVQA_0.5.1_val.json",
     '{"data": [{"question_id": 5, "image_id": "a", "question": "?"}]}', "5: no answers"),
    ("pope", "coco_pope_random.json", '\n{"question_id": 1}\n', "line 2: image"),
    ("pope", "coco_pope_popular.json",
     '{"question_id": 1, "image": "a", "text": "?", "label": "maybe"}', "'yes' or 'no'"),
    ("mme", "position/0001.txt", "Is it? Yes\n", "two lines"),
    ("mme", "existence/0001.txt", "Is it?\tYes\nIs it?\tperhaps\n", "two lines"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "options": "[__import__('os')]"}), "options"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "image_1": None}), "no image_1"),
    ("mmmu", "validation.jsonl", lines({**MMMU, "image_1": "/etc/passwd"}), "leaves"),
    ("mm-vet", "mm-vet.json", '{"v1_0": {"imagename": "/etc/passwd", "question": "?"}}', "v1_0: .* leaves"),
    ("nlvr", "dev/dev.json", '{"sentence": "a", "label": "yes"}', "'true' or 'false'"),
    ("nlvr", "dev/dev.json",
     lines({"sentence": "a", "label": "true", "identifier": "1", "directory": "../.."}), "leaves"),
])  # fmt: skip
def test_broken_files(tmp_path, name, file, content, message):
    MAKERS[name](tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


# asking: the command with a session that always says the same


class Parrot:
    """A session that answers everything alike and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.images, self.prompts = answer, [], []

    def encode_image(self, image):
        self.images.append(image)
        return f"K/V of {image}"

    def chat(self, vision):
        assert vision == f"K/V of {self.images[-1]}"
        return self

    def send(self, prompt, max_new_tokens, temperature):
        assert temperature == 0
        self.prompts.append(prompt)
        yield from (Piece(" " + self.answer[:1], 1), Piece(self.answer[1:] + "\n", 2))


def run(monkeypatch, session, *arguments):
    monkeypatch.setattr(import_module("himix_edge.cli.evaluate"), "_open", lambda bundle, model: session)
    runner = CliRunner()
    result = runner.invoke(himix, ["eval", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(("name", "score", "value"), [
    ("vqav2", "accuracy", 1), ("gqa", "accuracy", 0.5), ("textvqa", "accuracy", 1),
    ("pope", "F1", pytest.approx(2 / 3)), ("mme", "perception", 500), ("mmmu", "accuracy", 0), ("nlvr", "accuracy", 1),
])  # fmt: skip
def test_the_command(tmp_path, monkeypatch, name, score, value):
    MAKERS[name](tmp_path)
    session = Parrot("Yes.")
    shown = run(monkeypatch, session, "--task", name, "--data-folder", tmp_path, "--json")
    result = json.loads(shown)
    assert result["asked"] == result["of"] == len(session.prompts)
    first = next(iter(result["scores"]))
    assert (first, result["scores"][first]["value"]) == (score, value)
    assert result["scores"][first]["interval"][0] <= result["scores"][first]["value"]
    assert name == "nlvr" or len(session.images) < len(session.prompts) or len(session.prompts) == 1
    assert score in run(monkeypatch, Parrot("Yes."), "--task", name, "--data-folder", tmp_path, "--limit", "2")


@pytest.mark.parametrize(("name", "written"), [
    ("gqa", '[{"questionId": "1", "prediction": "yes"}, {"questionId": "2", "prediction": "yes"}]'),
    ("textvqa", '[{"question_id": 3, "answer": "Yes."}]'),
    ("mm-vet", '{\n  "v1_0": "Yes."\n}'),
    ("mmmu", '{\n  "validation_Art_Theory_1": "",\n  "validation_Math_2": "Yes."\n}'),
    ("nlvr", "".join(f"dev-72-0-{k}.png,true\n" for k in range(6))),
])  # fmt: skip
def test_answer_files(tmp_path, monkeypatch, name, written):
    MAKERS[name](tmp_path)
    answers = tmp_path / "answers"
    run(monkeypatch, Parrot("Yes."), "--task", name, "--data-folder", tmp_path, "--answers", answers)
    assert answers.read_text() == written


def test_answer_files_of_lines(tmp_path, monkeypatch):
    for name, expected in {
        "pope": {"question": "Is it red?", "answer": "No.\nSure", "category": "random"},
        "mme": "existence\t0001.png\tIs it red? Please answer yes or no.\tYes\tNo. Sure",
    }.items():
        MAKERS[name](tmp_path)
        answers = tmp_path / "answers"
        run(monkeypatch, Parrot("No.\nSure"), "--task", name, "--data-folder", tmp_path, "--answers", answers)
        first = answers.read_text().splitlines()[0]
        assert (json.loads(first) if name == "pope" else first) == expected


def test_test_splits_have_no_score(tmp_path, monkeypatch):
    make_vqav2(tmp_path, "test-dev2015")
    arguments = ["--task", "vqav2", "--data-folder", tmp_path, "--split", "test-dev"]
    with pytest.raises(InputError, match="scored elsewhere; give --answers"):
        run(monkeypatch, Parrot("Two."), *arguments)
    shown = run(monkeypatch, Parrot("Two."), *arguments, "--answers", tmp_path / "a.json", "--json")
    assert json.loads(shown)["scores"] == {}
    assert json.loads((tmp_path / "a.json").read_text()) == [{"question_id": i, "answer": "2"} for i in (1, 2)]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--task", "gqa"], "give --data-folder DIR with testdev_balanced_questions.json, images/"),
    (["--task", "gqa", "--data-folder", ".", "--split", "val"], "no split 'val'; it has testdev"),
    (["--task", "easy-vqa", "--data-folder", "."], "are for a --task of gqa"),
    (["--task", "mm-vet", "--data-folder", "."], "scored elsewhere"),
])  # fmt: skip
def test_mistakes(tmp_path, monkeypatch, arguments, message):
    make_mm_vet(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(monkeypatch, Parrot("Yes."), *arguments)


def test_a_missing_or_broken_image_is_told_with_its_question(tmp_path, monkeypatch):
    make_textvqa(tmp_path)
    image = tmp_path / "train_images/ab.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    with pytest.raises(InputError, match=r"question 3: .*ab\.jpg: no such image; --image-folder"):
        run(monkeypatch, Parrot("Yes."), "--task", "textvqa", "--data-folder", tmp_path)
    session = Parrot("Yes.")
    session.encode_image = lambda image: load_image(image, 4)
    image.write_text("no picture")
    with pytest.raises(InputError, match=r"question 3: .*not an image"):
        next(answer_all(session, read("textvqa", tmp_path), 8))


def test_nano_answers_a_benchmark(tmp_path):
    make_gqa(tmp_path)
    arguments = ["eval", "--task", "gqa", "--data-folder", str(tmp_path), "--limit", "1", "--json"]
    result = CliRunner().invoke(himix, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["asked"] == 1
