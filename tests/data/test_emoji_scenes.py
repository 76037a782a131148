"""EmojiScenes: what a split promises, and that questions and pictures agree. The drawings themselves are made up here:
fetching the real ones needs npm (tests/data/test_emoji_drawings.py, slow)."""

import re
from random import Random

import numpy as np
import pytest
from PIL import Image

from himix_edge.data import emoji_drawings, emoji_pictures, emoji_scenes, load_dataset
from himix_edge.data.emoji_concepts import COLORS, FEW, KINDS, KNOWN, UNSEEN, UNSEEN_WORDS, WORDS, code_points, kind_of
from himix_edge.data.emoji_lists import caption, lists
from himix_edge.data.emoji_pictures import Scene, Thing, counts
from himix_edge.data.emoji_questions import CELLS, NUMBERS, WORDINGS, plural, presence, questions
from himix_edge.data.emoji_scenes import COUNT, FEW_STYLES, UNSEEN_STYLE, load_emoji_scenes, scene
from himix_edge.errors import InputError
from himix_edge.evaluation.exact import Score, interval
from himix_edge.preprocess import load_image

SCENES = {split: [scene(split, number) for number in range(300)] for split in COUNT}


def asked(shown, unseen=False, seed=0):
    return list(questions(shown, Random(seed), unseen))


@pytest.fixture
def drawn(monkeypatch):
    """Every drawing a square of its own color."""
    made = {
        name: Image.new("RGBA", (emoji_drawings.SIZE,) * 2, (40 + i, 255 - i, (7 * i) % 256, 255))
        for i, name in enumerate(code_points())
    }
    monkeypatch.setattr(emoji_pictures, "drawings", lambda style: made)
    return made


def test_a_scene_depends_on_its_number_alone(drawn):
    assert scene("train", 5) == scene("train", 5) != scene("train", 6)
    first, second = (load_image(scene("train", 5), 96) for _ in range(2))
    assert (first == second).all()
    assert first.shape == (1, 96, 96, 3)


def test_each_test_holds_one_thing_out():
    for split in ("train", "test", "test-style", "test-wordings"):
        names = {thing.name for shown in SCENES[split] for thing in shown.things}
        assert not names & UNSEEN
        assert len(names) > 130
    assert {thing.name for shown in SCENES["test-unseen"] for thing in shown.things} <= UNSEEN
    assert {shown.style for shown in SCENES["test-style"]} == {UNSEEN_STYLE}
    for split in ("train", "test", "test-unseen", "test-wordings"):
        assert UNSEEN_STYLE not in {shown.style for shown in SCENES[split]}
    for split in COUNT:
        signs = {shown.sign for shown in SCENES[split]} - {None}
        assert signs
        assert signs <= set(UNSEEN_WORDS if split == "test-unseen" else WORDS)
    said = {
        split: " ".join(
            f"{turn.question} {turn.answer}"
            for name in ("emoji-scenes", "emoji-captions", "emoji-lists", "emoji-presence")
            for sample in load_dataset(name, split).samples[:300]
            for (turn,) in sample.conversations
        )
        for split in COUNT
    }
    for name in UNSEEN:
        assert f" {name} " not in said["train"]
        assert f" {name} " in said["test-unseen"]
    for split in COUNT:
        assert ("Tell me" in said[split]) == (split == "test-wordings"), split


def test_few_things_are_all_that_is_shown_and_asked_about():
    known = sorted({*KNOWN, *map(plural, KNOWN)}, key=len, reverse=True)
    words = re.compile(rf"(?<!sign: )\b({'|'.join(known)})\b")
    few = {*FEW, *map(plural, FEW)}
    for name in ("emoji-scenes-few", "emoji-captions-few", "emoji-lists-few", "emoji-presence-few"):
        for sample in load_dataset(name).samples[:300]:
            assert {thing.name for thing in sample.image.things} <= set(FEW)
            assert sample.image.style in FEW_STYLES
            for (turn,) in sample.conversations:
                assert turn.skill == "read" or set(words.findall(f"{turn.question} {turn.answer}")) <= few, turn
    skills = {turn.skill for s in load_dataset("emoji-scenes-few").samples[:300] for (turn,) in s.conversations}
    assert skills == {turn.skill for s in load_dataset("emoji-scenes").samples[:300] for (turn,) in s.conversations}


