"""OpenVINO's generation library with optimum-intel's export."""

import sys
from pathlib import Path

import numpy as np

from benchmarks.timing import DECODED, TEXT, VISION, Timings, llava_style, report


def timings(folder: Path) -> Timings:
    """Time to the first token of a prompt, and each token behind one, as the library measures itself; milliseconds."""
    import openvino
    import openvino_genai

    scheduling = openvino_genai.SchedulerConfig()
    scheduling.enable_prefix_caching = False  # the same prompt again would cost nothing
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", scheduler_config=scheduling, PERFORMANCE_HINT="LATENCY")
    vocabulary = openvino_genai.Tokenizer(folder).get_vocab()
    tokens = np.random.default_rng(0).integers(len(vocabulary), size=(1, VISION + TEXT))

    def measured(count: int, new_tokens: int) -> openvino_genai.PerfMetrics:
        prompt = openvino_genai.TokenizedInputs(
            openvino.Tensor(tokens[:, :count]), openvino.Tensor(np.ones((1, count), np.int64))
        )
        return pipeline.generate(prompt, max_new_tokens=new_tokens, ignore_eos=True).perf_metrics

    return llava_style(
        lambda count: measured(count, 1).get_ttft().mean,
        lambda: measured(VISION + TEXT, DECODED + 1).get_tpot().mean,
    )


if __name__ == "__main__":
    report(timings(Path(sys.argv[1])))
