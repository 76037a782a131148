"""What a run shows while it works and leaves behind: metrics.csv, a progress bar, a plot."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Required, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from himix_edge.files import staged_file

COLUMNS = ("step", "stage", "loss", "divergence", "accuracy", "learning_rate", "validation_accuracy", "seconds")


class Row(TypedDict, total=False):
    """A step of metrics.csv; its number, stage and seconds are added behind it. `divergence` is that from a teacher."""

    step: int
    stage: str
    loss: Required[float]
    divergence: float
    accuracy: Required[float]
    learning_rate: float
    validation_accuracy: float
    seconds: float


class MetricsLog:
    """metrics.csv, a row a step; on resume rows behind the restored step are dropped."""

    def __init__(self, path: Path, keep_steps: int):
        kept = []
        if keep_steps and path.exists():
            with path.open(newline="") as old:
                kept = [row for row in csv.DictReader(old) if int(row["step"]) <= keep_steps]
        with staged_file(path) as staged, staged.open("w", newline="", encoding="utf-8") as fresh:
            writer = csv.DictWriter(fresh, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(kept)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS, restval="")

    def add(self, row: Row) -> None:
        """Write one row at once."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ProgressDisplay:
    """A progress bar with stage, loss, accuracy and the last validation accuracy."""

    def __init__(self, total: int, start: int, shown: bool):
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=not shown,
        )  # fmt: skip
        self.shown = shown
        self.task = self.bar.add_task("training", total=total, completed=start, note="")
        self.validation = ""
        self.smooth: dict[str, float] = {}

    def __enter__(self) -> Callable[[Row], None]:
        self.bar.start()
        return self.report

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def report(self, row: Row) -> None:
        """Advance by one step."""
        for name in ("loss", "accuracy"):
            self.smooth[name] = 0.9 * self.smooth.get(name, row[name]) + 0.1 * row[name]
        if "validation_accuracy" in row:
            self.validation = f"  val {row['validation_accuracy']:.2%}"
            if self.shown and not self.bar.console.is_terminal:
                self.bar.console.print(f"step {row['step']}  loss {self.smooth['loss']:.4f} {self.validation.strip()}")
        note = f"loss {self.smooth['loss']:.3f}  acc {self.smooth['accuracy']:.1%}{self.validation}"
        self.bar.update(self.task, advance=1, description=row["stage"], note=note)


def plot(metrics: Path, out: Path) -> None:
    """Draw loss, accuracy on the batches and validation accuracy over the steps of a metrics.csv, stages shaded.

    With a teacher, also the divergence from it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(8, 6), layout="constrained")
    above.plot(steps, smoothed([float(row["loss"]) for row in rows]), lw=1.2, label="loss of the answers")
    apart = [(int(row["step"]), float(row["divergence"])) for row in rows if row.get("divergence")]
    if apart:
        at, nats = zip(*apart, strict=True)
        above.plot(at, smoothed(list(nats)), lw=1.2, label="divergence from the teacher")
        above.legend(frameon=False)
    above.set(ylabel="nats a token" if apart else "loss of the answers", yscale="log")
    below.plot(steps, smoothed([float(row["accuracy"]) for row in rows]), lw=1.2, label="batches")
    tested = [(int(row["step"]), float(row["validation_accuracy"])) for row in rows if row["validation_accuracy"]]
    if tested:
        below.plot(*zip(*tested, strict=True), "o-", ms=3, lw=1.2, label="held-out training images")
    below.set(xlabel="step", ylabel="answered exactly", ylim=(0, 1.02))
    below.legend(frameon=False)
    for axes in (above, below):
        for number, stage in enumerate(dict.fromkeys(row["stage"] for row in rows)):
            of = [step for step, row in zip(steps, rows, strict=True) if row["stage"] == stage]
            axes.axvspan(of[0] - 1, of[-1], color="0.5", alpha=0.12 * (number % 2), lw=0)
            if axes is above:
                axes.annotate(stage, (of[0], 1.01), xycoords=("data", "axes fraction"), fontsize="small")
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def smoothed(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, without the bias of its beginning."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        out.append(mean / weight)
    return out