def test_every_skill_is_asked_for_and_yes_is_as_frequent_as_no():
    turns = [turn for shown in SCENES["train"] for turn in asked(shown, seed=shown.seed)]
    assert {turn.skill for turn in turns} == set(WORDINGS) - {"background", "side"} | {"absent"}
    for skill in ("exists", "absent", "statement"):
        answers = [turn.answer for turn in turns if turn.skill == skill]
        assert set(answers) == {"yes", "no"}
        assert 0.4 < np.mean([answer == "yes" for answer in answers]) < 0.6, skill
    letters = [turn.answer for turn in turns if turn.skill == "choice"]
    assert all(0.15 < np.mean([letter == one for letter in letters]) < 0.35 for one in "ABCD")


def picture(*things, sign=None):
    return Scene("noto", "pink", "plain", 0, tuple(Thing(n, c, x, y, (0, 0), 60) for n, c, x, y in things), sign)


def test_answers_are_those_of_a_scene_made_by_hand():
    shown = picture(("dog", None, 0, 0), ("cat", None, 2, 0), ("cat", None, 1, 1), ("heart", "blue", 0, 1), sign="open")
    found = {}
    for seed in range(60):
        for turn in asked(shown, seed=seed):
            found.setdefault(turn.skill, set()).add((turn.question, turn.answer))
    assert {answer for question, answer in found["color"] if "heart" in question} == {"blue"}
    assert {answer for question, answer in found["color"] if "heart" not in question} == {"pink"}
    assert {(("cats" in question), answer) for question, answer in found["count"]} == {(True, "two"), (False, "one")}
    assert {answer for _, answer in found["read"]} == {"open"}
    assert {answer for question, answer in found["kind"] if "dog" in question} == {"animal"}
    assert {re.findall("dogs|cats|hearts", question)[0] for question, _ in found["compare"]} == {
        "dogs",
        "cats",
        "hearts",
    }
    for question, answer in found["compare"]:  # one dog and one heart are not compared
        first, second = re.findall("dogs|cats|hearts", question)
        assert "cats" in (first, second)
        assert answer == ("yes" if first == "cats" else "no")
    relations = dict(found["relation"])
    assert relations["What is above the heart?"] == "dog"
    assert relations["Is the dog above the heart?"] == "yes"
    assert relations["Is the heart above the dog?"] == "no"
    assert not any("cat" in question for question in relations)  # two of them: which one would be meant
    options = [question.split(f"{answer}. ")[1] for question, answer in found["choice"]]
    assert {next(n for n in ("dog", "cat", "heart") if option.startswith(n)) for option in options} == {
        "dog", "cat", "heart"
    }  # fmt: skip


def test_things_do_not_cover_each_other(drawn):
    for shown in SCENES["train"][:100]:
        cells = [(thing.column, thing.row) for thing in shown.things]
        assert len(set(cells)) == len(cells)
        assert not shown.sign or all(row < 2 for _, row in cells)
        pixels = np.asarray(shown.render()).reshape(-1, 3)
        for thing in shown.things:
            color = drawn[thing.drawing].getpixel((0, 0))[:3]
            assert (np.abs(pixels.astype(int) - color).max(1) <= 1).sum() > 0.7 * thing.size**2


def test_names_are_unambiguous():
    codes = code_points()
    assert len(set(codes.values())) == len(codes)
    assert all(kind_of(name) for name in UNSEEN)
    assert all(any(name not in UNSEEN for name in things) for things in KINDS.values())
    assert counts(picture(("dog", None, 0, 0), ("dog", None, 1, 0)).things) == {"dog": 2}
    assert all(f"{color} {shape}" in codes for shape, colors in COLORS.items() for color in colors)


def test_scores_are_by_skill_with_wilsons_interval():
    score = Score()
    turns = [turn for shown in SCENES["test"][:20] for turn in asked(shown)]
    for turn in turns:
        score.add(turn, turn.answer.upper() + "." if turn.skill == "count" else "no idea")
    assert score.right.total() == score.right["count"] == score.asked["count"] > 0
    assert set(score.asked) <= set(WORDINGS) | {"absent"}
    assert interval(81, 263) == pytest.approx((0.255, 0.366), abs=5e-4)  # Newcombe, Stat. Med. 17 (1998), table I
    assert interval(0, 20)[0] == 0
    assert interval(0, 20)[1] == pytest.approx(0.161, abs=5e-4)


