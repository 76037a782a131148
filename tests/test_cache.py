"""Where what was fetched is kept."""

from pathlib import Path

import pytest

from himix_edge.cache import cache_folder
from himix_edge.errors import InputError


def test_the_cache_is_where_the_user_says_or_below_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/himix-edge")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == tmp_path / ".cache" / "himix-edge"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        cache_folder()
