"""himix bench: latency, memory and answers of bundles, measured so that the figures can be trusted."""

import dataclasses
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, Field
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from himix_edge.bench.compare import compare as compare_records
from himix_edge.bench.cores import KINDS
from himix_edge.bench.devices import open_device
from himix_edge.bench.page import USUAL_TITLE
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import Record, is_records, read_records, write_records
from himix_edge.bench.summary import LOADING, RIGHT, TIMES, label, loading, right, times
from himix_edge.bench.sustained_card import in_words
from himix_edge.bundle import read_manifest
from himix_edge.cli.console import print_json, print_table, progress_console
from himix_edge.cli.options import examples, on_provider
from himix_edge.data import load_dataset
from himix_edge.errors import GateRefused, InputError, one_line
from himix_edge.files import refuse_foreign_file
from himix_edge.presets import SHIPPED
from himix_edge.reading import read_json, validated

MOST_SIZES = 100  # of a sweep
MOST_THREADS = 1024
PROBE = SHIPPED / "probe" / "probe.json"
SUSTAINED_MINUTES = (10, 30)
MODES = {"cold": "cold-image", "warm": "warm-image", "none": "text-only"}


class Evaluated(BaseModel):
    """What is read of the output of `himix eval --json`."""

    model: str
    accuracy: float | None = Field(ge=0, le=1)