def test_it_is_a_dataset_like_the_others(monkeypatch):
    monkeypatch.setattr(emoji_scenes, "COUNT", dict.fromkeys(COUNT, 20))
    dataset = load_dataset("emoji-scenes", "test-style")
    assert (dataset.name, len(dataset.samples)) == ("emoji-scenes", 20)
    assert dataset.questions > 100
    assert "CC-BY-4.0" in dataset.license
    with pytest.raises(InputError, match="no split 'dev'"):
        load_emoji_scenes("dev")


def test_captions_name_everything_and_its_place(drawn):
    dataset = load_dataset("emoji-captions")
    assert len(dataset.samples) > 100_000  # made when asked for
    for number in range(50):
        shown, sample = scene("train", number), dataset.samples[number]
        assert sample.image == shown
        ((turn,),) = sample.conversations
        places = dict(part.split(": ") for part in turn.answer.split(", "))
        assert places.pop("background") == shown.background
        assert places.pop("sign", None) == shown.sign
        assert sorted(places.values()) == sorted(thing.drawing for thing in shown.things)


def test_a_caption_tells_where_everything_is():
    right, middle = Thing("dog", None, 2, 0, (0, 0), 60), Thing("heart", "red", 1, 1, (0, 0), 60)
    things = (right, middle, Thing("dog", None, 0, 0, (0, 0), 60))
    shown = Scene("noto", "blue", "plain", 0, things, "open")
    told = caption(shown, Random(0)).answer
    assert told == "top left: dog, top right: dog, center: red heart, sign: open, background: blue"


def test_presence_asks_twice_what_is_there_and_nothing_else():
    shown = picture(("rabbit", None, 0, 0), ("cat", None, 2, 0), ("heart", "blue", 1, 1))
    for seed in range(40):
        turns = list(presence(shown, Random(seed)))
        assert {turn.skill for turn in turns} == {"exists", "absent", "choice"}
        for turn in turns:
            if turn.skill == "choice":
                assert turn.question.split(f"{turn.answer}. ")[1].startswith(("rabbit", "cat", "heart"))
            else:
                assert (turn.answer == "yes") == bool(re.search(r"\b(rabbit|cat|heart)\b", turn.question))
        assert [turn.skill for turn in turns].count("choice") == 2
    asked_for = {turn.skill for (turn,) in load_dataset("emoji-presence").samples[0].conversations}
    assert asked_for == {"exists", "absent", "choice"}


def test_lists_agree_with_the_picture():
    seen = set()
    for number in range(200):
        shown = scene("train", number)
        found, placed = counts(shown.things), {thing.name: thing for thing in shown.things}
        for turn in lists(shown, Random(number)):
            seen.add(turn.skill)
            listed = turn.question.rstrip("?.").split(": ")[-1].split(", ")
            if turn.skill == "which":
                assert turn.answer == (", ".join(name for name in listed if name in found) or "none")
                assert any(name not in found for name in listed)
                continue
            answers = dict(part.split(": ") for part in turn.answer.split(", "))
            if turn.skill == "around":
                middle = next(t for t in shown.things if turn.question[:-1].endswith(f" the {t.name}"))
                right = [t.name for t in shown.things if t.row == middle.row and t.column > middle.column]
                assert answers["right of"] == (" and ".join(right) or "nothing")
                above = [t.name for t in shown.things if t.column == middle.column and t.row < middle.row]
                assert answers["above"] == (" and ".join(above) or "nothing")
            elif turn.skill == "find":
                assert list(answers) == listed
                for name, answer in answers.items():
                    assert (answer == "nowhere") == (name not in found)
                    assert answer in ("nowhere", CELLS[placed[name].row][placed[name].column] if name in placed else "")
            else:
                assert answers == {name: NUMBERS[found.get(singular(name), 0)] for name in listed}
    assert seen == {"find", "numbers", "which", "around"}


def singular(several):
    return next(
        name for name in [*(n for things in KINDS.values() for n in things), *COLORS] if plural(name) == several
    )
