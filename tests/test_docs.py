"""README and docs/: their commands and Python examples run as they stand (training: a few steps of it)."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from himix_edge.cli.commands import himix as group
from himix_edge.manifest import Manifest
from himix_edge.presets import SHIPPED
from tests.commands import himix
from tests.conftest import FEW
from tests.generated_docs import generated

ROOT = Path(__file__).parents[1]
GUIDES = (
    "export",
    "convert",
    "run",
    "transformers",
    "evaluate",
    "train",
    "distil",
    "bench",
)  # each with what those before it made
PAGES = ["README.md", "docs/getting-started.md", "docs/api.md", *(f"docs/guides/{name}.md" for name in GUIDES)]
NEWCOMERS = PAGES[:2]  # as they stand
LONG = (
    "docs/guides/train.md",
    "docs/guides/distil.md",
    "docs/guides/bench.md",
)  # no later page needs them
SHORT = ["steps=2", "images_per_step=2", "validation_images=2", "evaluate_every=1"]
LONGEST_README = 130  # lines
OURS = ("himix_edge", "export", "runtimes", "tests", "benchmarks", "conformance", "examples", "docs", "web_demo",
        "android_demo", "ios_demo", "config", "checkpoints", "model", "bench", "evaluation", "training")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(next((SHIPPED / "probe").glob("*.png")), folder / "photo.png")
    shutil.copy(ROOT / "LICENSE", folder)
    return folder


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in LONG else page for page in PAGES]
)
def test_its_commands_and_examples(page: str, place: Path) -> None:
    """Slow: adds the pages in LONG."""
    blocks = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for language, block in blocks:
        if language == "python":
            result = subprocess.run(
                [sys.executable, "-c", block], cwd=place, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stderr
            assert result.stdout.strip()
        for line in block.splitlines() if language == "sh" else ():
            run(line, place, few=page not in NEWCOMERS)


def run(line: str, place: Path, few: bool) -> None:
    """A line of a page, an export's gate with `few` questions; `make` is what this test is run by."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        return
    assert program == "himix"
    if arguments[0] == "train":
        arguments += [word for setting in SHORT for word in ("--set", setting)]
    if arguments[0] == "export" and "--random-weights" not in arguments and few:
        arguments += ["--probe-questions", str(FEW)]
    if arguments[0] == "bench":
        arguments += ["--iterations", "2", "--warm-up", "1"]
    result = himix(*arguments, cwd=place, stdin="What is this?\n\n")
    assert result.returncode == 0, (line, result.stderr)


def test_make_targets_that_are_named_exist() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        named |= set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert {"test", "docs", "fuzz", "web", "apk"} <= named <= made


def test_files_and_modules_that_are_named_exist() -> None:
    """Paths in backticks, from the clone or from himix_edge, and what `python -m` starts."""
    named = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:[a-z_]+/)+[A-Za-z0-9_.-]*)`", text)
        modules = re.findall(r"python -m ([a-z0-9_.]*[a-z0-9_])", text)
        inside = [name.replace("himix_edge.runtimes", "runtimes").replace(".", "/") for name in modules]
        named |= {(page.name, path) for path in (*paths, *inside) if path.split("/")[0] in OURS}
    assert len(named) > 20
    places = (ROOT, ROOT / "himix_edge")
    found = {each for each in named if any((place / each[1]).exists() or (place / f"{each[1]}.py").exists()
                                           for place in places)}  # fmt: skip
    assert named - found == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_reference_and_the_schemas_are_those_of_the_code() -> None:
    for file, content in generated().items():
        assert (ROOT / "docs" / file).read_text(encoding="utf-8") == content, "run python -m tests.generated_docs"


def test_the_format_names_every_field() -> None:
    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    schema = Manifest.model_json_schema()
    kinds = {name: kind for name, kind in schema["$defs"].items() if name != "ParityResult"}  # for people
    for name, kind in {"Manifest": schema, **kinds}.items():
        for field in kind["properties"]:
            assert re.search(rf"[`\".]{field}[`\"]", page), (name, field)


def test_links_between_files_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "examples/README.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages
             for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
             if not link.startswith("http")]  # fmt: skip
    assert len(links) > len(pages)
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", sorted(group.commands))
def test_help_is_whole_and_ends_with_an_example(name: str) -> None:
    command = group.commands[name]
    assert not command.get_short_help_str(limit=68).endswith("...")  # of 80 columns
    shown = command.commands["run"] if isinstance(command, click.Group) else command
    assert f"himix {name}" in click.Context(shown, info_name=name).get_help().splitlines()[-1]


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """It, and all below it."""
    yield name, command
    for part, found in getattr(command, "commands", {}).items():
        yield from commands(found, f"{name} {part}")


@pytest.mark.parametrize(("name", "command"), commands(group, "himix"))
def test_every_option_says_what_it_is_and_tracebacks_can_be_asked_for(name: str, command: click.Command) -> None:
    options = {option for each in command.params for option in each.opts if isinstance(each, click.Option)}
    assert [each.opts for each in command.params if isinstance(each, click.Option) and not each.help] == []
    assert "--traceback" in options
    assert not command.get_short_help_str(limit=68).endswith("...") or name == "himix"
