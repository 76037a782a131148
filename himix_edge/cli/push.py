"""himix push: a bundle to Hugging Face's hub, with a page that says what it is."""

from collections.abc import Sequence
from pathlib import Path

import click

from himix_edge import extras
from himix_edge.bundle import MANIFEST, Bundle, all_files
from himix_edge.cli.measured import Rows, accuracy_rows, latency_tables
from himix_edge.cli.options import examples
from himix_edge.errors import InputError, last_line
from himix_edge.files import sha256
from himix_edge.runtimes.hub import repository
from himix_edge.runtimes.verifying import open_verified

CARD = "README.md"


@click.command(
    short_help="Upload a bundle to Hugging Face's hub.",
    epilog=examples(
        "himix push bundles/nano-onnx-int8 me/nano-onnx-int8 --license apache-2.0 --dry-run",
        "himix push bundles/nano-onnx-int8 me/nano-onnx-int8 --eval eval.json --record bench.json",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--license", "terms", help="The license's name on the hub, for the page: apache-2.0.")
@click.option(
    "--eval", "evals", type=click.Path(path_type=Path), multiple=True,
    help="Put this output of himix eval --json on the page; give it for each.",
)  # fmt: skip
@click.option(
    "--record", "records", type=click.Path(path_type=Path), multiple=True,
    help="Put this file of himix bench --out on the page; give it for each.",
)  # fmt: skip
@click.option("--private", is_flag=True, help="Where the repository is made anew: seen by you alone.")
@click.option("--dry-run", is_flag=True, help="Print the page; send nothing.")
def push(
    bundle: Path,
    repo: str,
    terms: str | None,
    evals: tuple[Path, ...],
    records: tuple[Path, ...],
    private: bool,
    dry_run: bool,
) -> None:
    """Check every file of BUNDLE and send what its manifest lists, in one commit, with a page made of the manifest.

    Nothing else in the folder is sent. --eval and --record add accuracy and latency to the page, measured with this
    very bundle. Log in with huggingface_hub first, or set HF_TOKEN. What is there opens as hf://OWNER/NAME.
    """
    if repository(f"hf://{repo}") is None:
        raise InputError(f"{repo!r:.100}: give the repository as OWNER/NAME")
    if terms is not None and not terms.replace("-", "").replace(".", "").isalnum():
        raise InputError(f"--license {terms!r:.60}: give its name on the hub, such as apache-2.0")
    opened = open_verified(bundle)
    manifest = sha256(bundle / MANIFEST)
    accuracy = [row for file in evals for row in accuracy_rows(file, manifest)]
    latency = [table for file in records for table in latency_tables(file, manifest)]
    card = model_card(opened, repo, terms, accuracy, latency)
    if dry_run:
        click.echo(card, nl=False)
        return
    with extras.needed("huggingface-hub", extras.HUB):
        from huggingface_hub import CommitOperationAdd, HfApi
    names = [MANIFEST, *(record.path for record in all_files(opened.manifest))]
    operations = [CommitOperationAdd(CARD, card.encode()), *(CommitOperationAdd(n, str(bundle / n)) for n in names)]
    api = HfApi()
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        made = api.create_commit(repo, operations, commit_message=f"{opened.manifest.name}, by himix push")
    except Exception as error:  # its errors come from several libraries without a common base
        raise InputError(f"{repo}: not pushed ({last_line(str(error), type(error).__name__)})") from None
    click.echo(f"{made.commit_url}: {len(names)} files, {opened.bytes / 1e6:.1f} MB; open it as hf://{repo}")


def model_card(
    bundle: Bundle,
    repo: str,
    terms: str | None = None,
    accuracy: Sequence[tuple[str, str]] = (),
    latency: Sequence[Rows] = (),
) -> str:
    """The repository's page, in Markdown: what stands in the manifest, and what was measured.

    Args:
        bundle: what is sent.
        repo: OWNER/NAME.
        terms: the license's name on the hub.
        accuracy: rows of `accuracy_rows`.
        latency: tables of `latency_tables`.
    """
    manifest, config = bundle.manifest, bundle.config
    head = ["library_name: himix-edge", "pipeline_tag: image-text-to-text", f"tags: [himix, {manifest.target}]"]
    head += [f"license: {terms}"] if terms else []
    bits = ", ".join(f"{part} {count}" for part, count in manifest.quantization.bits.items()) or "float"
    facts = [
        ("runtime", manifest.target), ("architecture", f"{config.architecture}, {config.decoder.model_type} decoder"),
        ("parameters", f"{config.parameters / 1e6:.1f} million"), ("size", f"{bundle.bytes / 1e6:.1f} MB"),
        ("weights, bits", bits),
        ("image", f"{manifest.preprocessing.image_size} pixels, {manifest.vision_tokens} tokens"),
        ("context", f"{manifest.context_capacity} tokens, the image's among them"),
        ("made with", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())),
    ]  # fmt: skip
    rows = [
        (f"{result.stage}, {result.role}", f"{result.metric}: {result.value:.3g} (limit {result.limit:.3g})")
        for result in manifest.parity
    ]
    data = _data(manifest.provenance)
    trained = [f"Trained on {_cell(data)}.", ""] if data else []
    measured = ["## Accuracy", "", *_table(accuracy), ""] if accuracy else []
    measured += ["## Latency", ""] if latency else []
    measured += [line for table in latency for line in (*_table(table), "")]
    lines = [
        "---", *head, "---", f"# {manifest.name}", "",
        "A vision-language model as a bundle of himix-edge: the image is read once, and each question costs its own "
        "tokens only.", "", "```python", "import himix_edge as hx", "", f'session = hx.open_bundle("hf://{repo}")',
        'print(session.answer("What is this?", "photo.png"))', "```", "", *_table(facts), "", *trained,
        *measured,
        "## Checked when it was made", "",
        f"Asked {_cell(repr(manifest.selftest.prompt))} about the picture in `selftest/`, it has to answer "
        f"{_cell(repr(manifest.selftest.text))} on any device (`himix verify`).", "", *_table(rows), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _data(provenance: dict[str, object]) -> str:
    """What a training's data are called, with their license."""
    training = provenance.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    if not isinstance(data, dict):
        return ""
    return ", ".join(str(data[name]) for name in ("name", "source", "license") if data.get(name))


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)]


def _cell(text: str) -> str:
    """Text that may come from a manifest, as a cell shows it."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)[:300]
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in plain)
