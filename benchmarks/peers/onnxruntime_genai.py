"""onnxruntime-genai: its own int4 export (int8 activations) and its own generation loop.

It needs transformers 5 and this project transformers 4, so it lives in an environment of its own: `install` makes it.
This module imports nothing of this project but `benchmarks.timing`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import DECODED, TEXT, VISION, Timings, llava_style, milliseconds, report

PACKAGES = ("onnxruntime-genai==0.18.0", "torch==2.13.0", "onnx-ir", "transformers>=5,<6", "onnx", "numpy")


def install(folder: Path) -> str:
    """The interpreter of an environment in `folder` with what it takes, made unless it is there."""
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.touch()
    return str(python)


def build(model: Path, out: Path, group_size: int, python: str) -> Path:
    """The model builder's export of a Hugging Face folder."""
    import psutil

    command = [python, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(out)]
    command += ["-p", "int4", "-e", "cpu", "--extra_options", f"block_size={group_size}", "accuracy_level=4"]
    subprocess.run(command, check=True, capture_output=True)
    settings = out / "genai_config.json"  # left alone, onnxruntime-genai 0.18 took one thread of two
    content = json.loads(settings.read_text())
    content["model"]["decoder"]["session_options"]["intra_op_num_threads"] = psutil.cpu_count(logical=False)
    settings.write_text(json.dumps(content))
    return out


def timings(folder: Path) -> Timings:
    """Prefill and a token, milliseconds."""
    import onnxruntime_genai as genai

    loaded = genai.Model(str(folder))
    vocabulary = json.loads((folder / "genai_config.json").read_text())["model"]["vocab_size"]
    tokens = np.random.default_rng(0).integers(vocabulary, size=VISION + TEXT).astype(np.int32)

    def generator() -> Any:
        parameters = genai.GeneratorParams(loaded)
        length = VISION + TEXT + DECODED + 8
        parameters.set_search_options(max_length=length, min_length=length)
        return genai.Generator(loaded, parameters)

    def prefill(count: int) -> float:
        fresh = generator()
        return milliseconds(lambda: fresh.append_tokens(tokens[:count]))

    def decode() -> float:
        fresh = generator()
        fresh.append_tokens(tokens)
        fresh.generate_next_token()
        return milliseconds(lambda: [fresh.generate_next_token() for _ in range(DECODED)]) / DECODED

    return llava_style(prefill, decode)


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
