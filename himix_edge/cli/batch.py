"""himix batch: a file of questions to a file of answers."""

from pathlib import Path

import click

from himix_edge.cli.console import print_json, track
from himix_edge.cli.options import (
    examples,
    kept_bits,
    on_provider,
    refuse_without_bundle,
    structure_of,
    structured,
    with_adapter,
)
from himix_edge.errors import InputError
from himix_edge.evaluation.batch import BatchSettings, Opening, answer_batch, read_questions
from himix_edge.files import refuse_foreign_file
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.runtimes.hub import local_bundle
from himix_edge.staging import staging


@click.command(
    short_help="Answer a file of questions, and go on after a kill.",
    epilog=examples("himix batch questions.jsonl --bundle bundles/nano-onnx-int8 --out answers.jsonl --workers 2"),
)
@click.argument("questions", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file of answers, in the same order.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [default: --model in PyTorch]")
@click.option("--model", help=f"A shipped model or a checkpoint folder. [default: {DEFAULT_MODEL}]")
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where images are. [default: the file's folder]")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Of dask, tcp://HOST:PORT: its workers, on any number of machines, answer in place of --workers.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of an exported bundle, in each process.")
@on_provider
@kept_bits
@with_adapter
@click.option("--max-new-tokens", type=int, help="[default: the model's]")
@click.option("--temperature", type=float, help="0 is greedy. [default: the model's]")
@click.option("--top-p", type=float, help="Nucleus sampling. [default: the model's]")
@click.option("--seed", type=click.IntRange(min=0), help="Makes sampling repeatable.")
@click.option("--stop", multiple=True, help="A text that ends an answer.")
@structured
@click.option("--force", is_flag=True, help="Replace an existing file of --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def batch(
    questions: Path,
    out: Path,
    bundle: Path | None,
    model: str | None,
    image_folder: Path | None,
    workers: int,
    scheduler: str | None,
    threads: int | None,
    provider: str | None,
    image_bits: int,
    adapter: Path | None,
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    choices: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Answer every line of QUESTIONS, a file of JSON lines: {"prompt": ..., "image": FILE, "id": ..., "system": ...}.

    All but the prompt may be left out. Questions about one picture follow each other in one process, which reads it
    once. A killed run leaves its answers beside --out, and the same command goes on with them.
    """
    if bundle and model is not None:
        raise InputError("--bundle and --model exclude each other")
    if scheduler is not None and (workers > 1 or not bundle):
        raise InputError("--scheduler has workers of its own, which open a --bundle; leave --workers and --model out")
    refuse_without_bundle(bundle, threads, provider, adapter)
    refuse_foreign_file(out, None)
    if out.exists() and not force:
        raise InputError(f"{out}: exists; --force replaces it")
    asked = read_questions(questions, image_folder)
    structure = structure_of(json_schema, regex, choices)
    settings = BatchSettings(max_new_tokens, temperature, top_p, seed, stop, structure, image_bits)
    folder, file = bundle and local_bundle(bundle).absolute(), adapter and adapter.absolute()
    opening = Opening(folder, model or DEFAULT_MODEL, threads, provider, file)
    with staging(out, busy="another himix is answering into this file", resumable=True) as place:
        lines = answer_batch(
            asked, settings, opening, place, out, workers,
            lambda made, total: track(made, f"asking {questions}", total), scheduler,
        )  # fmt: skip
    failed = [line for line in lines if "error" in line]
    result = {"out": str(out), "questions": len(lines), "failed": len(failed)}
    if as_json:
        print_json(result)
    else:
        click.echo(f"{out}: {len(lines) - len(failed)} of {len(lines)} questions answered")
    if failed:
        first = f"{failed[0]['id']!r}: {failed[0]['error']}"
        raise InputError(f"{len(failed)} of {len(lines)} questions have no answer; the first, {first}")
