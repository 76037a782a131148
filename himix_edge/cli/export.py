"""himix export, also installed as himix-export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from himix_edge import extras
from himix_edge.bundle import Bundle
from himix_edge.cli import fit
from himix_edge.cli.console import StepDisplay, print_json, print_table, progress_console
from himix_edge.cli.fit import left_on, on_device
from himix_edge.cli.options import examples
from himix_edge.errors import GateRefused, InputError
from himix_edge.low_rank import MOST_RANK
from himix_edge.memory import RULES, Model, Prediction, predict
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.runtimes.registry import extras_of, runtime_names
from himix_edge.runtimes.verifying import open_verified
from himix_edge.units import size

if TYPE_CHECKING:
    from himix_edge.export.pipeline import Plan
    from himix_edge.export.quantization.policy import Precision


@click.command(
    short_help="Export a model to bundles, and publish only what is right.",
    epilog=examples(
        "himix export --target onnx --quant int8 --out bundles/nano-onnx-int8",
        "himix export --target all --quant all --model runs/mine/final --out bundles",
    ),
)
@click.option("--target", required=True, help=f"{', '.join(runtime_names())}; several with commas; all.")
@click.option("--quant", default="int8", show_default=True, help="none, int8, int4; several with commas; all.")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="A shipped model, a checkpoint folder or a .gguf."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The bundle's folder; of several bundles the folder they go to. [default: bundles/MODEL-TARGET-QUANT]",
)
@click.option("--group-size", default=32, show_default=True, help="Columns that share a 4-bit scale: 32, 64 or 128.")
@click.option(
    "--capacity",
    type=int,
    help="KV-cache slots, vision and text together. [default: the model's maximum, at most 2048]",
)
@click.option("--policy", type=click.Path(path_type=Path), help="YAML file: bits by role and module, group size.")
@click.option(
    "--rounding",
    type=click.Choice(["tuned", "gptq", "nearest"]),
    help="Of quantized weights: calibrated or plain. [default: gptq; small language models tuned; random ones nearest]",
)
@click.option("--calibration", type=click.Path(path_type=Path), help="LLaVA-format JSON to calibrate on.")
@click.option(
    "--activations",
    type=click.Choice(["int8", "float"]),
    help="What linears multiply by. [default: int8 where weights are quantized]",
)
@click.option("--probe", type=click.Path(path_type=Path), help="LLaVA-format JSON of images and prompts for the gate.")
@click.option("--probe-questions", type=click.IntRange(min=1), help="Ask the first so many. [default: by model size]")
@click.option(
    "--random-weights", is_flag=True, help="MODEL is a preset: build it at its real size without a checkpoint."
)
@click.option("--tower", help="With --random-weights: another tower than the preset's.")
@click.option("--chip", "chips", metavar="NAME[,NAME]", default="",
              help="With --target onnx_qnn: also compile for sm8450, sm8550, sm8650, sm8750, sm8850, and emulate it, "
                   "with onnxruntime-qnn, which is under Qualcomm's licence.")  # fmt: skip
@click.option(
    "--adapter-rank", type=click.IntRange(1, MOST_RANK), default=None,
    help="Take LoRA adapters up to this rank as files, swapped while a bundle is open (onnx, openvino, executorch).",
)  # fmt: skip
@click.option(
    "--adapter", type=click.Path(path_type=Path),
    help="Merge this LoRA adapter into the weights for good: a folder of PEFT's, a checkpoint or a file.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Check everything, predict size, memory and disk, write nothing.")
@on_device
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    target: str,
    quant: str,
    model: str,
    out: Path | None,
    activations: str | None,
    chips: str,
    adapter_rank: int | None,
    dry_run: bool,
    device_class: str | None,
    memory: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Export a model to bundles: quantized once, compared with PyTorch, published only if it is right."""
    left = left_on(device_class, memory)
    if left is not None and not dry_run:
        raise InputError("--device-class and --memory go with --dry-run; of a bundle: himix info BUNDLE --device-class")
    with extras.needed("torch", extras_of(target)):
        import torch  # noqa: F401
    from himix_edge.checkpoints.source import model_name
    from himix_edge.export import pipeline, report
    from himix_edge.export.quantization.policy import POLICIES
    from himix_edge.export.targets import find_targets

    targets = find_targets(target)
    asked = list(POLICIES) if quant == "all" else [name.strip() for name in quant.split(",")]
    precisions = cast("list[Precision]", asked)  # `plan` refuses others
    several = len(targets) * len(precisions) > 1
    if several:
        if out is not None and (out / "manifest.json").exists():
            raise InputError(f"{out}: is a bundle; several bundles need a folder to go to")
        report.refuse_in_the_way(out or Path("bundles"))
    settings["probe"] = settings["probe"] or pipeline.PROBE
    int8_activations = None if activations is None else activations == "int8"
    bundles: list[Bundle] = []
    refusals: list[str] = []
    rounds = []
    for precision in precisions:
        plans = []
        for name in targets:
            usual = f"{model_name(Path(model))}-{name}-{precision}"
            folder = (out or Path("bundles")) / usual if several or out is None else out
            request = pipeline.ExportRequest(
                model=model,
                target=name,
                precision=precision,
                out=folder,
                int8_activations=int8_activations,
                adapter_rank=adapter_rank or 0,
                chips=tuple(dict.fromkeys(name.strip() for name in chips.split(",") if name.strip())),
                **settings,
            )
            plans.append(pipeline.plan(request))
        rounds.append(plans)
    if dry_run:
        _show_forecasts([plan for plans in rounds for plan in plans], left, as_json)
        return
    for plans in rounds:
        made, refused = _export(plans, settings["force"], len(rounds) > 1)
        bundles += made
        refusals += refused
    _show(bundles, as_json, several)
    if several and bundles:
        report.write_report(out or Path("bundles"), bundles)
    if refusals:
        raise GateRefused("\n".join(refusals))


