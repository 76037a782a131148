"""himix export, also installed as himix-export."""

from pathlib import Path
from typing import Any

import click
from rich.status import Status

from himix_edge.cli.console import print_json, print_table, progress_console, size
from himix_edge.presets import DEFAULT_MODEL


@click.command()
@click.option("--target", required=True, help="Runtime to export for: onnx.")
@click.option("--quant", "precision", default="int8", show_default=True, help="Weights: none, int8 or int4.")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="A shipped model, a checkpoint folder or a .gguf."
)
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder. [default: bundles/MODEL-TARGET-QUANT]")
@click.option("--group-size", default=32, show_default=True, help="Columns that share a 4-bit scale: 32, 64 or 128.")
@click.option(
    "--capacity",
    type=int,
    help="KV-cache slots, vision and text together. [default: the model's maximum, at most 2048]",
)
@click.option("--activations", type=click.Choice(["int8", "float"]), help="[default: int8 where weights are quantised]")
@click.option("--probe", type=click.Path(path_type=Path), help="LLaVA-format JSON of images and prompts for the gate.")
@click.option("--probe-questions", type=click.IntRange(min=1), help="Ask the first so many. [default: by model size]")
@click.option(
    "--random-weights", is_flag=True, help="MODEL is a preset: build it at its real size without a checkpoint."
)
@click.option("--tower", help="With --random-weights: another tower than the preset's.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Check everything, predict size, memory and disk, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    target: str,
    precision: str,
    model: str,
    out: Path | None,
    group_size: int,
    capacity: int | None,
    activations: str | None,
    probe: Path | None,
    probe_questions: int | None,
    random_weights: bool,
    tower: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Export a model to a bundle: quantised once, compared with PyTorch, published only if it is right."""
    pipeline = _pipeline()
    request = pipeline.ExportRequest(
        model=model,
        target=target,
        precision=precision,  # the plan refuses an unknown one
        out=out or Path("bundles") / f"{Path(model).name}-{target}-{precision}",
        group_size=group_size,
        capacity=capacity,
        int8_activations=None if activations is None else activations == "int8",
        probe=probe or pipeline.PROBE,
        probe_questions=probe_questions,
        random_weights=random_weights,
        tower=tower,
        force=force,
    )
    plan = pipeline.plan(request)
    need = plan.forecast
    if dry_run:
        if as_json:
            print_json({"out": str(request.out), "bundle_bytes": need.bundle, "memory_bytes": need.memory,
                        "disk_bytes": need.disk, "weights_bytes": need.weights})  # fmt: skip
        else:
            rows = [(f"weights of {role}", size(count)) for role, count in need.weights.items()]
            rows += [("bundle", size(need.bundle)), ("peak memory", size(need.memory)), ("free disk", size(need.disk))]
            print_table(f"{request.out}: nothing written", ("predicted", "bytes"), rows)
        return
    if pipeline.is_current(plan) and not force:
        bundle = pipeline.open_verified(request.out)
        progress_console.print(f"{request.out} is up to date")
    else:
        with progress_console.status("starting") as status:
            bundle = pipeline.export(plan, lambda step: _step(status, step))
    manifest = bundle.manifest
    if as_json:
        print_json(
            {"out": str(bundle.folder), "bytes": bundle.bytes, "parity": [r.model_dump() for r in manifest.parity]}
        )
        return
    checks = [(r.stage, r.role, r.metric, r.value, r.limit) for r in manifest.parity]
    print_table("Parity with PyTorch", ("stage", "role", "metric", "value", "limit"), checks)
    click.echo(f"{bundle.folder}: {size(bundle.bytes)}, {manifest.context_capacity} cache slots, all checks passed")


def _step(status: Status, text: str) -> None:
    status.update(text)
    if not progress_console.is_terminal:
        progress_console.print(text)


def _pipeline() -> Any:
    """The export pipeline, imported only now: it needs torch."""
    from himix_edge.errors import BackendMissing

    try:
        import torch  # noqa: F401
    except ImportError:
        raise BackendMissing("torch", "onnx") from None
    from himix_edge.export import pipeline

    return pipeline
