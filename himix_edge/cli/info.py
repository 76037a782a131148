"""himix info: what a preset, a checkpoint or a bundle is."""

from pathlib import Path
from typing import Any

import click

from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.cli.console import print_json, print_table, size
from himix_edge.config import ModelConfig, read_json
from himix_edge.errors import InputError
from himix_edge.presets import DEFAULT_MODEL, PRESETS, resolve_model


@click.command()
@click.argument("what", default=DEFAULT_MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(what: str, as_json: bool) -> None:
    """Describe WHAT: a bundle folder, a checkpoint folder, a shipped model or a preset."""
    facts = _bundle_facts(Path(what)) if (Path(what) / MANIFEST).is_file() else _model_facts(what)
    if as_json:
        print_json(facts)
        return
    rows = [(name, _short(value)) for name, value in facts.items()]
    print_table(what, ("", ""), rows)


def _bundle_facts(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))
    roles = {role: size(sum(record.bytes for record in records)) for role, records in manifest.roles.items()}
    return {
        "bundle": manifest.name, "target": manifest.target, **_config_facts(config), "size": roles,
        "weights": manifest.quantisation.model_dump(), "context capacity": manifest.context_capacity,
        "image": manifest.preprocessing.model_dump(), "made with": manifest.tools,
        "provenance": manifest.provenance,
    }  # fmt: skip


def _model_facts(what: str) -> dict[str, Any]:
    try:
        folder = resolve_model(what)
    except InputError:
        if what not in PRESETS:
            raise
        return {"preset": what, **_config_facts(PRESETS[what])}
    config = ModelConfig.from_dict(read_json(folder / "config.json"), str(folder / "config.json"))
    facts = {"checkpoint": str(folder), **_config_facts(config)}
    if (folder / "provenance.json").is_file():
        facts["provenance"] = read_json(folder / "provenance.json")
    return facts


def _config_facts(config: ModelConfig) -> dict[str, Any]:
    d, v = config.decoder, config.vision
    tower = "none: takes vision features"
    if v:
        tower = f"ViT, {v.image_size} px, {v.kind}, {v.num_tokens} tokens"
    return {
        "architecture": config.architecture,
        "decoder": f"{d.model_type}, {d.num_hidden_layers} layers x {d.hidden_size}, {d.num_attention_heads} heads "
        f"({d.num_key_value_heads} K/V) x {d.head_dim}, vocabulary {d.vocab_size}",
        "vision tower": tower,
    }


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_short(item)}" for name, item in value.items() if item is not None)
    return f"{value:.4f}" if isinstance(value, float) and value < 1 else str(value)
