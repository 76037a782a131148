"""himix check-model: is a converted vision-language model what transformers has, and are its exports?"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from himix_edge import extras
from himix_edge.bundle import Bundle
from himix_edge.cli.console import StepDisplay, print_table
from himix_edge.cli.options import examples
from himix_edge.errors import BackendMissing, GateRefused, InputError
from himix_edge.files import refuse_foreign_file, staged_file
from himix_edge.reading import read_json
from himix_edge.runtimes.verifying import open_verified

if TYPE_CHECKING:
    from himix_edge.checkpoints.source import Source
    from himix_edge.evaluation.check_model import Case, Row
    from himix_edge.evaluation.theirs import TheirAnswer
    from himix_edge.export.pipeline import Plan
    from himix_edge.export.quantization.policy import Precision

Show = Callable[[str], None]
KIND = "himix check-model"


@click.command(
    "check-model",
    short_help="Compare a vision-language model of others with transformers, and export it.",
    epilog=examples(
        "himix check-model HuggingFaceTB/SmolVLM-256M-Instruct",
        "himix check-model models/internvl3-1b-hf --target onnx,openvino --quant none,int4 --json check.json",
    ),
)
@click.argument("model")
@click.option("--target", help="As of himix export. [default: those whose packages are installed]")
@click.option("--quant", default="int8", show_default=True, help="none, int8, int4; several with commas; all.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bundles"), show_default=True,
              help="The folder that the bundles go to, each MODEL-TARGET-QUANT.")  # fmt: skip
@click.option("--probe-questions", type=click.IntRange(min=1), help="Of the gate. [default: by model size]")
@click.option("--force", is_flag=True, help="Replace existing bundles.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the table to this file, too.")
def check_model(
    model: str,
    target: str | None,
    quant: str,
    out: Path,
    probe_questions: int | None,
    force: bool,
    record: Path | None,
) -> None:
    """Convert MODEL, a Hugging Face folder or hub id of a vision-language model, and prove it.

    It is compared in float32 with transformers' own class and processor, on pictures that ship with this package:
    pixels, token ids, logits and 32 greedy tokens, with no picture, one and two. Then it is exported, every bundle
    passes its gate, and answers are compared with transformers' again. Exit code 3 if anything is not as it should be.
    """
    with extras.needed("torch", extras.CONVERT):
        import torch  # noqa: F401
    from himix_edge.evaluation.check_model import folder_of, refuse_without_memory, shipped_cases, source_row

    if record is not None:
        refuse_foreign_file(record, is_record)
    with StepDisplay() as display:
        display.show(f"reading {model}")
        folder = folder_of(model)
        plans = _plans(model, target, quant, out, probe_questions, force)
        source = plans[0].source
        if source.config.images is None:
            raise InputError(
                f"{model}: its pictures are not tiles in its text, as transformers' vision-language models'"
            )
        refuse_without_memory(source.config, model)
        asked, names, notes = _ask_theirs(folder, shipped_cases(), display.show)
        rows = [source_row(source), *_compared(source, asked, display.show)]
        for precision in dict.fromkeys(plan.request.precision for plan in plans):
            of_one = [plan for plan in plans if plan.request.precision == precision]
            rows += _exported(of_one, asked, notes, display.show)
    _show(model, names, rows, notes)
    if record is not None:
        _write(record, model, names, rows, notes)
    wrong = [row.what for row in rows if not row.passed]
    if wrong:
        raise GateRefused(f"{model}: not as it should be: {'; '.join(wrong)}")


def _plans(
    model: str, target: str | None, quant: str, out: Path, probe_questions: int | None, force: bool
) -> "list[Plan]":
    """Every export that is asked for, checked before anything is read."""
    from himix_edge.checkpoints.source import model_name
    from himix_edge.export.pipeline import ExportRequest, plan
    from himix_edge.export.quantization.policy import POLICIES
    from himix_edge.export.targets import find_targets

    precisions = list(POLICIES) if quant == "all" else [name.strip() for name in quant.split(",")]
    targets = _installed() if target is None else find_targets(target)
    name = model_name(Path(model))
    return [
        plan(ExportRequest(
            model, each, cast("Precision", precision), out / f"{name}-{each}-{precision}",
            probe_questions=probe_questions, force=force,
        ))
        for precision in precisions
        for each in targets
    ]  # fmt: skip


def _installed() -> list[str]:
    """The targets whose packages are here. Raises BackendMissing if none is."""
    from himix_edge.export.targets import find_target, find_targets

    found, missing = [], []
    for name in find_targets("all"):
        try:
            find_target(name).tools()
            found.append(name)
        except BackendMissing as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return found


def _ask_theirs(
    folder: Path, cases: "list[Case]", show: Show
) -> "tuple[list[tuple[Case, TheirAnswer]], str, list[str]]":
    """What transformers answers, who answered, and what was set right; its model is gone afterwards."""
    from himix_edge.evaluation.check_model import TOKENS
    from himix_edge.evaluation.theirs import TheirModel

    raw = read_json(folder / "config.json")
    show("reading it with transformers")
    theirs = TheirModel(folder, str(raw.get("model_type")) if isinstance(raw, dict) else "")
    answers = []
    for case in cases:
        show(f"asking transformers: {case.name}")
        answers.append((case, theirs.answer(case.question, case.pictures, TOKENS)))
    return answers, theirs.names, theirs.notes


def _compared(source: "Source", asked: "list[tuple[Case, TheirAnswer]]", show: Show) -> "list[Row]":
    from himix_edge.evaluation.check_model import compare
    from himix_edge.export.graphs import release_memory
    from himix_edge.runtimes.opening import session_of

    release_memory()  # transformers' model's
    show("converting")
    rows = list(compare(session_of(source), asked, show))
    release_memory()
    return rows


def _exported(
    plans: "list[Plan]", asked: "list[tuple[Case, TheirAnswer]]", notes: list[str], show: Show
) -> "list[Row]":
    """One precision for every target: what the gates say, and the bundles' answers; refusals go to `notes`."""
    from himix_edge.evaluation.check_model import Row
    from himix_edge.export.pipeline import export_all, is_current

    current = [plan for plan in plans if not plan.request.force and is_current(plan)]
    todo = [plan for plan in plans if plan not in current]
    made: list[tuple[Plan, Bundle | GateRefused]] = [(plan, open_verified(plan.request.out)) for plan in current]
    made += zip(todo, export_all(todo, lambda step: show(str(step))), strict=True)
    rows: list[Row] = []
    for plan, outcome in made:
        name = f"{plan.target.name} {plan.request.precision}"
        if isinstance(outcome, Bundle):
            show(f"asking {outcome.folder}")
            rows += _bundle_rows(name, plan, outcome, asked)
        else:
            rows.append(Row(f"{name}: the gate", "refused", 1.0, 0.0))
            notes.append(str(outcome))
    return rows


