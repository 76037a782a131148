"""Kill himix at random moments and see that nothing is lost.

`python -m benchmarks.kills export convert train --times 100` takes half an hour. Each time the command, which replaces
an older result (--force), is started in a process group of its own and killed with SIGKILL at a moment of its usual
duration that --seed decides. Then the older result or the complete new one must be there, and the user's other files.
Up to six kills follow each other, each in a run that cleans up behind the last; then the command runs to its end: its
result must be there, and no leftover beside it or in the folder of temporary files.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from himix_edge.checkpoints import load_checkpoint, save_checkpoint
from himix_edge.config import DecoderConfig, ModelConfig, ViTConfig
from himix_edge.model import build_model
from himix_edge.presets import SHIPPED
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import TextProcessor

RECIPE = """
model: {model}
pretrained: true
images_per_step: 2
conversations_per_image: 1
precision: float32
validation_images: 2
evaluate_every: 4
checkpoint_every: 1
data: [{{name: easy-vqa, samples: 12}}]
tests: []
stages: [{{name: all, learn: [injection], steps: 4, learning_rate: 1.0e-3}}]
"""
TORCHS = "torchinductor_"  # the folder of torch's own cache, which stays there after every run
DECODER = DecoderConfig(
    model_type="llama", vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, max_position_embeddings=512,
)  # fmt: skip
TOWER = ViTConfig(
    image_size=32, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)


@dataclass
class Case:
    """A command that makes `out`, with other things of the user's beside it."""

    name: str
    place: Path
    kills: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.work, self.temporary = self.place / "work", self.place / "tmp"
        self.out, model = self.work / "out", self.place / "model"
        self.temporary.mkdir(parents=True)
        for name in ("thesis.txt", "folder/notes.txt", ".out.old/photo.txt", ".out.staging/photo.txt"):
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(f"mine: {name}")
        torch.manual_seed(0)
        save_checkpoint(
            model, build_model(ModelConfig("himix", DECODER, 32, TOWER)), TextProcessor.load(SHIPPED / "nano")
        )
        (self.place / "tiny.yaml").write_text(RECIPE.format(model=model))
        self.command = {
            "export": ["export", "--target", "onnx", "--quant", "none", "--model", model, "--probe-questions", "1"],
            "convert": ["convert", model],
            "train": ["train", "--recipe", self.place / "tiny.yaml"],
        }[self.name]  # fmt: skip
        self.mine = self.contents()
        began = time.monotonic()
        self.run()
        self.seconds = time.monotonic() - began
        self.expect_complete("the first run")

    def contents(self) -> dict[str, str]:
        """Every file of the user's by its hash."""
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.place.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.temporary) and not self.is_ours(path)
        }

    def is_ours(self, path: Path) -> bool:
        """Whether a file is of the result or its staging folder."""
        return path.is_relative_to(self.out) or path.is_relative_to(self.out.with_name(".out.himix"))

    def start(self) -> subprocess.Popen[bytes]:
        """The command in a process group of its own."""
        command = [sys.executable, "-m", "himix_edge", *map(str, self.command), "--force", "--out", str(self.out)]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        log = (self.place / "log.txt").open("wb")
        with log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def run(self) -> None:
        """The command to its end."""
        if code := self.start().wait():
            self.problems.append(f"exit code {code}: {(self.place / 'log.txt').read_text(errors='replace')[-500:]}")

    def kill_after(self, seconds: float) -> None:
        """Kill the command, if it is not done by then."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def open_result(self) -> None:
        """Raises an error if the result is not whole."""
        if self.name == "export":
            open_verified(self.out)
        else:
            load_checkpoint(self.out / "final" if self.name == "train" else self.out)

    def expect_whole(self, when: str) -> None:
        """The older result or the new one, and the user's files."""
        try:
            self.open_result()
        except Exception as error:
            self.problems.append(f"{when}: {error}")
        log = str(self.place / "log.txt")
        found = {path: digest for path, digest in self.contents().items() if path != log}
        if found != {path: digest for path, digest in self.mine.items() if path != log}:
            self.problems.append(f"{when}: the user's files are {sorted(found)}")

    def expect_complete(self, when: str) -> None:
        """A whole result, and no leftover."""
        self.expect_whole(when)
        beside = sorted(path.name for path in self.work.iterdir())
        if beside != sorted({Path(name).parts[len(self.work.parts)] for name in self.mine if "work" in name} | {"out"}):
            self.problems.append(f"{when}: beside it lie {beside}")
        if left := [path.name for path in self.temporary.iterdir() if not path.name.startswith(TORCHS)]:
            self.problems.append(f"{when}: temporary files: {left[:5]}")

    def round(self, dice: random.Random, most: int) -> None:
        """Some kills, at most `most`, each in a run that has to clean up behind the one before; then a complete run."""
        for _ in range(min(most, dice.randint(1, 6))):
            moment = dice.uniform(0, 1.05 * self.seconds)
            self.kill_after(moment)
            self.kills += 1
            self.expect_whole(f"kill {self.kills} after {moment:.2f} s")
        self.run()
        self.expect_complete(f"the run behind kill {self.kills}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=["export", "convert", "train"])
    parser.add_argument("--times", type=int, default=100, help="kills of each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = False
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as place:
            case, dice = Case(name, Path(place)), random.Random(f"{arguments.seed} {name}")
            print(f"{name}: takes {case.seconds:.1f} s", flush=True)
            while case.kills < arguments.times and not case.problems:
                case.round(dice, arguments.times - case.kills)
            print(f"{name}: {case.kills} kills, {len(case.problems)} problems", *case.problems, sep="\n  ", flush=True)
            failed |= bool(case.problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
