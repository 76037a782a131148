"""ONNX Runtime as optimum exports and runs it: `ORTModelForCausalLM`, 8-bit weights and activations, its smallest."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.timing import DECODED, TEXT, VISION, Timings, llava_style, milliseconds, report


def build(model: Path, out: Path) -> Path:
    """`optimum-cli export onnx`, then `optimum-cli onnxruntime quantize`, of a Hugging Face folder."""
    cli, exact = str(Path(sys.executable).with_name("optimum-cli")), out.with_name(out.name + "-float")
    command = [cli, "export", "onnx", "--model", str(model), "--task", "text-generation-with-past", str(exact)]
    subprocess.run(command, check=True, capture_output=True)
    command = [cli, "onnxruntime", "quantize", "--onnx_model", str(exact), "--avx512_vnni", "--per_channel"]
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    return out


def timings(folder: Path) -> Timings:
    """Prefill and a token, milliseconds."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = psutil.cpu_count(logical=False)
    model: Any = ORTModelForCausalLM.from_pretrained(folder, session_options=options)
    tokens = torch.randint(model.config.vocab_size, (1, VISION + TEXT), generator=torch.Generator().manual_seed(0))

    def feed(ids: torch.Tensor, past: Any, length: int) -> Any:
        mask = torch.ones(1, length + ids.shape[1], dtype=torch.int64)
        return model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True).past_key_values

    def decode() -> float:
        past, length = feed(tokens, None, 0), VISION + TEXT

        def run() -> None:
            nonlocal past
            for i in range(DECODED):
                past = feed(tokens[:, i : i + 1], past, length + i)

        return milliseconds(run) / DECODED

    return llava_style(lambda count: milliseconds(lambda: feed(tokens[:, :count], None, 0)), decode)


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
