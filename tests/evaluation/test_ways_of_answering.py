"""`himix eval` with answers bound to a structure and chosen by likelihood, with nano and the shipped data."""

import json
import re

import pytest
from click.testing import CliRunner

from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.evaluation.asking import answer_all
from himix_edge.evaluation.exact import ask_all
from himix_edge.evaluation.talking import Talk, Way
from himix_edge.evaluation.task import find_task
from himix_edge.runtimes import Structure, open_checkpoint
from tests.evaluation.task_folders import MAKERS, MMMU, OPEN, lines, picture, read

WORDS = ("yes", "no", "circle", "rectangle", "triangle", "red", "green", "blue", "black", "gray", "teal", "brown",
         "yellow")  # fmt: skip


@pytest.fixture(scope="module")
def session():
    return open_checkpoint("nano")


def run(*arguments):
    return json.loads(CliRunner().invoke(himix, ["eval", *arguments, "--json"], catch_exceptions=False).stdout)


def choices(*texts):
    return [part for text in texts for part in ("--choices", text)]


def test_the_likeliest_of_all_words_is_what_nano_says(session):
    dataset = load_dataset("easy-vqa", "test")
    said = [given for _, given in ask_all(session, dataset, 8)]
    assert [given for _, given in ask_all(session, dataset, 8, Way(choices=WORDS))] == said
    assert len(set(said)) > 2


def test_answers_follow_their_structure(session):
    dataset = load_dataset("easy-vqa", "test")
    given = [text for _, text in ask_all(session, dataset, 8, Way(Structure.regex("[a-m]{3}[.]")))]
    assert all(re.fullmatch("[a-m]{3}[.]", text) for text in given)
    result = run("--limit", "12", *choices("yes", "no"))
    assert result["answers_by"] == "structured text"
    assert all(right in (0, 1) for right in result["by_answer"].values())
    assert {answer for answer, right in result["by_answer"].items() if right} == {"yes", "no"}


def test_a_choice_is_part_of_the_conversation(session):
    """The second question's likelihoods are those behind the first one's choice."""
    image = session.encode_image(load_dataset("easy-vqa", "test").samples[0].image)
    talk = Talk(session, image, Way(choices=WORDS))
    chat, first = session.chat(image), talk.ask("What shape is this?")
    chat.log_probability("What shape is this?", first)
    behind = dict.fromkeys(WORDS, 0.0)
    for word in WORDS:
        chat = session.chat(image)
        chat.log_probability("What shape is this?", first)
        behind[word] = chat.log_probability("What color is it?", word)
    assert talk.ask("What color is it?") == max(behind, key=behind.get)


def test_a_published_tasks_own_choices(session, tmp_path):
    """MMMU's are letters; its open questions are answered in words."""
    picture(tmp_path / "images/1.png")
    three = {**MMMU, "id": "validation_Music_3", "options": "['a', 'b', 'c']", "answer": "C"}
    (tmp_path / "validation.jsonl").write_text(lines(MMMU, OPEN, three))
    questions = read("mmmu", tmp_path)
    letters = [find_task("mmmu").choices(question) for question in questions]
    assert letters == [("A", "B"), (), ("A", "B", "C")]
    given = list(answer_all(session, questions, 8, [Way(choices=each) for each in letters]))
    for question, each, answer in zip(questions, letters, given, strict=True):
        if each:
            shares = session.rank(question.prompt, each, question.image)
            assert answer == each[shares.index(max(shares))]
        else:
            assert answer == session.answer(question.prompt, question.image, 8)
    result = run("--task", "mmmu", "--data-folder", str(tmp_path), "--likelihood")
    assert result["answers_by"] == "likelihood"
    assert result["scores"]["no choice to be read"]["value"] == 0


@pytest.mark.parametrize("name", ["pope", "mme", "nlvr"])
def test_tasks_of_yes_and_no(name, session, tmp_path):
    """What is chosen is read as one of the two by the task's own scorer."""
    MAKERS[name](tmp_path)
    questions, task = read(name, tmp_path), find_task(name)
    assert {task.choices(question) for question in questions} == {("Yes", "No")}
    right = ["Yes" if question.answers[0].lower() in ("yes", "true") else "No" for question in questions]
    wrong = ["No" if answer == "Yes" else "Yes" for answer in right]
    best, worst = (task.score(questions, answers)[0].value for answers in (right, wrong))
    assert best > worst == 0
    given = next(answer_all(session, questions[:1], 1, [Way(choices=("Yes", "No"))]))
    assert given in ("Yes", "No")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--likelihood"], "easy-vqa has no choices of its own"),
    (["--likelihood", "--regex", "a"], "takes --choices"),
    (["--likelihood", "--text", "LICENSE"], "--text measures perplexity"),
    (["--choices", "a", "--text", "LICENSE"], "--text measures perplexity"),
    (["--choices", "a", "--regex", "b"], "exclude each other"),
    (["--choices", ""], "a choice is empty"),
])  # fmt: skip
def test_mistakes(arguments, message):
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(himix, ["eval", *arguments], catch_exceptions=False)


def test_open_tasks_need_choices(tmp_path):
    MAKERS["gqa"](tmp_path)
    with pytest.raises(InputError, match="gqa asks open questions; add --choices"):
        run("--task", "gqa", "--data-folder", str(tmp_path), "--likelihood")
    result = run("--task", "gqa", "--data-folder", str(tmp_path), "--likelihood", *choices("yes", "no"))
    assert result["scores"]["accuracy"]["value"] == 0.5  # the two questions are one, with both answers
