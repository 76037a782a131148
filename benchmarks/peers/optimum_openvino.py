"""OpenVINO as optimum-intel exports it: symmetric 4 bits in groups, embedding and head in 8.

`timings` runs the exported graph in OpenVINO itself, without optimum's Python around each token;
`benchmarks.peers.openvino_genai` runs the same files in OpenVINO's generation library.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import DECODED, TEXT, VISION, Timings, llava_style, milliseconds, report


def build(model: Path, out: Path, group_size: int) -> Path:
    """`optimum-cli export openvino` of a Hugging Face folder."""
    cli = str(Path(sys.executable).with_name("optimum-cli"))
    command = [cli, "export", "openvino", "--model", str(model), "--task", "text-generation-with-past"]
    command += ["--weight-format", "int4", "--sym", "--group-size", str(group_size), "--ratio", "1.0", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def timings(folder: Path) -> Timings:
    """Prefill and a token, milliseconds."""
    import openvino

    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    vocabulary = compiled.output("logits").partial_shape[2].get_length()
    tokens = np.random.default_rng(0).integers(vocabulary, size=VISION + TEXT)

    def step(ids: NDArray[np.int64], past: int) -> None:
        request.infer({
            "input_ids": ids[None],
            "attention_mask": np.ones((1, past + len(ids)), np.int64),
            "position_ids": np.arange(past, past + len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        })  # fmt: skip

    def prefill(count: int) -> float:
        request.reset_state()
        return milliseconds(lambda: step(tokens[:count], 0))

    def decode() -> float:
        prefill(VISION + TEXT)
        return milliseconds(lambda: [step(tokens[i : i + 1], VISION + TEXT + i) for i in range(DECODED)]) / DECODED

    return llava_style(prefill, decode)


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
