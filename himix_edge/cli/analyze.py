"""himix analyze: the paper's Figure 2 for one's own vanilla model, and which layers need the image."""

import dataclasses
import json
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from himix_edge import extras
from himix_edge.cli.console import print_json, print_table, progress_console, track
from himix_edge.cli.options import examples
from himix_edge.errors import InputError
from himix_edge.folders import Replacing, staged_folder

if TYPE_CHECKING:
    from himix_edge.data import Sample

FILE, PLOT = "similarity.json", "similarity.png"
IMAGES = 64  # of --layers


class Result(TypedDict):
    """similarity.json."""

    model: str
    images: int
    prompts: int
    vision_tokens: int
    text_tokens: int
    data: str
    tools: dict[str, str]
    layers: list[dict[str, float]]


@click.command(
    short_help="How little a vanilla decoder changes its image tokens.",
    epilog=examples(
        "himix analyze --model runs/nano-vanilla/final --out figure2",
        "himix analyze --model runs/nano-vanilla/final --layers --data talks.json",
    ),
)
@click.option("--model", required=True, help="A vanilla checkpoint (himix train --vanilla, himix convert --vanilla).")
@click.option("--data", help="A LLaVA-format .json file or a data set. [default: the shipped probe images]")
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json file's images are.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first so many images. [--layers: 64]")
@click.option("--layers", is_flag=True, help="Measure which layers need the image; for HiMix models too.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for similarity.json and similarity.png.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def analyze(
    model: str,
    data: str | None,
    image_folder: Path | None,
    limit: int | None,
    layers: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how little each decoder layer of a vanilla model changes its image tokens (paper, Figure 2).

    For every layer: the cosine similarity between what enters and what leaves it, for image tokens and text tokens
    apart. Image tokens that hardly change are what HiMix does without.

    With --layers, on a question about each image: the share of each layer's attention that goes to the image, and the
    loss of the data's answer where the layer does not see it; then with one layer less after the other, the least
    needed first.
    """
    with extras.needed("torch", extras.TRAIN):
        import torch  # noqa: F401
    if layers:
        if out:
            raise InputError("--out is the folder of the similarities; --layers prints a table, or JSON with --json")
        _layers(model, data, image_folder, limit or IMAGES, as_json)
        return
    if out:
        _require_matplotlib()
        with staged_folder(out, Replacing("result of himix analyze", force=True)) as staged:
            result = _measure(model, data, image_folder, limit)
            (staged / FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            _plot(result, staged / PLOT)
    else:
        result = _measure(model, data, image_folder, limit)
    if as_json:
        print_json(result)
        return
    rows = [[layer[name] for name in ("layer", "vision_mean", "vision_std", "text_mean", "text_std")]
            for layer in result["layers"]]  # fmt: skip
    print_table("Cosine similarity across each layer", ("layer", "image", "± std", "text", "± std"), rows)
    if out:
        click.echo(f"{out / FILE}, {out / PLOT}")


def _samples(data: str | None, image_folder: Path | None, limit: int | None) -> "list[Sample]":
    from himix_edge.data import load_dataset
    from himix_edge.presets import SHIPPED

    records = load_dataset(data or str(SHIPPED / "probe" / "probe.json"), image_folder=image_folder).samples
    return list(islice((sample for sample in records if sample.image), limit))


def _layers(model: str, data: str | None, image_folder: Path | None, limit: int, as_json: bool) -> None:
    from himix_edge.checkpoints import open_source
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.distillation.layers import image_use, require_image_in_cache
    from himix_edge.distillation.losses import one_question_each
    from himix_edge.training.pixels import ImageLoader

    source = open_source(model)
    vision = require_image_in_cache(source.config)
    samples = one_question_each(_samples(data, image_folder, limit))
    opened = assemble(source.config, source.weights, source.where)
    text, before = source.load_text(), source.words_before_a_picture()
    use = image_use(
        opened, text, samples, ImageLoader(vision), lambda r: track(r, "leaving layers out"), before
    )  # fmt: skip
    choice = use.choice(None)
    if as_json:
        print_json({"model": model, "data": data or "probe", "images": len(samples), **dataclasses.asdict(use),
                    "choice": choice})  # fmt: skip
        return
    print_table(
        f"Losses of the answers about {len(samples)} images, nats a token: {use.loss:.4f} with the image in all "
        f"layers, {use.blind:.4f} in none",
        ("layer", "attention to the image", "loss without", "left out as", "loss then"),
        [(one.layer, one.attention, one.loss_without, len(use.layers) - one.needed, one.loss_then)
         for one in use.layers],
    )  # fmt: skip
    click.echo(f"2% of what the image is worth is lost with {len(choice)}: --injection-layers {_numbers(choice)}")


def _numbers(layers: tuple[int, ...]) -> str:
    return ",".join(map(str, layers))


def _measure(model: str, data: str | None, image_folder: Path | None, limit: int | None) -> Result:
    import torch

    from himix_edge.checkpoints import open_source
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.evaluation.similarity import analyze, require_vision_sequence

    source = open_source(model)
    require_vision_sequence(source.config)  # before the weights are read
    samples = _samples(data, image_folder, limit)
    with progress_console.status("running the model"):
        found = analyze(assemble(source.config, source.weights, source.where), source.load_text(), samples)
    return {
        "model": model, "images": found.images, "prompts": found.prompts,
        "vision_tokens": source.config.vision.num_tokens, "text_tokens": found.text_tokens,  # type: ignore[union-attr]
        "data": data or "probe", "tools": {"himix-edge": version("himix-edge"), "torch": torch.__version__},
        "layers": [dataclasses.asdict(layer) for layer in found.layers],
    }  # fmt: skip


def _require_matplotlib() -> None:
    with extras.needed("matplotlib", extras.TRAIN):
        import matplotlib  # noqa: F401


def _plot(result: Result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    numbers = [layer["layer"] for layer in result["layers"]]
    for kind, label, color in (("vision", "image tokens", "tab:orange"), ("text", "text tokens", "tab:blue")):
        mean = [layer[f"{kind}_mean"] for layer in result["layers"]]
        std = [layer[f"{kind}_std"] for layer in result["layers"]]
        axes.plot(numbers, mean, marker="o", label=label, color=color)
        low = [m - s for m, s in zip(mean, std, strict=True)]
        high = [min(m + s, 1.0) for m, s in zip(mean, std, strict=True)]
        axes.fill_between(numbers, low, high, alpha=0.2, color=color)
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("cosine similarity of its input and output")
    many = "image" if result["images"] == 1 else "images"
    axes.set_title(f"{Path(result['model']).name}: {result['images']} {many}, {result['vision_tokens']} tokens each")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
