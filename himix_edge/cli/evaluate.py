"""himix eval: accuracy of a bundle or a checkpoint on a dataset, or its perplexity on a text."""

import time
from pathlib import Path

import click

from himix_edge.cli.console import print_json, print_table, track
from himix_edge.cli.options import (
    cache_bits,
    examples,
    kept_bits,
    refuse_without_bundle,
    structure_of,
    structured,
    with_adapter,
)
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.evaluation.asking import answer_all, require_images
from himix_edge.evaluation.exact import Score, ask_all, interval
from himix_edge.evaluation.perplexity import perplexity, read_text
from himix_edge.evaluation.talking import Way
from himix_edge.evaluation.task import Task, TaskQuestion, find_task, task_names
from himix_edge.files import sha256, staged_file
from himix_edge.manifest import MANIFEST
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.reading import JsonObject
from himix_edge.runtimes import Session, open_bundle, open_checkpoint
from himix_edge.runtimes.hub import local_bundle


@click.command(
    "eval",
    short_help="Count right answers, or measure perplexity.",
    epilog=examples("himix eval --bundle bundles/nano-onnx-int8 --limit 500", "himix eval --model nano --text LICENSE"),
)
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [default: --model in PyTorch]")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A shipped model or a checkpoint folder.")
@click.option(
    "--task",
    default="easy-vqa",
    show_default=True,
    help=f"easy-vqa, emoji-scenes, a LLaVA-format .json file, or with --data-folder {', '.join(task_names())}.",
)
@click.option("--data-folder", type=click.Path(path_type=Path), help="The folder of a published task's files.")
@click.option("--answers", type=click.Path(path_type=Path), help="Write a published task's answers in its own format.")
@click.option("--force", is_flag=True, help="Replace an existing file of --answers.")
@click.option("--text", type=click.Path(path_type=Path), help="Measure the perplexity of this text file instead.")
@click.option("--max-tokens", type=click.IntRange(min=2), default=512, show_default=True, help="Of --text.")
@click.option(
    "--split",
    help="emoji-scenes: test, test-style, test-unseen, test-wordings. [default: test; a published task's own]",
)
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the file's or task's images are.")
@kept_bits
@cache_bits
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first so many questions.")
@structured
@click.option(
    "--likelihood",
    is_flag=True,
    help="Take the likeliest choice for the answer: of --choices, or of those that a published task gives.",
)
@with_adapter
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    bundle: Path | None,
    model: str,
    task: str,
    data_folder: Path | None,
    answers: Path | None,
    force: bool,
    text: Path | None,
    max_tokens: int,
    split: str | None,
    image_folder: Path | None,
    image_bits: int,
    kv_bits: int,
    limit: int | None,
    json_schema: Path | None,
    regex: str | None,
    choices: tuple[str, ...],
    likelihood: bool,
    adapter: Path | None,
    as_json: bool,
) -> None:
    """Ask every question greedily and count the answers that are right: exactly, or as a published task judges them."""
    structure = structure_of(json_schema, regex, choices)
    if likelihood and structure is not None and not choices:
        raise InputError("--likelihood takes --choices; --json-schema and --regex allow answers without number")
    if text and (likelihood or structure is not None):
        raise InputError("--text measures perplexity; --likelihood and structures are of answers")
    way = Way(choices=choices) if likelihood else Way(structure)
    if task in task_names() and not text:
        _published(
            bundle, model, task, data_folder, answers, force, split, image_folder, image_bits, kv_bits, limit, way,
            likelihood,
            adapter,
            as_json,
        )  # fmt: skip
        return
    if likelihood and not choices:
        raise InputError(f"--likelihood: {task} has no choices of its own; add --choices for each")
    if data_folder or answers:
        raise InputError(f"--data-folder and --answers are for a --task of {', '.join(task_names())}")
    split = split or "test"
    content = read_text(text) if text else ""
    folder = local_bundle(bundle) if bundle else None
    session = _open(folder, model, adapter, kv_bits)
    subject = _subject(bundle, folder, model, adapter, image_bits, kv_bits)
    if text:
        value, count = perplexity(session, content, max_tokens, lambda r: track(r, f"reading {text.name}"))
        if as_json:
            print_json({**subject, "text": str(text), "tokens": count, "perplexity": value})
        else:
            click.echo(f"{bundle or model}: perplexity {value:.4f} over {count} tokens of {text}")
        return
    dataset = load_dataset(task, split, image_folder)
    score, began = Score(), time.monotonic()
    total = sum(len(turns) for sample in dataset.samples for turns in sample.conversations)
    total = min(total, limit or total)
    for turn, given in track(ask_all(session, dataset, limit, way, image_bits), f"asking {task}", total):
        score.add(turn, given)
    seconds = time.monotonic() - began
    by = "by_skill" if any(t.skill for s in dataset.samples for talk in s.conversations for t in talk) else "by_answer"
    result = {
        **subject, "task": task, "split": split, "asked": score.asked.total(),
        "right": score.right.total(), "accuracy": score.accuracy, "seconds": round(seconds, 1), "answers_by": _by(way),
        "interval": interval(score.right.total(), score.asked.total()),
        by: {kind: score.right[kind] / count for kind, count in score.asked.most_common()},
    }  # fmt: skip
    if as_json:
        print_json(result)
        return
    rows = [
        (kind, count, score.right[kind] / count, "{:.3f} to {:.3f}".format(*interval(score.right[kind], count)))
        for kind, count in score.asked.most_common(20)
    ]
    columns = (by.removeprefix("by_"), "asked", "right", "95% interval")
    print_table(f"{result['model']} on {task} ({split})", columns, rows)
    low, high = interval(score.right.total(), score.asked.total())
    click.echo(
        f"{score.accuracy:.2%} of {score.asked.total()} questions answered exactly (95% interval {low:.2%} to "
        f"{high:.2%}), in {seconds:.0f} s"
    )


