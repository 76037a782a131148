"""How VQA answers are normalised and compared with those of ten people.

The rules are those of the official script (Antol et al., arXiv 1505.00468; visualqa.org, "Evaluation"; github.com
GT-Vision-Lab/VQA, vqaEval.py) and of EvalAI's answer processor (github.com facebookresearch/mmf, m4c_evaluator.py),
oddities included, as scores are compared across papers.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official script passes re.UNICODE, which is 32, where re.sub takes the count

# written with one apostrophe left out, any of these gets it back; he'll, she'll, we'd, let's ... are words without it
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    whole[: mark.start()] + whole[mark.end() :]: whole
    for whole in _CONTRACTIONS.split()
    for mark in re.finditer("'", whole)
} | {"somebody'd": "somebodyd"}  # the wrong way round in the official table


def drop_punctuation(answer: str) -> str:
    """Punctuation becomes a space, or nothing if it touches one or a number has a comma; final periods go."""
    in_number = _COMMA_IN_NUMBER.search(answer) is not None
    result = answer
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        result = result.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def plain_words(answer: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes where they were forgotten."""
    words = (NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_normalize(answer: str) -> str:
    """An answer as vqaEval.py compares it."""
    return plain_words(drop_punctuation(one_line(answer)))


def evalai_normalize(answer: str) -> str:
    """An answer as EvalAI's processor leaves it: as `vqa_normalize`, but first without commas, and 's a word."""
    lower = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_normalize(lower.strip())


def one_line(answer: str) -> str:
    """Without surrounding space, line ends and tabs as spaces."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def agreement(given: str, people: Sequence[str]) -> float:
    """min(1, people who say the same / 3), averaged over all subsets that leave one of the people out; 0 to 1."""
    same = [answer == given for answer in people]
    count = sum(same)
    return sum(min(1.0, (count - this) / 3) for this in same) / len(same)
