"""The results page of the training runs: HiMix beside vanilla by skill and cost, ablations, what quantisation costs.

    python -m benchmarks.training_runs                 # the runs, see there
    python -m benchmarks.training_results [--runs DIR] [--out DIR]

Reads runs/NAME/final/provenance.json, and runs/NAME/eval-BUNDLE.json where there is any: the output of
`himix eval --bundle BUNDLE --task emoji-scenes --json`. Writes OUT/results.md and its plots. Accuracies are shares of
questions that are answered exactly, greedily, with Wilson's 95% intervals; those of several seeds are of all their
questions together, and the seeds' own are given beside them.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.training_runs import RUNS
from himix_edge.config import ModelConfig
from himix_edge.data import load_dataset
from himix_edge.evaluation.exact import interval
from himix_edge.evaluation.flops import Flops, count_flops

mpl.use("Agg")
TESTS = {
    "emoji-scenes test": "as trained",
    "emoji-scenes test-style": "unseen style",
    "emoji-scenes test-unseen": "unseen things",
    "emoji-scenes test-wordings": "unseen wordings",
}
SEED = re.compile(r"-(\d+)$")
TEXT_TOKENS = 24  # of a question in its template
Counts = dict[str, list[int]]  # skill -> [right, asked]


@dataclass
class Group:
    """Runs that differ in their seed alone."""

    name: str
    records: list[dict[str, Any]] = field(default_factory=list)
    config: ModelConfig | None = None

    def counts(self, test: str) -> Counts:
        """Of all seeds together."""
        total: Counts = defaultdict(lambda: [0, 0])
        for record in self.records:
            for skill, (right, asked) in record["tests"][test]["by_skill"].items():
                total[skill][0] += right
                total[skill][1] += asked
        return total

    def accuracy(self, test: str) -> tuple[int, int]:
        """(right, asked)."""
        counts = self.counts(test).values()
        return sum(right for right, _ in counts), sum(asked for _, asked in counts)

    def seeds(self, test: str) -> list[float]:
        """Each seed's accuracy."""
        return [record["tests"][test]["accuracy"] for record in self.records]

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
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    arguments = parser.parse_args()
    groups = read_groups(arguments.runs)
    if not groups:
        parser.error(f"{arguments.runs}: no finished run; make some with python -m benchmarks.training_runs")
    arguments.out.mkdir(parents=True, exist_ok=True)
    chance = chance_counts()
    parts = ["# HiMix beside vanilla, trained for real", __doc__.split("\n\n")[-1].strip()]
    parts += [overview(groups, chance), skills(groups, chance, arguments.out), ablations(groups)]
    parts += [cost_plot(groups, arguments.out), quantised(arguments.runs), commands(groups)]
    page = arguments.out / "results.md"
    page.write_text("\n\n".join(part for part in parts if part) + "\n")
    print(page)


def read_groups(runs: Path) -> dict[str, Group]:
    """The finished runs of training_runs.RUNS, seeds together."""
    groups: dict[str, Group] = {}
    for name in RUNS:
        final = runs / name / "final"
        if not (final / "provenance.json").is_file():
            continue
        record = json.loads((final / "provenance.json").read_text())
        if "tests" not in record:
            continue
        group = groups.setdefault(SEED.sub("", name), Group(SEED.sub("", name)))
        group.records.append(record)
        group.config = ModelConfig.from_dict(json.loads((final / "config.json").read_text()))
    return groups


def chance_counts() -> dict[str, Counts]:
    """What always giving a skill's commonest answer in training would score."""
    common: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in load_dataset("emoji-scenes").first(3000).samples:
        for (turn,) in sample.conversations:
            common[turn.skill][turn.answer] += 1
    scores: dict[str, Counts] = {}
    for test in TESTS:
        name, split = test.split()
        counts: Counts = defaultdict(lambda: [0, 0])
        for sample in load_dataset(name, split).samples:
            for (turn,) in sample.conversations:
                counts[turn.skill][0] += turn.answer == common[turn.skill].most_common(1)[0][0]
                counts[turn.skill][1] += 1
        scores[test] = counts
    return scores


def overview(groups: dict[str, Group], chance: dict[str, Counts]) -> str:
    """Accuracy of every group on every test, with what training and an answer cost."""
    rows = []
    for group in groups.values():
        record = group.records[0]
        cells = [f"{share(*group.accuracy(test))}{spread(group.seeds(test))}" for test in TESTS]
        training = f"{record['flops']['all'] / 1e15:.2f}", f"{record['seconds'] / 60:.0f} min, {record['device']}"
        decoder = "" if record["recipe"]["blind"] else f"{group.decoder_flops / 1e9:.2f}"
        rows.append([group.name, *cells, decoder, *training])
    total = [share(sum(r for r, _ in c.values()), sum(a for _, a in c.values())) for c in chance.values()]
    rows.append(["commonest answer of each skill", *total, "", "", ""])
    heads = ["", *TESTS.values(), "decoder GFLOPs an answer", "training PFLOPs", "training time"]
    note = (
        f"Decoder GFLOPs: injection (vanilla: connector and image tokens) and prefill of a question of {TEXT_TOKENS} "
        "tokens; the tower, the same for both, comes on top."
    )
    return f"## All runs\n\n{table(heads, rows)}\n\n{note}"


