"""himix info: what a preset, a checkpoint or a bundle is, and what it costs."""

import re
from pathlib import Path

import click

from himix_edge import extras
from himix_edge.bundle import MANIFEST, read_manifest
from himix_edge.cli import fit
from himix_edge.cli.console import print_json, print_table
from himix_edge.cli.fit import left_on, on_device
from himix_edge.cli.options import examples
from himix_edge.config import CNNConfig, FastViTConfig, Injection, ModelConfig, VisionConfig, ViTConfig
from himix_edge.errors import BackendMissing, InputError
from himix_edge.memory import of_manifest, predict
from himix_edge.presets import DECODERS, DEFAULT_MODEL, DEFAULT_TOWERS, preset, preset_names, resolve_model
from himix_edge.reading import read_json
from himix_edge.runtimes.chatter import without_logged_warnings
from himix_edge.tower_presets import TOWERS
from himix_edge.units import size
from himix_edge.vlm_presets import VLMS


@click.command(
    short_help="Describe a bundle, a checkpoint or a preset.",
    epilog=examples(
        "himix info bundles/nano-onnx-int8",
        "himix info bundles/nano-onnx-int8 --device-class phone-4gb",
        "himix info qwen2-0.5b --flops",
    ),
)
@click.argument("what", default=DEFAULT_MODEL)
@click.option("--flops", is_flag=True, help="Count FLOPs and bytes from the model as it is built, vanilla beside it.")
@click.option("--text-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="M, for --flops.")
@click.option(
    "--picture", default="1024x768", show_default=True, metavar="WIDTHxHEIGHT",
    help="For --flops, where a picture's shape says how many tiles it is.",
)  # fmt: skip
@click.option("--tower", help="Of a preset: another tower than its usual one.")
@on_device
@click.option("--list", "list_all", is_flag=True, help="List the presets and towers.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(
    what: str,
    flops: bool,
    text_tokens: int,
    picture: str,
    tower: str | None,
    device_class: str | None,
    memory: str | None,
    list_all: bool,
    as_json: bool,
) -> None:
    """Describe WHAT: a bundle folder, a checkpoint (folder, .gguf or hub id), a shipped model or a preset.

    With --device-class or --memory: does a bundle fit? Its peak memory is predicted; exit code 3 if it does not fit.
    """
    if list_all:
        _list(as_json)
        return
    left = left_on(device_class, memory)
    if left is not None:
        _fit(Path(what), left, as_json)
        return
    if flops:
        _costs(what, _config(what, tower), text_tokens, _sides(picture), as_json)
        return
    facts = _bundle_facts(Path(what)) if (Path(what) / MANIFEST).is_file() else _model_facts(what, tower)
    if as_json:
        print_json(facts)
        return
    rows = [(name, _short(value)) for name, value in facts.items()]
    print_table(what, ("", ""), rows)


def _fit(folder: Path, left: int, as_json: bool) -> None:
    """A bundle's predicted memory beside what a device leaves. Raises GateRefused where it does not fit."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: no bundle; of a model that is not exported yet: himix export --dry-run --device-class"
        )
    manifest = read_manifest(folder)
    prediction = predict(manifest.target, of_manifest(folder, manifest))
    if as_json:
        print_json(fit.facts(prediction, left))
    else:
        fit.show(str(folder), prediction, left)
    fit.refuse_misfits({str(folder): prediction}, left)


def _sides(picture: str) -> tuple[int, int]:
    """Width and height in pixels. Raises InputError for what is no size."""
    found = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", picture)
    if found is None:
        raise InputError(
            f"--picture {picture!r:.40}: give its width and height in pixels, as 1024x768, each from 1 to 99999"
        )
    return int(found[1]), int(found[2])


def _bundle_facts(folder: Path) -> dict[str, object]:
    manifest = read_manifest(folder)
    config = ModelConfig.from_dict(manifest.model, str(folder / MANIFEST))
    roles = {role: size(sum(record.bytes for record in records)) for role, records in manifest.roles.items()}
    return {
        "bundle": manifest.name, "target": manifest.target, **_config_facts(config), "size": roles,
        "weights": manifest.quantization.model_dump(), "context capacity": manifest.context_capacity,
        **({"adapters": manifest.adapters.model_dump()} if manifest.adapters else {}),
        "image": manifest.preprocessing.model_dump(), "made with": manifest.tools,
        "provenance": manifest.provenance,
    }  # fmt: skip


def _config(what: str, tower: str | None) -> ModelConfig:
    """The configuration of a bundle, a checkpoint or a preset; a preset's name comes before a shipped model's."""
    if (Path(what) / MANIFEST).is_file():
        return ModelConfig.from_dict(read_manifest(Path(what)).model, what)
    if what in preset_names() and not Path(what).exists():
        return preset(what, tower)
    if tower:
        raise InputError(f"--tower goes with a preset; {what} is none ({', '.join(preset_names())})")
    try:
        import torch  # noqa: F401
    except ImportError:
        folder = resolve_model(what)
        return ModelConfig.from_dict(read_json(folder / "config.json"), str(folder / "config.json"))
    from himix_edge.checkpoints import open_source

    try:
        return open_source(what).config
    except InputError as error:
        if Path(what).exists() or "/" in what:
            raise
        raise InputError(f"{error}; presets: {', '.join(preset_names())}; towers: {', '.join(TOWERS)}") from None


def _model_facts(what: str, tower: str | None) -> dict[str, object]:
    config = _config(what, tower)
    try:
        folder = resolve_model(what)
    except InputError:
        kind = "preset" if what in preset_names() else "checkpoint"
        return {kind: what, **_config_facts(config)}
    facts = {"checkpoint": str(folder), **_config_facts(config)}
    if (folder / "provenance.json").is_file():
        facts["provenance"] = read_json(folder / "provenance.json")
    return facts


def _config_facts(config: ModelConfig) -> dict[str, object]:
    facts: dict[str, object] = {
        "architecture": config.architecture,
        "decoder": _decoder_words(config),
        "vision tower": _tower_words(config.vision) if config.vision else "none",
    }
    if config.images is not None and config.vision is not None:
        most, how = config.images.most_tiles_of_one(config.vision.image_size), config.images.strategy
        tiles = f"up to {most} tiles" if most > 1 else "a tile"
        facts["pictures"] = f"in the text, {how}: {tiles} of {config.tile_tokens} tokens"
    if config.injection != Injection():
        facts["injection"] = _injection_words(config.injection)
    return facts


def _decoder_words(config: ModelConfig) -> str:
    d = config.decoder
    return (
        f"{d.model_type}, {d.num_hidden_layers} layers x {d.hidden_size}, {d.num_attention_heads} heads "
        f"({d.num_key_value_heads} K/V) x {d.head_dim}, vocabulary {d.vocab_size}"
    )


def _injection_words(injection: Injection) -> str:
    words = ["all layers" if injection.layers is None else f"layers {list(injection.layers)}"]
    words.append(f"sharing {injection.sharing}")
    if injection.mixing is not None:
        words.append(f"connector and {injection.mixing} layers of its own")
    if injection.positions != "none":
        words.append(f"positions {injection.positions}")
    if injection.slots:
        words.append("a term for each slot")
    return ", ".join(words)


def _tower_words(tower: VisionConfig) -> str:
    if isinstance(tower, ViTConfig):
        kind = f"ViT, {tower.num_layers_used} of {tower.num_hidden_layers} layers x {tower.hidden_size}"
    elif isinstance(tower, FastViTConfig):
        kind = f"FastViT, {sum(tower.depths)} layers in {len(tower.depths)} stages"
    else:
        kind = tower.name if isinstance(tower, CNNConfig) else f"transformers' {tower.config.get('model_type')}"
    return f"{kind}, {tower.image_size} px, {tower.num_tokens} tokens x {tower.feature_size}"


def _list(as_json: bool) -> None:
    decoders = {
        name: {
            "decoder": _decoder_words(preset(name)), "tower": DEFAULT_TOWERS.get(name, "siglip-so400m"),
            "parameters": _parameters(preset(name, "nano"), "decoder"),
        }
        for name in DECODERS
    }  # fmt: skip
    towers = {name: {"tower": _tower_words(config), "parameters": _parameters(preset("nano", name), "vision_encoder")}
              for name, config in TOWERS.items()}  # fmt: skip
    models = {
        name: {
            "decoder": _decoder_words(vlm.config), "parameters": _parameters(vlm.config),
            "tower": _tower_words(vlm.config.vision) if vlm.config.vision else "none",
        }
        for name, vlm in VLMS.items()
    }  # fmt: skip
    if as_json:
        print_json({"presets": decoders, "towers": towers, "vision_language_models": models})
        return
    print_table("Presets", ("name", "decoder", "parameters", "usual tower"), [
        (name, facts["decoder"], _millions(facts["parameters"]), facts["tower"]) for name, facts in decoders.items()
    ])  # fmt: skip
    print_table("Vision-language models of others, presets too", ("name", "decoder", "tower", "parameters"), [
        (name, facts["decoder"], facts["tower"], _millions(facts["parameters"])) for name, facts in models.items()
    ])  # fmt: skip
    print_table("Towers", ("name", "what", "parameters"), [
        (name, facts["tower"], _millions(facts["parameters"])) for name, facts in towers.items()
    ])  # fmt: skip


def _parameters(config: ModelConfig, role: str | None = None) -> int | None:
    """Counted from the model as built, all roles together for None; None without torch or what the tower needs."""
    try:
        from himix_edge.evaluation.flops import parameters

        with without_logged_warnings():  # transformers looks at what is installed
            counts = parameters(config)
        return sum(counts.values()) if role is None else counts[role]
    except (ImportError, BackendMissing):
        return None


def _millions(count: object) -> str:
    return f"{count / 1e6:.1f} M" if isinstance(count, int) else "unknown"


def _costs(what: str, config: ModelConfig, text_tokens: int, size_of: tuple[int, int], as_json: bool) -> None:
    """The FLOPs of both architectures, part by part, the cache's bytes, and the weights' bytes at each precision."""
    if config.vision is None:
        raise InputError(f"{what}: no vision tower; --flops compares what an image costs")
    with extras.needed("torch", extras.TORCH):
        from himix_edge.evaluation.flops import (
            count_flops,
            himix_of,
            kv_bytes,
            picture_costs,
            picture_slots,
            vanilla_of,
        )
        from himix_edge.export.preflight import forecast
        from himix_edge.export.quantization.policy import POLICIES
    himix, vanilla = himix_of(config), vanilla_of(config)
    picture = picture_costs(vanilla, *size_of)
    ours, theirs = (count_flops(each, text_tokens, picture) for each in (himix, vanilla))
    tokens = picture_slots(config, picture)
    slots = tokens + text_tokens
    (image, _), (half_image, _) = (kv_bytes(himix, slots, width, picture) for width in (4, 2))
    (vanilla_image, cache), (half_vanilla, half_cache) = (kv_bytes(vanilla, slots, width, picture) for width in (4, 2))
    weights = {name: forecast(config, policy).weights for name, policy in POLICIES.items()}
    several = config.images is not None
    if as_json:
        print_json({
            "model": what, "architecture": config.architecture, "vision_tokens": tokens, "text_tokens": text_tokens,
            **({"picture": list(size_of), "tiles": picture.tiles} if several else {}),
            "flops": vars(ours), "vanilla_flops": vars(theirs), "image_kv_bytes": image,
            "vanilla_image_kv_bytes": vanilla_image, "cache_bytes": cache, "weight_bytes": weights,
        })  # fmt: skip
        return
    behind = f"{slots}" if not several else f"a picture and {text_tokens}"
    rows = [
        ("vision_encoder", ours.vision_encoder, theirs.vision_encoder),
        ("vision_injector (vanilla: connector)", ours.vision_injector, theirs.vision_injector),
        ("prefill, logits of the last position", ours.prefill, theirs.prefill),
        ("prefill as the paper counts it", ours.paper_prefill, theirs.paper_prefill),
        (f"a token behind {behind}", ours.token, theirs.token),
    ]
    giga = [(name, f"{a / 1e9:.4g}", f"{b / 1e9:.4g}", f"{b / max(a, 1):.2f}") for name, a, b in rows]
    title = f"{what}: GFLOPs, {tokens} vision tokens and {text_tokens} of text"
    if several:
        tiles = "a tile" if picture.tiles == 1 else f"{picture.tiles} tiles"
        click.echo(f"A picture of {size_of[0]} x {size_of[1]} is {tiles}; HiMix takes each as an image.")
    print_table(title, ("part", "HiMix", "vanilla", "vanilla / HiMix"), giga)
    print_table("Keys and values", ("", "float32, as the runtimes hold them", "in 2 bytes each"), [
        ("a kept image, HiMix", size(image), size(half_image)),
        ("a kept image, vanilla", size(vanilla_image), size(half_vanilla)),
        (f"the cache at {slots} slots, {'vanilla' if several else 'both'}", size(cache), size(half_cache)),
    ])  # fmt: skip
    print_table(f"Weights of the {config.architecture} model", ("precision", *weights["none"], "together"), [
        (name, *(size(count) for count in roles.values()), size(sum(roles.values()))) for name, roles in weights.items()
    ])  # fmt: skip


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_short(item)}" for name, item in value.items() if item is not None)
    return f"{value:.4f}" if isinstance(value, float) and value < 1 else str(value)
