"""himix run: ask a bundle or a checkpoint about images."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, Unpack

import click

from himix_edge.cli.console import print_json
from himix_edge.cli.options import (
    cache_bits,
    examples,
    kept_bits,
    on_provider,
    refuse_without_bundle,
    structure_of,
    structured,
    with_adapter,
)
from himix_edge.errors import InputError
from himix_edge.files import refuse_foreign_file
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.runtimes import Chat, ImageKV, Session, Structure, open_bundle, open_checkpoint
from himix_edge.runtimes.image_kv import is_image_kv
from himix_edge.runtimes.stopping import StopTexts


class Settings(TypedDict):
    """How an answer is made, see `Session.generate`."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]


@click.command(
    short_help="Ask questions about images.",
    epilog=examples(
        'himix run --bundle bundles/nano-onnx-int8 --image photo.png --prompt "What shape is this?"',
        "himix run --model small --image photo.png --chat",
    ),
)
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="Image file; several are joined."
)
@click.option("--image-kv", type=click.Path(path_type=Path), help="A saved ImageKV in place of --image.")
@click.option("--save-image-kv", type=click.Path(path_type=Path), help="Keep the image's keys and values here.")
@kept_bits
@click.option(
    "--prompt", "prompts", multiple=True, help="Question; several are asked one by one, the image encoded once."
)
@click.option("--chat", is_flag=True, help="Treat the prompts as turns of one conversation; without any, read them.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [default: --model in PyTorch]")
@click.option("--model", help=f"A shipped model or a checkpoint folder. [default: {DEFAULT_MODEL}]")
@click.option("--max-new-tokens", type=int, help="[default: the model's]")
@click.option("--temperature", type=float, help="0 is greedy. [default: the model's]")
@click.option("--top-p", type=float, help="Nucleus sampling. [default: the model's]")
@click.option("--seed", type=click.IntRange(min=0), help="Makes sampling repeatable.")
@click.option("--stop", multiple=True, help="A text that ends the answer.")
@structured
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of an exported bundle.")
@on_provider
@with_adapter
@cache_bits
@click.option("--json", "as_json", is_flag=True, help="Print answers and times as JSON.")
def run(
    images: tuple[Path, ...],
    image_kv: Path | None,
    save_image_kv: Path | None,
    image_bits: int,
    prompts: tuple[str, ...],
    chat: bool,
    bundle: Path | None,
    model: str | None,
    threads: int | None,
    provider: str | None,
    adapter: Path | None,
    kv_bits: int,
    json_schema: Path | None,
    regex: str | None,
    choices: tuple[str, ...],
    as_json: bool,
    **settings: Unpack[Settings],
) -> None:
    """Ask questions about images; answers are streamed, the time of each stage follows."""
    if not prompts and not chat:
        raise InputError("no --prompt; give one, or --chat to type them")
    if image_kv and images:
        raise InputError("--image and --image-kv exclude each other")
    if save_image_kv:
        if not images and not image_kv:
            raise InputError("--save-image-kv: there is no image; add --image")
        refuse_foreign_file(save_image_kv, is_image_kv)
    if bundle and model is not None:
        raise InputError("--bundle and --model exclude each other")
    refuse_without_bundle(bundle, threads, provider, adapter, kv_bits)
    StopTexts(settings["stop"])  # refused before the model is opened
    structure = structure_of(json_schema, regex, choices)
    session = (
        open_bundle(bundle, threads, provider, adapter, kv_bits) if bundle else open_checkpoint(model or DEFAULT_MODEL)
    )
    vision, encoding = _vision(session, images, image_kv, image_bits)
    if save_image_kv and vision is not None:
        vision.save(save_image_kv)
    conversation = session.chat(vision)
    questions = iter(prompts) if prompts else _typed()
    answers = []
    for question in questions:
        speaker = conversation if chat else session.chat(vision)
        answer = _ask(speaker, question, not as_json, settings, structure)
        if encoding:  # the first question pays for the image
            session.stats.preprocess, session.stats.vision_encoder, session.stats.vision_injector = encoding
            session.stats.ttft += sum(encoding)
            encoding = None
        if as_json:
            stats, sure = dataclasses.asdict(session.stats), session.stats.probability
            answers.append({"prompt": question, "answer": answer, "probability": sure, "stats": stats})
        else:
            click.echo(click.style(f"  [{session.stats}]", dim=True))
    if as_json:
        print_json({"model": str(bundle or model or DEFAULT_MODEL), "answers": answers})


def _typed() -> Iterator[str]:
    """Questions from the terminal, until an empty line or the end of input."""
    while True:
        try:
            question = click.prompt("you", prompt_suffix="> ", default="", show_default=False)
        except click.Abort:
            click.echo()
            return
        if not question.strip():
            return
        yield question


def _vision(
    session: Session, images: tuple[Path, ...], saved: Path | None, bits: int
) -> tuple[ImageKV | None, tuple[float, float, float] | None]:
    """The images' K/V and, if they were encoded here, the milliseconds of the three image stages."""
    if saved:
        return ImageKV.load(saved, session.max_image_kv_bytes).in_bits(bits), None
    if not images:
        return None, None
    vision = session.encode_images(images, bits)
    return vision, (session.stats.preprocess, session.stats.vision_encoder, session.stats.vision_injector)


def _ask(chat: Chat, question: str, show: bool, settings: Settings, structure: Structure | None) -> str:
    """Stream one answer to standard output and return it."""
    answer = ""
    for piece in chat.send(question, **settings, structure=structure):
        if show and not answer:
            click.echo(f"{question}\n  ", nl=False)
        answer += piece.text
        if show:
            click.echo(piece.text, nl=False)
    if show:
        click.echo()
    return answer
