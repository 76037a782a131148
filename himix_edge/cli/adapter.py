"""himix adapter: a file for bundles, made of a LoRA adapter."""

from pathlib import Path

import click

from himix_edge import extras
from himix_edge.adapter_file import is_adapter_file
from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.cli.console import print_json
from himix_edge.cli.options import examples
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.files import refuse_foreign_file
from himix_edge.low_rank import adapter_linears
from himix_edge.runtimes.hub import local_bundle
from himix_edge.units import size


@click.command(
    short_help="Make a LoRA adapter a file that bundles take.",
    epilog=examples("himix adapter runs/lora/peft --bundle bundles/nano-onnx-int8 --out shapes.safetensors"),
)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="One that takes adapters.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file; an earlier one is replaced.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def adapter(adapter: Path, bundle: Path, out: Path, as_json: bool) -> None:
    """Make ADAPTER a file for BUNDLE, and for every other bundle of the same model, whatever its target and precision.

    ADAPTER is a folder of PEFT's (adapter_config.json, adapter_model.safetensors), or a checkpoint that was trained
    here with LoRA. BUNDLE was exported with --adapter-rank.
    """
    with extras.needed("torch", extras.TORCH):
        from himix_edge.checkpoints.adapters import as_file, open_adapter
    folder = Path(local_bundle(bundle))
    manifest = read_manifest(folder)
    if manifest.adapters is None:
        raise InputError(f"{folder}: takes no adapters; export it again with --adapter-rank")
    refuse_foreign_file(out, is_adapter_file)
    config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))
    made = as_file(open_adapter(adapter, config), config, manifest.adapters.base, str(folder))
    if made.rank > manifest.adapters.rank:
        raise InputError(
            f"{adapter}: its rank is {made.rank}, {folder} takes up to {manifest.adapters.rank}; export that again "
            f"with --adapter-rank {made.rank}"
        )
    made.save(out)
    changed, linears = len(made.tensors) // 2, len(adapter_linears(config))
    if as_json:
        print_json({"out": str(out), "bytes": out.stat().st_size, "rank": made.rank, "linears": changed,
                    "base": made.base, "images": bool(made.image_digest(config))})  # fmt: skip
        return
    images = (
        "images are read anew under it" if made.image_digest(config) else "images' keys and values stay as they are"
    )
    click.echo(f"{out}: rank {made.rank}, {changed} of {linears} linears, {size(out.stat().st_size)}; {images}")
