"""Writing: nothing that is not himix's is replaced, followed or removed; a kill loses nothing and leaves one folder."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from himix_edge.disk import disk_errors
from himix_edge.errors import InputError
from himix_edge.files import staged_file
from himix_edge.folders import RECORD, Replacing, staged_folder
from himix_edge.staging import settled, staging, tidy
from himix_edge.training.pixels import ImageLoader, clear_leftovers
from tests.conftest import TINY

THING = Replacing("thing", force=True)


def write(target, content="new", replacing=THING):
    with staged_folder(target, replacing) as staged:
        (staged / "inner").mkdir()
        (staged / "inner" / "a.txt").write_text(content)


def content(target):
    return (target / "inner" / "a.txt").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def interrupted(target, *present):
    """What a kill leaves beside `target`: the staging folder, with an unfinished `new`, an `old`, or both."""
    beside = target.with_name(f".{target.name}.himix")
    beside.mkdir(mode=0o700)
    (beside / "lock").write_bytes(b"himix-edge works here\n")
    for name in present:
        if name == "old":
            target.rename(beside / "old")
        else:
            (beside / name).mkdir()
            (beside / name / "half.txt").write_text("half")
    return beside


def test_a_folder_of_himixs_own_is_replaced_with_force_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty one is nobody's
    write(out, "first")
    assert json.loads((out / RECORD).read_text())["files"] == ["inner/a.txt"]
    with pytest.raises(InputError, match="add --force"):
        write(out, "second", Replacing("thing"))
    assert content(out) == "first"
    write(out, "second")
    assert content(out) == "second"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "inner/notes.txt", "photos/notes.txt", ".notes", "inner/inner/a.txt"])
def test_a_stray_file_is_named_and_kept(tmp_path, name):
    write(tmp_path / "out", "first")
    mine = tmp_path / "out" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(
        InputError, match="holds something else than the thing: " + name.removesuffix("notes.txt").removesuffix("a.txt")
    ):
        write(tmp_path / "out")
    assert mine.read_text() == "mine"
    assert content(tmp_path / "out") == "first"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_or_a_link_in_it_is_somebodys_too(tmp_path):
    for place in ("dir", "link"):
        out = tmp_path / place
        write(out)
        if place == "dir":
            (out / "empty").mkdir()
        else:
            (out / "inner" / "a.txt").unlink()
            (out / "inner" / "a.txt").symlink_to(tmp_path / "precious")
        with pytest.raises(InputError, match="holds something else"):
            write(out)


@pytest.mark.parametrize("record", [None, "{}", '{"written_by": "me", "kind": "thing", "files": ["a"]}', "[" * 999,
                                    '{"written_by": "himix-edge", "kind": "other thing", "files": ["a"]}'])  # fmt: skip
def test_a_folder_without_our_record_is_somebodys(tmp_path, record):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("mine")
    if record is not None:
        (out / RECORD).write_text(record)
    with pytest.raises(InputError, match="exists and is not a thing of himix's"):
        write(out)
    assert (out / "a").read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_what_is_read_and_where_one_stands_stay(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "first")
    for kept in (out, out / "inner", out / "inner" / "a.txt"):
        with pytest.raises(InputError, match=r"it is|lies in it"):
            write(out, replacing=Replacing("thing", True, (kept,)))
    monkeypatch.chdir(out / "inner")
    for given in (out, Path(".."), Path("../../out")):
        with pytest.raises(InputError, match="the current folder lies in it"):
            write(given)
    (tmp_path / "short").symlink_to(tmp_path)  # by another name as well
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="it is"):
        write(tmp_path / "short" / "out", replacing=Replacing("thing", True, (out,)))
    assert content(out) == "first"


@pytest.mark.parametrize("make", ["link", "dangling link", "file", "fifo"])
def test_what_is_no_folder_is_refused(tmp_path, make):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    {"link": lambda: out.symlink_to(elsewhere), "dangling link": lambda: out.symlink_to(tmp_path / "nowhere"),
     "file": lambda: out.write_text("mine"), "fifo": lambda: os.mkfifo(out)}[make]()  # fmt: skip
    with pytest.raises(InputError, match=r"a link|not a thing"):
        write(out)
    if make != "file":
        with pytest.raises(InputError, match=r"a link|not a regular file"), staged_file(out):
            pass
    assert names(elsewhere) == ["thesis.txt"]
    assert names(tmp_path) == ["elsewhere", "out"]


@pytest.mark.parametrize("make", ["link", "file", "folder", "others may write", "linked lock", "other lock"])
def test_what_lies_in_the_place_of_the_staging_folder_is_never_entered(tmp_path, make):
    beside, precious = tmp_path / ".out.himix", tmp_path / "precious"
    precious.mkdir()
    (precious / "lock").write_text("mine")
    if make == "link":
        beside.symlink_to(precious)
    elif make == "file":
        beside.write_text("mine")
    else:
        beside.mkdir(mode=0o700)
        if make == "folder":
            (beside / "new").write_text("mine")
        elif make == "linked lock":
            (beside / "lock").symlink_to(precious / "lock")
        elif make == "other lock":
            (beside / "lock").write_text("mine")
        else:
            beside.chmod(0o777)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for writer in (lambda: write(tmp_path / "out"), lambda: staged_file(tmp_path / "out").__enter__()):
        with pytest.raises(InputError, match=r"\.out\.himix|cannot write here"):
            writer()
    tidy(tmp_path / "out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "out").exists()


def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "out", "first")
    interrupted(tmp_path / "other")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(InputError, match="others may write to it"):
        write(tmp_path / "other")
    monkeypatch.setattr("himix_edge.staging.Staging.is_mine", lambda *_: False)
    with pytest.raises(InputError, match="belongs to another user"):
        write(tmp_path / "out")
    assert content(tmp_path / "out") == "first"


def test_somebody_swaps_the_staging_folder(tmp_path):
    """Whoever may write to the parent can; what is behind the link stays, and the result is not taken from there."""
    precious = tmp_path / "precious"
    (precious / "new").mkdir(parents=True)
    (precious / "new" / "thesis.txt").write_text("mine")
    with staging(tmp_path / "out") as place:
        place.new.mkdir()
        place.folder.rename(tmp_path / "taken")
        place.folder.symlink_to(precious)
        with pytest.raises(InputError, match="was replaced"):
            place.publish(place.new, lambda: None)
    assert (precious / "new" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("present", [(), ("new",), ("old", "new"), ("scratch",)])
def test_the_next_run_clears_what_a_kill_left_and_brings_the_old_one_back(tmp_path, present):
    out = tmp_path / "out"
    write(out, "first")
    interrupted(out, *present)
    with pytest.raises(InputError, match="add --force"):  # so it is there again
        write(out, "second", Replacing("thing"))
    assert content(out) == "first"
    assert names(tmp_path) == ["out"]
    interrupted(out, *present)
    tidy(out)
    assert content(out) == "first"
    interrupted(tmp_path / "out2", "new")
    write(tmp_path / "out2", "second")
    assert content(tmp_path / "out2") == "second"


def test_a_kill_behind_the_second_rename(tmp_path):
    out = tmp_path / "out"
    write(out, "first")
    interrupted(out, "old")
    write(tmp_path / "made", "second")
    (tmp_path / "made").rename(out)
    tidy(out)
    assert content(out) == "second"
    assert names(tmp_path) == ["out"]


def test_nothing_is_lost_if_the_second_rename_fails(tmp_path, monkeypatch):
    out, replace = tmp_path / "out", Path.replace
    write(out, "first")

    def failing(path, target):
        if Path(target) == out:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(InputError, match="No space left"):
        write(out, "second")
    assert content(out) == "first"
    assert names(tmp_path) == ["out"]


def test_what_took_the_place_of_an_old_folder_stays(tmp_path):
    out = tmp_path / "out"
    write(out, "first")
    beside = interrupted(out, "old", "new")
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"\.out\.himix/old"):
        write(out)
    assert (out / "thesis.txt").read_text() == "mine"
    assert content(beside / "old") == "first"


def test_one_process_at_a_time(tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from himix_edge.staging import staging\n"
        "with staging(Path(sys.argv[1])) as place:\n place.new.mkdir(); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    for writer in (lambda: write(out), lambda: staged_file(out).__enter__()):
        with pytest.raises(InputError, match="another himix is writing this"):
            writer()
    tidy(out)
    assert names(tmp_path / ".out.himix") == ["lock", "new"], "what a process still works on is no leftover"
    other.kill()
    other.communicate()
    write(out)
    assert names(tmp_path) == ["out"]


def test_an_error_leaves_nothing_not_even_new_parents(tmp_path):
    for writer in (staged_folder(tmp_path / "deep" / "er" / "out", THING), staged_file(tmp_path / "deep" / "out")):
        with pytest.raises(KeyError), writer:
            raise KeyError
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("mine")
    for writer in (lambda: write(tmp_path / "file" / "out"), lambda: staged_file(tmp_path / "file" / "x").__enter__()):
        with pytest.raises(InputError, match="cannot write here"):
            writer()
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="cannot write here: Permission denied"):
        write(tmp_path / "out")


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_rights_are_what_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        with staged_folder(tmp_path / "out", THING) as staged:
            (staged / "inner").mkdir(mode=0o700)
            os.close(os.open(staged / "inner" / "a", os.O_CREAT, 0o600))  # as safetensors does
        with staged_file(tmp_path / "file") as staged:
            staged.unlink()
            os.close(os.open(staged, os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    for path, mode in (("out", 0o777), ("out/inner", 0o777), ("out/inner/a", 0o666), ("file", 0o666)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode & ~mask


def test_a_file_of_something_else_is_kept(tmp_path):
    for content in ("years of work", "ours"):
        (tmp_path / "a.md").write_text(content)
        try:
            with staged_file(tmp_path / "a.md", lambda path: path.read_text() == "ours") as staged:
                staged.write_text("ours too")
        except InputError as error:
            assert "holds something else" in str(error)
        assert (tmp_path / "a.md").read_text() == {"ours": "ours too"}.get(content, content)
    with pytest.raises(InputError, match="a folder"), staged_file(tmp_path):
        pass
    for device in ("/dev/null", "/dev/full"):
        with pytest.raises(InputError, match=r"not a regular file|cannot write"), staged_file(Path(device)):
            pass
        assert stat.S_ISCHR(Path(device).stat().st_mode)
    assert names(tmp_path) == ["a.md"]


@pytest.mark.parametrize("name", ["/", "..", ".", ""])
def test_names_that_are_no_names(tmp_path, monkeypatch, name):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    if name == "/":
        with pytest.raises(InputError, match="root"):
            settled(Path(name))
    else:
        assert settled(Path(name)) == Path(name).resolve()
    with pytest.raises(InputError):
        write(Path(name))


def test_a_circle_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError):
        write(tmp_path / "a" / "out")


def test_an_error_of_reading_is_not_called_one_of_writing(tmp_path):
    with pytest.raises(InputError) as error, disk_errors(tmp_path / "out" / "x"):
        Path("/nowhere/at/all").read_text()
    assert str(error.value) == "/nowhere/at/all: No such file or directory"
    with pytest.raises(InputError, match=r"out/x: cannot write here"), disk_errors(tmp_path / "out" / "x"):
        (tmp_path / "out" / "y").read_text()
    with pytest.raises(BrokenPipeError), disk_errors(tmp_path):
        raise BrokenPipeError


def test_without_locks_of_the_system(tmp_path):
    """Windows has no fcntl: nothing may need it to be imported, and without any locks an unfinished folder is named."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path; from himix_edge.folders import Replacing, staged_folder\n"
        "import himix_edge.bundle\nfrom himix_edge.errors import InputError\n"
        "out = Path(sys.argv[1])\n"
        "for n in '12':\n"
        "    with staged_folder(out, Replacing('thing', True)) as staged: (staged / 'a').write_text(n)\n"
        "with staged_folder(out, Replacing('thing', True)) as staged:\n"
        "    try:\n"
        "        with staged_folder(out, Replacing('thing', True)): print('two at once')\n"
        "    except InputError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "remove it if none is running" in ran.stdout
    assert names(tmp_path) == ["out"]


def test_kept_pixels_are_made_anew_if_damaged_and_a_killed_runs_go(tmp_path, probe_image):
    pixels = tmp_path / "pixels"
    load = ImageLoader(TINY.vision, pixels)
    first = load(probe_image)
    (kept,) = pixels.iterdir()
    for content in (b"", b"\x93NUMPY", kept.read_bytes()[:-7]):
        kept.write_bytes(content)
        assert (ImageLoader(TINY.vision, pixels)(probe_image) == first).all()
    for name in (f"{'0' * 32}.{2**22 + 1}.tmp", f"{'1' * 32}.{os.getpid()}.tmp", "notes.tmp"):
        (pixels / name).write_text("x")
    clear_leftovers(pixels)
    assert names(pixels) == sorted([f"{'1' * 32}.{os.getpid()}.tmp", "notes.tmp", kept.name])
