"""The results page of the training runs: HiMix beside vanilla by skill and cost, ablations, what quantisation costs.

    python -m benchmarks.training_runs                 # the runs, see there
    python -m benchmarks.training_results [--runs DIR] [--out DIR]

Keeps the record of every finished run of DIR as OUT/NAME.json: runs/NAME/final's provenance and configuration, and
runs/NAME/eval-BUNDLE.json where there is any (`python -m benchmarks.training_bundles runs/NAME`).
Of all records in OUT, older ones too, it makes OUT/README.md and its plots.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.training_runs import RUNS, finished
from himix_edge.config import ModelConfig
from himix_edge.data import load_dataset
from himix_edge.evaluation.exact import interval
from himix_edge.evaluation.flops import Flops, count_flops
from himix_edge.training.recipe import DataPart

mpl.use("Agg")
SPLITS = {
    "test": "as trained",
    "test-style": "unseen style",
    "test-unseen": "unseen things",
    "test-wordings": "unseen wordings",
}
FAMILIES = ("nano", "small")
ABOUT = """\
Accuracies are shares of questions that are answered exactly, greedily, with Wilson's 95% intervals; those of several
seeds are of all their questions together, and the seeds' own are given beside them. "As trained" are new scenes like
those of training; each other test differs from them in one thing. `blind` learned and answered without images. Times of
one thread are of two runs beside each other, a core each; so were steps 100 to 900 of small-enhanced-vanilla. That run,
small's subsets of layers and small's blind model were made on another machine than small's others: compare their FLOPs.
`python -m benchmarks.training_runs` makes the runs, `python -m benchmarks.training_results` this page; each run's
record is beside it."""
SEED = re.compile(r"-(\d+)$")
TEXT_TOKENS = 24  # of a question in its template
Counts = dict[str, list[int]]  # skill -> [right, asked]


@dataclass
class Group:
    """Runs that differ in their seed alone."""

    name: str
    records: list[dict[str, Any]] = field(default_factory=list)
    config: ModelConfig | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = self.records[0]["recipe"]
        return recipe

    @property
    def tests(self) -> dict[str, DataPart]:
        """What was asked of each split."""
        return {part["split"]: DataPart(**part) for part in self.recipe["tests"]}

    def counts(self, split: str) -> Counts:
        """Of all seeds together."""
        total: Counts = defaultdict(lambda: [0, 0])
        for record in self.records:
            for skill, (right, asked) in record["tests"][f"{self.tests[split].name} {split}"]["by_skill"].items():
                total[skill][0] += right
                total[skill][1] += asked
        return total

    def accuracy(self, split: str) -> tuple[int, int]:
        """(right, asked)."""
        return summed(self.counts(split))

    def seeds(self, split: str) -> list[float]:
        """Each seed's accuracy."""
        return [record["tests"][f"{self.tests[split].name} {split}"]["accuracy"] for record in self.records]

    @cached_property
    def flops(self) -> Flops:
        """Of one image and one question."""
        assert self.config is not None
        return count_flops(self.config, TEXT_TOKENS)

    @property
    def decoder_flops(self) -> int:
        """What image and question cost in the decoder: injection (or connector and image tokens) and prefill."""
        return self.flops.vision_injector + self.flops.prefill


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the results page of the training runs.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("training"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keep_records(arguments.runs, arguments.out)
    groups = read_groups(arguments.out)
    if not groups:
        parser.error(f"{arguments.runs}: no finished run; make some with python -m benchmarks.training_runs")
    parts = ["# HiMix beside vanilla, trained for real", ABOUT]
    for family in FAMILIES:
        own = {name: group for name, group in groups.items() if name.startswith(f"{family}-")}
        if own:
            chance = chance_counts(next(iter(own.values())).tests)
            parts += [f"## {family}", overview(own, chance), skills(own, chance, arguments.out)]
            parts += [ablations(own), cost_plot(own, arguments.out / f"{family}-cost.png")]
    parts += [quantized_rows(arguments.out), commands(arguments.out)]
    page = arguments.out / "README.md"
    page.write_text("\n\n".join(part for part in parts if part) + "\n")
    print(page)


def keep_records(runs: Path, out: Path) -> None:
    """What finished runs of training_runs.RUNS say of themselves, as OUT/NAME.json."""
    for name in RUNS:
        final = runs / name / "final"
        record = finished(runs / name)
        if not record:
            continue
        bundles = {path.stem.removeprefix("eval-"): path for path in sorted((runs / name).glob("eval-*.json"))}
        record["config"] = json.loads((final / "config.json").read_text())
        record["bundles"] = {bundle: json.loads(path.read_text()) for bundle, path in bundles.items()}
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def read_groups(out: Path) -> dict[str, Group]:
    """All records, seeds together."""
    groups: dict[str, Group] = {}
    for name in RUNS:
        path = out / f"{name}.json"
        if path.is_file():
            group = groups.setdefault(SEED.sub("", name), Group(SEED.sub("", name)))
            group.records.append(json.loads(path.read_text()))
            group.config = ModelConfig.from_dict(group.records[0]["config"])
    return groups


def chance_counts(tests: dict[str, DataPart]) -> dict[str, Counts]:
    """What always giving a skill's commonest answer in training would score."""
    scores: dict[str, Counts] = {}
    for split, part in tests.items():
        common: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in load_dataset(part.name).first(3000).samples:
            for (turn,) in sample.conversations:
                common[turn.skill][turn.answer] += 1
        counts: Counts = defaultdict(lambda: [0, 0])
        for sample in load_dataset(part.name, split).samples[: part.samples]:
            for (turn,) in sample.conversations:
                counts[turn.skill][0] += turn.answer == common[turn.skill].most_common(1)[0][0]
                counts[turn.skill][1] += 1
        scores[split] = counts
    return scores


def summed(counts: Counts) -> tuple[int, int]:
    """(right, asked) over all skills."""
    return sum(right for right, _ in counts.values()), sum(asked for _, asked in counts.values())


def overview(groups: dict[str, Group], chance: dict[str, Counts]) -> str:
    """Accuracy of every group on every test, with what training and an answer cost."""
    rows = []
    for group in groups.values():
        cells = [f"{share(*group.accuracy(split))}{spread(group.seeds(split))}" for split in chance]
        decoder = "" if group.recipe["blind"] else f"{group.decoder_flops / 1e9:.2f}"
        runs = [(record, *parents(record)) for record in group.records]
        flops = sum(record["flops"]["all"] for run in runs for record in run) / len(runs) / 1e15
        minutes = sum(record["seconds"] for run in runs for record in run) / len(runs) / 60
        cost = f"{flops:.2f}", f"{minutes:.0f} min, {group.records[0]['device']}"
        rows.append([group.name, *cells, decoder, *cost])
    rows.append(["commonest answer of each skill", *(share(*summed(c)) for c in chance.values()), "", "", ""])
    heads = ["", *(SPLITS[split] for split in chance), "decoder GFLOPs an answer", "training PFLOPs", "training time"]
    note = (
        f"Decoder GFLOPs: injection (vanilla: connector and image tokens) and prefill of a question of {TEXT_TOKENS} "
        "tokens; the tower, the same for both, comes on top."
    )
    return f"{table(heads, rows)}\n\n{note}"


def parents(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a run goes on from."""
    before = record.get("before")
    return [before, *parents(before)] if before else []


def skills(groups: dict[str, Group], chance: dict[str, Counts], out: Path) -> str:
    """HiMix and vanilla side by side for every skill: a plot and a table for each recipe."""
    parts = []
    for name, himix in groups.items():
        vanilla = groups.get(f"{name}-vanilla")
        if vanilla is None:
            continue
        blind = groups.get(re.sub("regular|enhanced", "regular", name) + "-blind")
        for split, guessed in chance.items():
            rows, ours, theirs = [], himix.counts(split), vanilla.counts(split)
            order = sorted(ours, key=lambda skill: -ours[skill][0] / ours[skill][1])
            for skill in order:
                known = [c.get(skill, [0, 0]) for c in ((blind.counts(split) if blind else {}), guessed)]
                rows.append([skill, ours[skill][1], share(*ours[skill]), share(*theirs[skill]), *map(percent, known)])
            total = share(*himix.accuracy(split)), share(*vanilla.accuracy(split))
            rest = percent(blind.accuracy(split)) if blind else "", percent(summed(guessed))
            rows.append(["**all**", himix.accuracy(split)[1], *total, *rest])
            heads = ["skill", "asked", "HiMix", "vanilla", "blind", "chance"]
            parts.append(f"#### {name}, {SPLITS[split]}\n\n{table(heads, rows)}")
        plot = out / f"{name}-skills.png"
        skill_plot(himix, vanilla, plot)
        parts.append(f"![{name}: accuracy by skill]({plot.name})")
    return "### By skill\n\n" + "\n\n".join(parts) if parts else ""


def ablations(groups: dict[str, Group]) -> str:
    """Variants of HiMix beside the whole one, each of one seed."""
    rows, splits = [], list(next(iter(groups.values())).tests)
    for name, group in groups.items():
        if "-regular" in name and not name.endswith(("vanilla", "blind")):
            assert group.config is not None
            layers = ", ".join(map(str, group.config.injection.layers or ["all"]))
            cost = f"{group.flops.vision_injector / 1e6:.1f}"
            rows.append([name, layers, *(share(*group.accuracy(split)) for split in splits), cost])
    heads = ["", "injection into layers", *(SPLITS[split] for split in splits), "injection MFLOPs"]
    return f"### Ablations\n\n{table(heads, rows)}" if len(rows) > 1 else ""


def cost_plot(groups: dict[str, Group], path: Path) -> str:
    """Accuracy against the decoder's FLOPs, the shape of the paper's Figure 1; dashed: without images."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, group in enumerate(groups.values()):
        right, asked = group.accuracy("test")
        low, high = interval(right, asked)
        middle = right / asked
        if group.recipe["blind"]:
            axes.axhline(middle, color="tab:gray", linestyle="--", label=group.name)
            continue
        errors = [[max(0.0, middle - low)], [max(0.0, high - middle)]]  # rounding
        marker = "s" if "vanilla" in group.name else "o"
        axes.errorbar(
            group.decoder_flops / 1e9, middle, errors, fmt=marker, capsize=3, color=f"C{number}", label=group.name
        )
    axes.set(xlabel="GFLOPs of image and question in the decoder", ylabel="answered exactly", xlim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return f"### Accuracy against cost\n\n![accuracy against decoder FLOPs]({path.name})"


def skill_plot(himix: Group, vanilla: Group, path: Path) -> None:
    """Bars with intervals, a panel for each test."""
    figure, panels = pyplot.subplots(len(himix.tests), sharex=True, figsize=(9, 10), layout="constrained")
    order = sorted(himix.counts("test"))
    for axes, split in zip(panels, himix.tests, strict=True):
        for number, (group, color) in enumerate(((himix, "tab:blue"), (vanilla, "tab:gray"))):
            counts = group.counts(split)
            shares = [counts[s][0] / counts[s][1] if counts[s][1] else 0.0 for s in order]
            ends = [interval(*counts[s]) if counts[s][1] else (0.0, 0.0) for s in order]
            below = [max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)]
            above = [max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)]
            places = [i + 0.4 * number for i in range(len(order))]
            axes.bar(places, shares, 0.38, yerr=[below, above], capsize=2, color=color, label=group.name)
        axes.set(ylabel=SPLITS[split], ylim=(0, 1.05))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", frameon=False, ncols=2)
    panels[-1].set_xticks([i + 0.2 for i in range(len(order))], order, rotation=30)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def quantized_rows(out: Path) -> str:
    """What bundles answered, and what they lost to the float32 model on the same questions."""
    rows = []
    for name in RUNS:
        path = out / f"{name}.json"
        results = json.loads(path.read_text())["bundles"] if path.is_file() else {}
        for bundle, result in results.items():
            lost = results["pytorch"]["right"] / results["pytorch"]["asked"] - result["right"] / result["asked"]
            rows.append([name, bundle, result["asked"], share(result["right"], result["asked"]), f"{100 * lost:.1f}"])
    heads = ["run", "bundle", "asked", "answered exactly", "points lost"]
    return f"## Quantised\n\n`python -m benchmarks.training_bundles RUN`\n\n{table(heads, rows)}" if rows else ""


def commands(out: Path) -> str:
    """The command that makes every run."""
    lines = [
        f"himix train {' '.join(quoted(word) for word in options)} --out runs/{name}"
        for name, options in RUNS.items()
        if (out / f"{name}.json").is_file()
    ]
    return "## Commands\n\n```sh\n" + "\n".join(lines) + "\n```"


def quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s{\[]", word) else word


def share(right: int, asked: int) -> str:
    """A share with its interval."""
    if not asked:
        return ""
    low, high = interval(right, asked)
    return f"{right / asked:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def percent(counts: Sequence[int]) -> str:
    return f"{counts[0] / counts[1]:.1%}" if counts[1] else ""


def spread(seeds: list[float]) -> str:
    """The seeds' own accuracies, if there are several."""
    return f" [{', '.join(f'{100 * seed:.1f}' for seed in seeds)}]" if len(seeds) > 1 else ""


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = [list(heads), ["---"] * len(list(heads)), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