def _bundle_rows(name: str, plan: "Plan", bundle: Bundle, asked: "list[tuple[Case, TheirAnswer]]") -> "list[Row]":
    """Float bundles have to answer as transformers; of quantized ones it is told how much they do."""
    from himix_edge.evaluation.check_model import Row, answer_along, equal_share, tokens_row
    from himix_edge.runtimes.opening import open_session
    from himix_edge.runtimes.selftest import self_test

    checks = bundle.manifest.parity
    rows = [Row(f"{name}: {len(checks)} checks of the gate", "failed", float(sum(not c.passed for c in checks)), 0.0)]
    session = open_session(bundle)
    rows.append(Row(f"{name}: self-test", "failed", float(not self_test(bundle.folder, session)["passed"]), 0.0))
    allowed = plan.target.tolerances.shipped[bundle.manifest.quantization.activations]
    for case, theirs in asked[:2]:  # a bundle's cache is made for one picture
        what = f"{name}: {case.name}: greedy tokens"
        logits = answer_along(session, case, theirs.tokens)
        exact = plan.request.precision == "none"
        rows.append(tokens_row(what, logits, theirs, allowed) if exact else equal_share(what, logits, theirs))
    return rows


def _show(model: str, names: str, rows: "list[Row]", notes: list[str]) -> None:
    cells = [
        (row.what, row.metric, f"{row.value:.4g}", "" if row.limit is None else f"{row.limit:.4g}",
         "told" if row.limit is None else "yes" if row.passed else "NO")
        for row in rows
    ]  # fmt: skip
    print_table(f"{model} beside {names}", ("what", "metric", "value", "limit", "passed"), cells)
    for note in notes:
        click.echo(f"Note: {note}")


def _write(record: Path, model: str, names: str, rows: "list[Row]", notes: list[str]) -> None:
    found = {
        "kind": KIND, "model": model, "beside": names, "passed": all(row.passed for row in rows),
        "rows": [{**dataclasses.asdict(row), "passed": row.passed} for row in rows], "notes": notes,
    }  # fmt: skip
    with staged_file(record, is_record) as staged:
        staged.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def is_record(path: Path) -> bool:
    """Whether a file is what an earlier run wrote, and so may be replaced."""
    try:
        found = read_json(path)
    except InputError:
        return False
    return isinstance(found, dict) and found.get("kind") == KIND
