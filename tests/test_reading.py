"""Reading files that nobody vouches for."""

import json

import pytest

from himix_edge.errors import InputError
from himix_edge.reading import parse_json, parse_yaml, read_json, read_yaml


def test_a_mark_at_the_beginning_is_passed_over(tmp_path):
    path = tmp_path / "marked"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(path) == read_yaml(path) == {"a": 1}


def test_an_exponent_makes_a_number_in_yaml_too():
    assert parse_yaml("a: 1e-3\nb: [2E5, -1e1]\nc: 1e\nd: '1e3'", "w") == {
        "a": 1e-3, "b": [2e5, -10.0], "c": "1e", "d": "1e3",
    }  # fmt: skip


def test_a_name_that_stands_twice_is_refused():
    for parse, text in ((parse_yaml, "a: 1\nb: 2\na: 3"), (parse_yaml, "{a: {b: 1, 'b': 2}}"),
                        (parse_json, '{"a": 1, "b": 2, "a": 3}')):  # fmt: skip
        with pytest.raises(InputError, match=r"w: .*stands twice"):
            parse(text, "w")


def test_many_names_of_which_the_last_stands_twice_are_refused_at_once():
    text = json.dumps({str(number): 0 for number in range(60_000)})[:-1] + ', "59999": 0}'
    with pytest.raises(InputError, match="'59999' stands twice"):
        parse_json(text, "w")


def test_half_a_character_is_refused_and_a_pair_is_one():
    assert parse_json(r'"\ud83d\ude00"', "w") == "\U0001f600"
    for text in (r'["\ud800"]', r'{"\uDC00": 1}'):
        with pytest.raises(InputError, match="w: half a character"):
            parse_json(text, "w")
