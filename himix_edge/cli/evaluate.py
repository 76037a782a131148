"""himix eval: accuracy of a bundle or a checkpoint on a dataset, or its perplexity on a text."""

import time
from pathlib import Path

import click
from rich.progress import track

from himix_edge.cli.console import print_json, print_table, progress_console
from himix_edge.data import load_dataset
from himix_edge.evaluation.exact import Score, ask_all, interval
from himix_edge.evaluation.perplexity import perplexity, read_text
from himix_edge.presets import DEFAULT_MODEL
from himix_edge.runtimes import open_bundle, open_checkpoint


@click.command("eval")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [default: --model in PyTorch]")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A shipped model or a checkpoint folder.")
@click.option(
    "--task", default="easy-vqa", show_default=True, help="easy-vqa, emoji-scenes, or a LLaVA-format .json file."
)
@click.option("--text", type=click.Path(path_type=Path), help="Measure the perplexity of this text file instead.")
@click.option("--max-tokens", type=click.IntRange(min=2), default=512, show_default=True, help="Of --text.")
@click.option("--split", default="test", show_default=True, help="emoji-scenes also has test-style and test-unseen.")
@click.option("--image-folder", type=click.Path(path_type=Path), help="Where the .json file's images are.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first so many questions.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    bundle: Path | None,
    model: str,
    task: str,
    text: Path | None,
    max_tokens: int,
    split: str,
    image_folder: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Ask every question greedily and count the answers that are exactly right."""
    content = read_text(text) if text else ""
    session = open_bundle(bundle) if bundle else open_checkpoint(model)
    if text:
        value, count = perplexity(
            session, content, max_tokens, lambda r: track(r, f"reading {text.name}", console=progress_console)
        )
        if as_json:
            print_json({"model": str(bundle or model), "text": str(text), "tokens": count, "perplexity": value})
        else:
            click.echo(f"{bundle or model}: perplexity {value:.4f} over {count} tokens of {text}")
        return
    dataset = load_dataset(task, split, image_folder)
    score, began = Score(), time.monotonic()
    total = sum(len(turns) for sample in dataset.samples for turns in sample.conversations)
    answers = ask_all(session, dataset, limit)
    total = min(total, limit or total)
    for turn, given in track(answers, f"asking {task}", total=total, console=progress_console):
        score.add(turn, given)
    seconds = time.monotonic() - began
    by = "by_skill" if any(t.skill for s in dataset.samples for talk in s.conversations for t in talk) else "by_answer"
    result = {
        "model": str(bundle or model), "task": task, "split": split, "asked": score.asked.total(),
        "right": score.right.total(), "accuracy": score.accuracy, "seconds": round(seconds, 1),
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