def _export(plans: "list[Plan]", force: bool, several_precisions: bool) -> tuple[list[Bundle], list[str]]:
    """One precision for every target; what the gate refuses for one does not stop the others."""
    from himix_edge.export import pipeline

    bundles: list[Bundle] = []
    refusals = []
    todo = []
    for plan in plans:
        if pipeline.is_current(plan) and not force:
            progress_console.print(f"{plan.request.out} is up to date")
            bundles.append(open_verified(plan.request.out))
        else:
            todo.append(plan)
    with StepDisplay() as display:
        prefix = f"{plans[0].request.precision}: " if several_precisions else ""
        for outcome in pipeline.export_all(todo, lambda step: display.show(f"{prefix}{step}")):
            if isinstance(outcome, Bundle):
                bundles.append(outcome)
            else:
                refusals.append(str(outcome))
    return bundles, refusals


def _running(plan: "Plan") -> Prediction | None:
    """The memory that the bundle of a plan will take to run; None where its runtime's use is not known."""
    if plan.target.name not in RULES:
        return None
    activations = plan.target.activations or ("int8" if plan.options.int8_activations else "float")
    policy, need = plan.policy, plan.forecast
    group = policy.group_size if plan.request.precision == "int4" else 0
    model = Model(plan.config, need.weights, policy.bits(), group, activations == "int8", plan.options.capacity)
    return predict(plan.target.name, model)


def _show_forecasts(plans: "list[Plan]", left: int | None, as_json: bool) -> None:
    needs = [(str(plan.request.out), plan.forecast) for plan in plans]
    running = {str(plan.request.out): each for plan in plans if (each := _running(plan)) is not None}
    unknown = [plan.target.name for plan in plans if plan.target.name not in RULES]
    if left is not None and unknown:
        raise InputError(f"target {unknown[0]}: its use of memory is not known; known: {', '.join(RULES)}")
    if as_json:
        found = [{"out": out, "bundle_bytes": need.bundle, "memory_bytes": need.memory, "disk_bytes": need.disk,
                  "weights_bytes": need.weights,
                  **({"running": fit.facts(running[out], left)} if out in running else {})}
                 for out, need in needs]  # fmt: skip
        print_json(found[0] if len(found) == 1 else found)
        fit.refuse_misfits(running, left)
        return
    for out, need in needs:
        rows = [(f"weights of {role}", size(count)) for role, count in need.weights.items()]
        rows += [("bundle", size(need.bundle)), ("memory needed to export", size(need.memory))]
        rows += [("disk needed to export", size(need.disk))]
        print_table(f"{out}: nothing written", ("predicted", "bytes"), rows)
        if out in running:
            fit.show(out, running[out], left)
    fit.refuse_misfits(running, left)


def _show(bundles: list[Bundle], as_json: bool, several: bool) -> None:
    from himix_edge.export import report

    if as_json:
        found = [
            {"out": str(b.folder), "bytes": b.bytes, "parity": [r.model_dump() for r in b.manifest.parity]}
            for b in bundles
        ]
        print_json(found if several else found[0])
        return
    if several:
        print_table("Parity with PyTorch", report.COLUMNS, [report.row(b) for b in bundles])
        click.echo("".join(map(_of_adapters, bundles)), nl=False)
        return
    for bundle in bundles:
        manifest = bundle.manifest
        checks = [(r.stage, r.role, r.metric, r.value, r.limit) for r in manifest.parity]
        print_table("Parity with PyTorch", ("stage", "role", "metric", "value", "limit"), checks)
        click.echo(f"{bundle.folder}: {size(bundle.bytes)}, {manifest.context_capacity} cache slots, all checks passed")
        click.echo(_of_adapters(bundle), nl=False)


def _of_adapters(bundle: Bundle) -> str:
    """A line on what the bundle does with adapters; "" if there is nothing to say."""
    places, merged = bundle.manifest.adapters, bundle.manifest.provenance.get("merged_adapter")
    said = ""
    if isinstance(merged, dict):
        said += f"{bundle.folder}: {merged.get('name')!s:.80} is merged into its weights, and cannot be swapped\n"
    if places is not None:
        said += f"{bundle.folder}: takes adapters of rank 1 to {places.rank}; himix adapter makes files for it\n"
    return said
