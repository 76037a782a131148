"""The times of one answer."""

import math
import time
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Stats:
    """Times of the last answer, in milliseconds; an image stage is 0 if its ImageKV was given.

    `ttft` runs from the call to the first non-empty text, image stages included. `inter_token` holds the time of each
    further token. `cached_tokens` are those of the prompt that the cache held already, from a conversation that began
    in the same way. `log_probability` is the sum over the answer's tokens and the one that ended it: how sure the model
    is of these very words, not how likely they are true.
    """

    preprocess: float = 0.0
    vision_encoder: float = 0.0
    vision_injector: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    inter_token: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    vision_tokens: int = 0
    new_tokens: int = 0
    log_probability: float = 0.0
    finish_reason: str = ""  # "stop": the model ended it, "length": max_new_tokens or the cache's end; "timeout"

    @property
    def probability(self) -> float:
        """The share, 0 to 1, that the model gives the answer among all that it could say."""
        return math.exp(min(self.log_probability, 0.0))

    def __str__(self) -> str:
        later = f", then {np.median(self.inter_token):.2f} ms a token (median)" if self.inter_token else ""
        return (
            f"preprocess {self.preprocess:.1f}  vision_encoder {self.vision_encoder:.1f}  "
            f"vision_injector {self.vision_injector:.1f}  prefill {self.prefill:.1f}  TTFT {self.ttft:.1f} ms{later}; "
            f"probability {self.probability:.2g}"
        )


class Clock:
    """Milliseconds between calls."""

    def __init__(self) -> None:
        self._then = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._then = (now - self._then) * 1000, now
        return elapsed