def skills(groups: dict[str, Group], chance: dict[str, Counts], out: Path) -> str:
    """HiMix and vanilla side by side for every skill: a plot and a table for each recipe."""
    parts = []
    for name, himix in groups.items():
        vanilla = groups.get(f"{name}-vanilla")
        if vanilla is None:
            continue
        blind = groups.get(re.sub("regular|enhanced", "regular", name) + "-blind")
        for test, label in TESTS.items():
            rows, ours, theirs = [], himix.counts(test), vanilla.counts(test)
            order = sorted(ours, key=lambda skill: -ours[skill][0] / ours[skill][1])
            for skill in order:
                known = [c.get(skill, [0, 0]) for c in ((blind.counts(test) if blind else {}), chance[test])]
                rows.append([skill, ours[skill][1], share(*ours[skill]), share(*theirs[skill]), *map(percent, known)])
            total = share(*himix.accuracy(test)), share(*vanilla.accuracy(test))
            rows.append(["**all**", himix.accuracy(test)[1], *total, "", ""])
            heads = ["skill", "asked", "HiMix", "vanilla", "blind", "chance"]
            parts.append(f"### {name}, {label}\n\n{table(heads, rows)}")
        plot = out / f"{name}-skills.png"
        skill_plot(himix, vanilla, plot)
        parts.append(f"![{name}: accuracy by skill]({plot.name})")
    return "## By skill\n\n" + "\n\n".join(parts) if parts else ""


def ablations(groups: dict[str, Group]) -> str:
    """Variants of HiMix beside the whole one, each of one seed."""
    rows = []
    for base in ("nano-regular", "small-regular"):
        for name, group in groups.items():
            kept = name == base or (name.startswith(f"{base}-") and not name.endswith(("vanilla", "blind")))
            if kept:
                cost = f"{group.flops.vision_injector / 1e6:.1f}"
                rows.append([name, *(share(*group.accuracy(test)) for test in TESTS), cost])
    heads = ["", *TESTS.values(), "injection MFLOPs"]
    return f"## Ablations\n\n{table(heads, rows)}" if len(rows) > 1 else ""


def cost_plot(groups: dict[str, Group], out: Path) -> str:
    """Accuracy against the decoder's FLOPs, the shape of the paper's Figure 1."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for group in groups.values():
        if group.records[0]["recipe"]["blind"]:
            continue
        right, asked = group.accuracy("emoji-scenes test")
        low, high = interval(right, asked)
        middle, vanilla = right / asked, "vanilla" in group.name
        marker, colour = ("s", "tab:gray") if vanilla else ("o", "tab:blue")
        errors = [[max(0.0, middle - low)], [max(0.0, high - middle)]]  # rounding
        axes.errorbar(group.decoder_flops / 1e9, middle, errors, fmt=marker, capsize=3, color=colour)
        axes.annotate(group.name, (group.decoder_flops / 1e9, middle), (5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="GFLOPs of image and question in the decoder", ylabel="answered exactly")
    axes.grid(alpha=0.3)
    figure.savefig(out / "cost.png", dpi=110)
    pyplot.close(figure)
    return "## Accuracy against cost\n\n![accuracy against decoder FLOPs](cost.png)"


def skill_plot(himix: Group, vanilla: Group, path: Path) -> None:
    """Bars with intervals, a panel for each test."""
    figure, panels = pyplot.subplots(len(TESTS), sharex=True, figsize=(9, 10), layout="constrained")
    order = sorted(himix.counts("emoji-scenes test"))
    for axes, (test, label) in zip(panels, TESTS.items(), strict=True):
        for number, (group, colour) in enumerate(((himix, "tab:blue"), (vanilla, "tab:gray"))):
            counts = group.counts(test)
            shares = [counts[s][0] / counts[s][1] if counts[s][1] else 0.0 for s in order]
            ends = [interval(*counts[s]) if counts[s][1] else (0.0, 0.0) for s in order]
            below = [max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)]
            above = [max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)]
            places = [i + 0.4 * number for i in range(len(order))]
            axes.bar(places, shares, 0.38, yerr=[below, above], capsize=2, color=colour, label=group.name)
        axes.set(ylabel=label, ylim=(0, 1.05))
    panels[0].legend(frameon=False, ncols=2)
    panels[-1].set_xticks([i + 0.2 for i in range(len(order))], order, rotation=30)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def quantised(runs: Path) -> str:
    """What bundles answered, beside the float32 model on the same questions."""
    rows = []
    for path in sorted(runs.glob("*/eval-*.json")):
        result = json.loads(path.read_text())
        name = path.stem.removeprefix("eval-")
        rows.append([path.parent.name, name, result["split"], result["asked"], share(result["right"], result["asked"])])
    heads = ["run", "bundle", "split", "asked", "answered exactly"]
    return f"## Quantised\n\n{table(heads, rows)}" if rows else ""


def commands(groups: dict[str, Group]) -> str:
    """The command that makes every run."""
    lines = [
        f"himix train {' '.join(quoted(word) for word in RUNS[name])} --out runs/{name}"
        for name in RUNS
        if SEED.sub("", name) in groups
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


def percent(counts: list[int]) -> str:
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
