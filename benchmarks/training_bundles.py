"""What quantisation costs a trained model: its bundles, and the float32 model, on the same questions of EmojiScenes.

    python -m benchmarks.training_bundles RUN [--targets onnx,openvino] [--quant int8,int4] [--questions N]

RUN is a folder of training_runs. Its bundles go to RUN/bundles, or stay if they are up to date; the results to
RUN/eval-NAME.json, from which training_results takes them.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a trained model and ask its bundles.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--targets", default="onnx,openvino")
    parser.add_argument("--quant", default="int8,int4")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--task", default="emoji-scenes")
    arguments = parser.parse_args()
    run: Path = arguments.run
    final, bundles = run / "final", run / "bundles"
    himix(
        "export", "--model", str(final), "--target", arguments.targets, "--quant", arguments.quant,
        "--out", str(bundles),
    )  # fmt: skip
    models = {"pytorch": ["--model", str(final)]}
    for target in arguments.targets.split(","):
        for quant in arguments.quant.split(","):
            models[f"{target}-{quant}"] = ["--bundle", str(bundles / f"{final.name}-{target}-{quant}")]
    for name, model in models.items():
        asked = ["--task", arguments.task, "--limit", str(arguments.questions), "--json"]
        (run / f"eval-{name}.json").write_text(himix("eval", *model, *asked))


def himix(*words: str) -> str:
    """What a command prints; it is shown first."""
    print("himix", *words, flush=True)
    command = [sys.executable, "-m", "himix_edge", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