def _open(bundle: Path | None, model: str, adapter: Path | None, kv_bits: int) -> Session:
    refuse_without_bundle(bundle, None, None, adapter, kv_bits)
    return open_bundle(bundle, adapter=adapter, kv_bits=kv_bits) if bundle else open_checkpoint(model)


def _subject(
    bundle: Path | None, folder: Path | None, model: str, adapter: Path | None, image_bits: int, kv_bits: int
) -> JsonObject:
    """What was asked, for the JSON; `folder` is where the bundle is here, and a checkpoint has no manifest."""
    return {
        "model": str(bundle or model), "manifest_sha256": sha256(folder / MANIFEST) if folder else None,
        "adapter": str(adapter) if adapter else None, "image_bits": image_bits, "kv_bits": kv_bits,
    }  # fmt: skip


def _by(way: Way) -> str:
    if way.choices:
        return "likelihood"
    return "text" if way.structure is None else "structured text"


def _ways(published: Task, task: str, questions: list[TaskQuestion]) -> list[Way]:
    """Each question's own choices; an open one's answer is said."""
    if published.choices is None:
        raise InputError(f"--likelihood: {task} asks open questions; add --choices to hold its answers to some")
    return [Way(choices=published.choices(question)) for question in questions]


def _published(
    bundle: Path | None,
    model: str,
    task: str,
    data_folder: Path | None,
    answers: Path | None,
    force: bool,
    split: str | None,
    image_folder: Path | None,
    image_bits: int,
    kv_bits: int,
    limit: int | None,
    way: Way,
    likelihood: bool,
    adapter: Path | None,
    as_json: bool,
) -> None:
    published = find_task(task)
    if data_folder is None:
        raise InputError(f"{task} is read from your own files; give --data-folder DIR with {published.needs}")
    split = split or published.splits[0]
    if split not in published.splits:
        raise InputError(f"{task} has no split {split!r}; it has {', '.join(published.splits)}")
    questions = published.read(data_folder, split, image_folder)
    if not questions:
        raise InputError(f"{data_folder}: holds no questions of {task} ({split})")
    of, questions = len(questions), questions[:limit]
    ways = _ways(published, task, questions) if likelihood and not way.choices else way
    score = published.score if all(question.answers for question in questions) else None
    if score is None and answers is None:
        raise InputError(f"{task} ({split}) is scored elsewhere; give --answers FILE to write the answers for it")
    if answers and not force and answers.is_file() and answers.stat().st_size:
        raise InputError(f"{answers}: exists; add --force to replace it or choose another --answers")
    require_images(questions)
    folder = local_bundle(bundle) if bundle else None
    session = _open(folder, model, adapter, kv_bits)
    subject, began = _subject(bundle, folder, model, adapter, image_bits, kv_bits), time.monotonic()
    asking = answer_all(session, questions, published.max_new_tokens, ways, image_bits)
    given = list(track(asking, f"asking {task}", len(questions)))
    seconds = time.monotonic() - began
    if answers:
        with staged_file(answers, lambda _: force) as staged:
            staged.write_text(published.write(questions, given), encoding="utf-8")
    measures = score(questions, given) if score else []
    if as_json:
        print_json({
            **subject, "task": task, "split": split, "asked": len(questions), "of": of,
            "seconds": round(seconds, 1), "answers_by": "likelihood" if likelihood else _by(way),
            "answers": str(answers) if answers else None,
            "scores": {
                m.name: {"value": m.value, "questions": m.questions, "interval": m.interval} for m in measures
            },
        })  # fmt: skip
        return
    if measures:
        rows = [(m.name, m.questions, m.value, "{:.4g} to {:.4g}".format(*m.interval)) for m in measures]
        print_table(f"{bundle or model} on {task} ({split})", ("score", "over", "value", "95% interval"), rows)
    written = f"; answers in {answers}" if answers else ""
    click.echo(f"asked {len(questions)} of {of} questions in {seconds:.0f} s{written}")