def thread_counts(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    """Of "4" or "1,2,4". Raises click.BadParameter for anything else."""
    if text is None:
        return None
    counts = [int(part) if part.isascii() and part.isdigit() and len(part) < 9 else 0 for part in text.split(",")]
    if not all(1 <= count <= MOST_THREADS for count in counts) or len(counts) > MOST_SIZES:
        raise click.BadParameter(f"{text!r:.80}: give numbers from 1 to {MOST_THREADS}, e.g. 4 or 1,2,4")
    return list(dict.fromkeys(counts))


class BenchGroup(click.Group):
    """`himix bench BUNDLE` is `himix bench run BUNDLE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[run] [OPTIONS] BUNDLES...")
        formatter.write_usage(ctx.command_path, "compare [OPTIONS] A.json B.json")


@click.group(cls=BenchGroup, short_help="Measure bundles, or compare two measurements.")
def bench() -> None:
    """Measure bundles (`run`, the default), or compare two measurements."""


@bench.command(
    "run",
    short_help="Measure bundles, each in fresh processes.",
    epilog=examples(
        "himix bench bundles/nano-onnx-int8 --report latency.html",
        "himix bench bundles/nano-onnx-int8 --device ssh://pi@raspberrypi",
        "himix bench bundles/nano-onnx-int8 --sustained 10 --report warm.html",
    ),
)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="local", show_default=True, help="local, ssh://USER@HOST[:PORT] or adb[:SERIAL].")
@click.option("--image", "image_mode", type=click.Choice(list(MODES)), default="cold", show_default=True,
              help="cold: encoded for every question; warm: its keys and values given; none: text only.")  # fmt: skip
@click.option("--images", type=click.IntRange(1, 1000), default=1, show_default=True, help="Joined for each question.")
@click.option("--questions-per-image", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="About each image, one after the other.")  # fmt: skip
@click.option("--prompt-tokens", type=click.IntRange(min=1), help="Make every prompt so long. [default: as they come]")
@click.option("--new-tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Of every answer.")
@click.option("--natural", is_flag=True, help="Let the model end its answers; --new-tokens is then the most.")
@click.option("--depth", type=click.IntRange(min=0), default=0, show_default=True,
              help="Tokens said before each prompt (with --image warm or none).")  # fmt: skip
@click.option("--sweep-vision-tokens", "sweep", is_flag=False, flag_value="auto", metavar="[N,N,...]",
              help="Also with images of so many tokens; alone: 0, a quarter, 1, 2, 4, ... of the model's.")  # fmt: skip
@click.option("--threads", callback=thread_counts, metavar="N[,N...]", help="CPU threads; several: measured with each. "
              "[default: the runtime's choice]")  # fmt: skip
@click.option("--cores", type=click.Choice(KINDS), help="Only the large cores, or the small ones. [default: all]")
@click.option("--sustained", type=click.IntRange(*SUSTAINED_MINUTES), metavar="MINUTES",
              help="Then ask on without a pause, 10 to 30 minutes: speed over time, throttling, energy.")  # fmt: skip
@on_provider
@click.option("--iterations", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Timed ones.")
@click.option(
    "--warm-up", type=click.IntRange(0, 100_000), default=3, show_default=True, help="Iterations not counted."
)
@click.option("--max-temperature", type=float, metavar="C", help="Wait before an iteration until the CPU is below.")
@click.option("--questions", type=click.Path(path_type=Path), help="LLaVA-format .json. [default: the probe images]")
@click.option("--accuracy", type=click.Path(path_type=Path), multiple=True, help="Output of `himix eval --json`.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the records to this .json file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report: this .html, with .md and .json.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def run(
    bundles: tuple[Path, ...],
    device: str,
    image_mode: str,
    sweep: str | None,
    questions: Path | None,
    accuracy: tuple[Path, ...],
    out: Path | None,
    report: Path | None,
    as_json: bool,
    iterations: int,
    threads: list[int] | None,
    sustained: int | None,
    **settings: Any,
) -> None:
    """Measure each of BUNDLES in fresh processes: load, every stage, time to first token, tokens, memory.

    Every answer is compared with the first one to the same question and the bundle's self-test runs first, so a fast
    wrong answer cannot pass: exit code 3.
    """
    seconds = None if sustained is None else 60.0 * sustained
    plan = Plan(mode=MODES[image_mode], timed=iterations, sustained_s=seconds, **settings).checked()
    plans = [dataclasses.replace(plan, threads=count) for count in threads or (None,)]
    dataset = load_dataset(str(questions or PROBE))
    accuracies = read_accuracies(accuracy)
    for path, suffix in ((out, ".json"), (report, ".html")):
        if path is not None and path.suffix != suffix:
            raise InputError(f"{path}: give a name that ends in {suffix}")
    if out:
        refuse_foreign_file(out, is_records)
    if report:
        from himix_edge.bench.report import refuse_in_the_way

        refuse_in_the_way(report)
    todo = [(folder, each) for folder in bundles for p in plans
            for each in (p, *(p.at(n) for n in sweep_sizes(sweep, folder, p)))]  # fmt: skip
    command = shlex.join(["himix", *sys.argv[1:]])
    records = []
    with open_device(device) as place, progress_bar() as tell:
        for number, (folder, each) in enumerate(todo):
            title = f"{folder.name} ({number + 1}/{len(todo)})"
            record = place.measure(folder, each, dataset, command, lambda *at, title=title: tell(title, *at))  # type: ignore[misc]
            records.append(with_accuracy(record, accuracies, folder))
    if out:
        write_records(out, records)
    if report:
        from himix_edge.bench.report import write_report

        write_report(report, records)
    if as_json:
        print_json([record.model_dump(mode="json", exclude_none=True) for record in records])
    else:
        show(records)
    wrong = [record for record in records if record.verdict == "invalid"]
    if wrong:
        raise GateRefused("; ".join(f"{r.bundle.name} is invalid: {', '.join(r.reasons)}" for r in wrong))


@bench.command(epilog=examples("himix bench compare before.json after.json"))
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(min=0), default=0.05, show_default=True,
              help="A regression is a median that grew by more than this share.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compare(before: Path, after: Path, threshold: float, as_json: bool) -> None:
    """Compare two files of records, metric by metric. Exit code 3 if the second is slower.

    Slower: a median that grew by more than the threshold, and p < 0.01 by Mann and Whitney's test. Cases that only one
    side has are named.
    """
    if not math.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: give a number")
    found, remarks = compare_records(read_records(before), read_records(after), threshold)
    if as_json:
        print_json({"differences": [vars(d) for d in found], "remarks": remarks})
    else:
        columns = ("metric", "before", "after", "ratio", "95% interval", "p", "")
        for case in dict.fromkeys(d.case for d in found):
            print_table(case, columns, [
                (d.metric, d.before, d.after, "-" if d.ratio is None else f"{d.ratio:.3f}",
                 f"{d.interval[0]:.3f} to {d.interval[1]:.3f}" if d.interval else "",
                 "" if d.p is None else f"{d.p:.2g}", "REGRESSION" if d.regression else "")
                for d in found if d.case == case
            ])  # fmt: skip
        for remark in remarks:
            click.echo(one_line(remark))
    worse = [d for d in found if d.regression]
    if worse:
        raise GateRefused("slower: " + "; ".join(f"{d.case}: {d.metric} x {d.ratio or math.inf:.2f}" for d in worse))


@click.command(
    "report",
    short_help="Make a page of benchmark records.",
    epilog=examples("himix report before.json after.json --out both.html"),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path),
              help="The .html to write, with .md and .json. [default: beside the first of FILES]")  # fmt: skip
@click.option("--accuracy", type=click.Path(path_type=Path), multiple=True, help="Output of `himix eval --json`.")
@click.option("--title", default=USUAL_TITLE, show_default=True, help="Above the page.")
@click.option("--author", help="Who measured; beneath the title.")
def report_command(
    files: tuple[Path, ...], out: Path | None, accuracy: tuple[Path, ...], title: str, author: str | None
) -> None:
    """One self-contained page, Markdown and JSON beside it, from FILES of records (`himix bench --out`, apps).

    Records of several devices are set side by side, where they asked the same questions under the same settings; which
    are not, and why, is said.
    """
    from himix_edge.bench.page import Heading
    from himix_edge.bench.report import write_report

    if not title.strip():
        raise InputError("--title: give some words")

    if out is None:
        out = files[0].with_name(f"{files[0].stem}-report.html")
    elif out.suffix != ".html":
        raise InputError(f"{out}: give a name that ends in .html")
    accuracies = read_accuracies(accuracy)
    records = [with_accuracy(record, accuracies, None) for file in files for record in read_records(file)]
    write_report(out, records, files, Heading(title, author))
    click.echo(f"{out}: {len(records)} records; {out.with_suffix('.md').name} and .json beside it")


def show(records: Sequence[Record]) -> None:
    """The medians, and why a run is not to be trusted."""
    print_table("Medians in ms", ("bundle", *RIGHT, *TIMES), [(label(r), *right(r), *times(r)) for r in records])
    opened = [record for record in records if record.samples.vision_encoder or record.settings.vision_tokens == 0]
    print_table("Before the prompt, medians in ms", ("bundle", *LOADING), [(label(r), *loading(r)) for r in opened])
    for record in records:
        reasons = f": {one_line('; '.join(record.reasons))}" if record.reasons else ""
        click.echo(f"{label(record)}: {record.verdict}{reasons}")
        for line in in_words(record):
            click.echo(f"    {line}")


def sweep_sizes(sweep: str | None, folder: Path, plan: Plan) -> list[int]:
    """Image sizes in tokens.

    Raises:
        InputError: something that is not a list of numbers, or a model whose pictures are not one run of tokens.
    """
    if sweep is None:
        return []
    manifest = read_manifest(folder)
    if manifest.preprocessing.layout is not None:
        raise InputError(
            f"--sweep-vision-tokens: {folder}: its pictures are tiles in its text, which take as many tokens as their "
            "shapes make; give pictures of other shapes with --questions"
        )
    if sweep != "auto":
        try:
            sizes = [int(part) for part in sweep.split(",")]
        except ValueError:
            sizes = [-1]
        if min(sizes) < 0 or len(sizes) > MOST_SIZES:
            raise InputError(
                f"--sweep-vision-tokens {sweep}: give numbers of tokens, {MOST_SIZES} at most, e.g. 0,64,128"
            )
        return sizes
    own, room = manifest.vision_tokens, manifest.context_capacity - plan.depth - plan.new_tokens
    room -= plan.prompt_tokens or 32
    sizes = [0, own // 4, own]
    if manifest.model.get("architecture") != "vanilla":
        sizes += [own * 2**power for power in range(1, 12) if own * 2**power <= room]
    return sizes


def read_accuracies(files: Sequence[Path]) -> dict[str, float]:
    """Accuracy by the name of the bundle's folder, from files that `himix eval --json` printed."""
    found = {}
    for path in files:
        result = read_json(path)
        if not isinstance(result, dict) or "accuracy" not in result or "model" not in result:
            raise InputError(f"{path}: not the output of `himix eval --bundle BUNDLE --json`")
        evaluated = validated(Evaluated, result, str(path))
        if evaluated.accuracy is None:
            raise InputError(f"{path}: accuracy is null: it was measured on no question")
        found[Path(evaluated.model).name] = evaluated.accuracy
    return found


def with_accuracy(record: Record, accuracies: dict[str, float], folder: Path | None) -> Record:
    """The record with its bundle's accuracy, if that is known."""
    known = accuracies.get(folder.name if folder else record.bundle.name, accuracies.get(record.bundle.name))
    if known is None:
        return record
    return record.model_copy(update={"bundle": record.bundle.model_copy(update={"accuracy": known})})


@contextmanager
def progress_bar() -> Iterator[Callable[[str, str, int, int], None]]:
    """A function (title, what, done, of) that moves a bar on standard error."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=progress_console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda title, what, done, of: bar.update(task, description=f"{title}: {what}", completed=done, total=of)
