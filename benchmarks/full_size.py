"""The paper's decoders at their real size, with random weights: export, size, HiMix against vanilla in ONNX Runtime.

    python -m benchmarks.full_size [PRESET ...] [--genai PYTHON] [--rounds N] [--keep DIR]

For each preset: `himix export --random-weights --quant int4` as a process of its own (time and peak memory are the
operating system's account of it), the decoder's bytes beside those of llama.cpp's Q4_0 for the same matrices, and the
medians of runs in alternating processes: HiMix's prefill of 64 tokens behind 728 vision slots, the vanilla prefill of
all 792, and a token at 792. Vanilla's decoder graph is the same file: with all 792 as tokens it is the vanilla model.
`--genai` adds onnxruntime-genai's own int4 export of the same weights (block 32, int8 activations): pip install
onnxruntime-genai here, and name an interpreter whose environment has its model builder's needs (onnxruntime-genai,
torch, onnx_ir and transformers 5, which this project does not go with). Run it on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.progress import track

from benchmarks.timing import DECODED, TEXT, VISION, Timings, bundle_timings, milliseconds, report, timed_apart
from himix_edge.bundle import open_verified
from himix_edge.checkpoints.saving import save_weights
from himix_edge.checkpoints.source import random_source
from himix_edge.cli.console import print_table
from himix_edge.presets import preset

PRESETS = ("qwen2-0.5b", "tinyllama-1.1b", "llama-3.2-1b", "llama-3.2-3b")


def export(name: str, out: Path) -> tuple[float, float]:
    """Seconds and peak bytes of the export as a process of its own."""
    command = [sys.executable, "-m", "himix_edge", "export", "--target", "onnx", "--quant", "int4", "--random-weights"]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--model", name, "--out", str(out)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"export of {name} failed")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def weight_bytes(name: str) -> tuple[int, int]:
    """bfloat16 bytes of all parameters, and Q4_0 bytes of the decoder's: 18 for 32 weights, vectors float32."""
    shapes = {n: w.shape for n, w in random_source(preset(name), name).weights.items()}
    bf16 = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    decoder = [s for n, s in shapes.items() if not n.startswith("vision_tower") and "_img" not in n]
    return bf16, sum(int(np.prod(s)) * 18 // 32 if len(s) == 2 else 4 * s[0] for s in decoder)


def build_genai(name: str, builder: str, scratch: Path) -> Path:
    """onnxruntime-genai's own export of the same random weights."""
    source, model = random_source(preset(name), name), scratch / "hf"
    model.mkdir()
    decoder = {n: w for n, w in source.weights.items() if not n.startswith("vision_tower") and "_img" not in n}
    save_weights(model, decoder, None)
    config = source.config.to_dict()
    family = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[config["model_type"]]
    for field in ("architecture", "vision_config", "vision_hidden_size", "injection"):
        del config[field]
    config |= {"architectures": [family], "torch_dtype": "bfloat16", "hidden_act": "silu"}
    config |= {"eos_token_id": 0, "bos_token_id": 0}
    (model / "config.json").write_text(json.dumps(config))
    source.load_tokenizer().save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    command = [builder, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(scratch / "out")]
    command += ["-p", "int4", "-e", "cpu", "--extra_options", "block_size=32", "accuracy_level=4"]
    subprocess.run(command, check=True, capture_output=True)
    settings = scratch / "out" / "genai_config.json"  # left alone, onnxruntime-genai 0.18 took one thread of two
    content = json.loads(settings.read_text())
    content["model"]["decoder"]["session_options"]["intra_op_num_threads"] = psutil.cpu_count(logical=False)
    settings.write_text(json.dumps(content))
    return scratch / "out"


def genai_timings(folder: Path) -> Timings:
    """The same of a model that `build_genai` made, in onnxruntime-genai's own generation loop."""
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

    return {
        "prefill 64": lambda: prefill(TEXT),
        "prefill 792": lambda: prefill(VISION + TEXT),
        "token at 792": decode,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--genai", metavar="PYTHON", help="also onnxruntime-genai's export, built by this interpreter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the bundles; those already there are not made again")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, path = arguments.worker[0], Path(arguments.worker[1])
        report(genai_timings(path) if kind == "genai" else bundle_timings(open_verified(path)))
        return
    made, timed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.presets:
            out = (arguments.keep or Path(scratch)) / name
            seconds, peak = export(name, out) if not out.exists() else (float("nan"), float("nan"))
            bundle, (bf16, q4_0) = open_verified(out), weight_bytes(name)
            decoder = sum(record.bytes for record in bundle.manifest.roles["decoder"])
            limit = (2.2 * bf16 + 2e9) / 1e9
            made.append((
                name, seconds, peak / 1e9, limit, bundle.bytes / 1e6, decoder / 1e6, q4_0 / 1e6, decoder / q4_0
            ))  # fmt: skip
            runs = {"himix": out}
            if arguments.genai:
                runs["genai"] = build_genai(name, arguments.genai, Path(tempfile.mkdtemp(dir=scratch)))
            times: dict[str, list[float]] = {}
            for _ in track(range(arguments.rounds), f"timing {name}"):
                for kind, folder in runs.items():
                    for case, values in timed_apart("benchmarks.full_size", kind, folder).items():
                        times.setdefault(f"{kind} {case}", []).extend(values)
            medians = {case: median(values) for case, values in times.items()}
            timed += [(name, case, value, min(times[case]), max(times[case])) for case, value in medians.items()]
            ratio = medians["himix prefill 792"] / medians["himix prefill 64 behind 728"]
            timed.append((name, "vanilla prefill / HiMix prefill", ratio, float("nan"), float("nan")))
    print_table("Exports", ("preset", "s", "peak GB", "limit GB", "bundle MB", "decoder MB", "Q4_0 MB", "ratio"), made)
    print_table("Latency in ms", ("preset", "case", "median", "least", "most"), timed)


if __name__ == "__main__":
    main()
