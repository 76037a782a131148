"""What a report's words mean, and its settings in words."""

from himix_edge.bench.record import Record
from himix_edge.errors import one_line

MODES = {
    "cold-image": "encoded for every first question",
    "warm-image": "its keys and values given, as kept from before",
    "text-only": "none, text only",
}

GLOSSARY = {
    "TTFT": "Time to first token: image file and question in, first text out. The figure is the median of all timed "
    "iterations, here, in the Markdown and in `himix bench compare`.",
    "p50, p90, p99": "What 50, 90 and 99 of 100 were below; between two measurements by linear interpolation. p50 is "
    "the median. Of 20 measurements p99 is close to the longest.",
    "warm TTFT": "The same with the image's keys and values given: a further question about a picture already seen.",
    "preprocess": "Image file to pixels: decoded, turned upright, resized.",
    "encoder, injector": "The vision tower, and what makes the image's keys and values for every layer of its output.",
    "prefill": "The prompt's one pass through the decoder, up to its first token's scores.",
    "token": "Inter-token time: each token behind an answer's first. Tokens/s is 1000 / its median.",
    "load": "A fresh process opens the bundle, every file's hash checked, its files not in the page cache if that can "
    "be asked of the system.",
    "N": "Image tokens: cache slots that the image takes in front of the text. `kept`: as for warm TTFT.",
    "memory": "Peak of the process's memory above what it had before the bundle was opened, runtime imported: the "
    "resident size (RSS), shared pages counted in full.",
    "PSS": "Proportional set size: resident memory where a page that several processes share counts by share. Android "
    "and dumpsys count so; RSS is never less.",
    "as PyTorch": "The gate's questions: how many of them the exported bundle answered token for token as the PyTorch "
    "model with the same weights. Counted by the export, and stored in the bundle.",
    "accuracy": "Right answers by `himix eval`, where its output was given.",
    "valid": "Every answer was the first one's again, the self-test passed, and nothing says that the times are off.",
    "semi-valid": "The answers are right, but the machine was busy, throttled or hot, or times scattered: the reasons "
    "say which.",
    "invalid": "A wrong answer, or the self-test failed. Such times mean nothing.",
}


def settings(record: Record) -> dict[str, str]:
    """How a record was measured: name -> words."""
    s = record.settings
    found = {
        "image": MODES[s.mode],
        "images joined": str(s.images) if s.images > 1 else None,
        "image tokens N": None if s.vision_tokens is None else str(s.vision_tokens),
        "questions about each image": str(s.questions_per_image) if s.questions_per_image > 1 else None,
        "said before each prompt": f"{s.depth} tokens" if s.depth else None,
        "prompt": "as the questions come" if s.prompt_tokens is None else f"{s.prompt_tokens} tokens, made so long",
        "answer": _answer(s.new_tokens, s.ignore_stop),
        "iterations": f"{s.timed} timed, {s.warm_up} before them not counted",
        "threads": "the runtime's choice" if s.threads is None else str(s.threads),
        "computes": None if s.provider is None else one_line(s.provider),
    }
    return {name: words for name, words in found.items() if words is not None}


def _answer(new_tokens: int | None, ignore_stop: bool) -> str | None:
    if new_tokens is None:
        return None
    return f"{new_tokens} tokens, stop tokens ignored" if ignore_stop else f"{new_tokens} tokens at most"
