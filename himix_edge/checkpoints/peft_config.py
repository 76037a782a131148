"""adapter_config.json as the peft package writes it: plain LoRA is followed, everything else is refused by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from himix_edge.errors import InputError
from himix_edge.low_rank import MOST_RANK
from himix_edge.reading import read_json, validated

PEFT_CONFIG = "adapter_config.json"
Rank = Annotated[int, Field(gt=0, le=MOST_RANK)]
Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]
FOLLOWED = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
# how it was trained, which names it was looked for by, and settings of what is not on
OF_NO_ACCOUNT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_dropout", "lora_ga_config",
    "loftq_config", "megatron_config", "megatron_core", "monteclora_config", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# inits that leave the base's weights as they were; others (PiSSA, OLoRA, CorDA, LoftQ) change them
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")
NAMES = {
    "use_dora": "DoRA", "modules_to_save": "modules that are saved whole", "lora_bias": "biases of LoRA",
    "bias": "trained biases", "trainable_token_indices": "trained tokens", "target_parameters": "parameters of experts",
    "layer_replication": "replicated layers", "use_qalora": "QALoRA", "fan_in_fan_out": "transposed weights",
    "alora_invocation_tokens": "aLoRA",
}  # fmt: skip
T = TypeVar("T")
LITERAL = re.compile(r"\^?[A-Za-z0-9_.]+\$?")


@dataclass(frozen=True)
class PeftConfig:
    """What of an adapter's configuration decides what it computes."""

    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    rank_pattern: Mapping[str, Rank] = Field(default_factory=dict)
    alpha_pattern: Mapping[str, Alpha] = Field(default_factory=dict)

    def rank_of(self, linear: str) -> int:
        """r of a linear by its name as peft has it."""
        return _of(linear, self.rank_pattern, self.r)

    def scale_of(self, linear: str, rank: int) -> float:
        """What B A is multiplied by: alpha / r, with rsLoRA (arXiv 2312.03732) alpha / sqrt(r)."""
        return _of(linear, self.alpha_pattern, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(path: Path) -> PeftConfig:
    """Read it.

    Raises:
        InputError: not JSON, not LoRA, or LoRA with something that is not followed here, by name.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r:.40}; only LORA is taken")
    if (init := raw.get("init_lora_weights", True)) not in PLAIN_INITS:
        raise InputError(
            f"{path}: init_lora_weights {init!r:.40} changes the base's weights; make plain LoRA of the adapter first "
            "(peft: save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    for name, value in raw.items():
        if name in FOLLOWED or name in OF_NO_ACCOUNT or not value or (name, value) == ("bias", "none"):
            continue
        what = f"{NAMES[name]} ({name})" if name in NAMES else f"{name!r:.60}"
        raise InputError(f"{path}: {what}: not taken; only plain LoRA and rsLoRA of linears are")
    settings = validated(
        PeftConfig, {name: raw[name] for name in FOLLOWED & raw.keys() if name != "peft_type"}, str(path)
    )
    for pattern in (*settings.rank_pattern, *settings.alpha_pattern):
        if not LITERAL.fullmatch(pattern):
            raise InputError(f"{path}: the pattern {pattern!r:.80} is no name of a module; only those are taken")
    return settings


def _of(linear: str, patterns: Mapping[str, T], usual: T) -> T:
    """The value of the first pattern that fits, as peft has it: the end of a module's name, or with ^ the whole."""
    for pattern, value in patterns.items():
        name = pattern.removesuffix("$")
        if linear == name.removeprefix("^") or (not name.startswith("^") and linear.endswith(f".{name}")):
            return value
    return usual
