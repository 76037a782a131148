"""Scales and norms tuned end to end: the quantized decoder learns to say what the float one says.

Distillation on text that the model wrote itself. The integers stay as they were rounded; scales and the norms' weights
move by some percent (the second phase of EfficientQAT, Chen et al., arXiv 2407.11062; norm tweaking, Li et al., arXiv
2309.02784). It makes up for what rounding layer by layer cannot see, and costs a few passes of training.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from himix_edge.errors import InputError
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedModule, QuantizedTensor, representable_scale
from himix_edge.model import VisionLanguageModel
from himix_edge.model.decoder import RMSNorm

EPOCHS, BATCH = 2, 4
LEARNING_RATE = {"scale": 2e-3, "weight": 1e-3}  # of a scale's and a norm's logarithm
WARM_UP = 4  # steps


class Tuned(nn.Module):
    """A tensor as its starting value times exp of what is learnt; a scale is rounded as it will be stored."""

    start: Tensor

    def __init__(self, start: Tensor, is_scale: bool):
        super().__init__()
        self.is_scale = is_scale
        self.register_buffer("start", start)

    def forward(self, change: Tensor) -> Tensor:
        tuned = self.start * change.exp()
        if not self.is_scale:
            return tuned
        return tuned + (representable_scale(tuned) - tuned).detach()  # the gradient passes the rounding


def tune(
    student: QuantizedModel, teacher: VisionLanguageModel, texts: Tensor, report: Callable[[int, int], None]
) -> tuple[dict[str, QuantizedTensor], dict[str, Tensor]]:
    """Tune the scales of the decoder's 4-bit weights, and its norms.

    Args:
        student: the quantized model; it is used up.
        teacher: the float model.
        texts: int64 (passages, T).
        report: called with the number of each step and of all.

    Returns:
        By parameter name: integers and tuned scales of every 4-bit weight of the decoder, and weights of its norms.

    Raises:
        InputError: a model whose logits are not finite.
    """
    decoder = student.reference
    quantized, norms = {}, {}
    for name, module in list(decoder.named_modules()):
        if isinstance(module, QuantizedModule) and module.bits == 4 and name.startswith(("model.", "lm_head")):
            quantized[module.name] = module
        elif isinstance(module, RMSNorm) and not name.endswith("_img"):
            norms[f"{name}.weight"] = module
    groups = [
        {"params": [_parametrize(module, kind) for module in modules], "lr": LEARNING_RATE[kind]}
        for kind, modules in (("scale", quantized.values()), ("weight", norms.values()))
    ]
    steps = EPOCHS * math.ceil(len(texts) / BATCH)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    generator, done = torch.Generator().manual_seed(0), 0
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(texts), generator=generator).split(BATCH):
            done += 1
            report(done, steps)
            optimizer.zero_grad()
            loss = divergence(decoder, teacher, texts[chosen])
            if not torch.isfinite(loss):
                raise InputError("tuned rounding: the model's logits are not finite; --rounding gptq does without them")
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        tensors = {name: QuantizedTensor(m.values, m.scale.clone(), m.bits) for name, m in quantized.items()}
        return tensors, {name: module.weight.clone() for name, module in norms.items()}


def _parametrize(module: nn.Module, name: str) -> nn.Parameter:
    """Replace a tensor of `module` by a tuned one; gives what is learnt, which starts at zero."""
    start = getattr(module, name).detach().clone()
    delattr(module, name)
    setattr(module, name, nn.Parameter(torch.zeros_like(start)))
    parametrize.register_parametrization(module, name, Tuned(start, name == "scale"))
    return module.get_submodule(f"parametrizations.{name}").get_parameter("original")


def divergence(student: VisionLanguageModel, teacher: VisionLanguageModel, ids: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the next token, teacher from student, mean over ids (B, T)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
        with torch.no_grad():
            expected = teacher(ids)
        found = student(ids)
    student_logs, teacher_logs = (logits.float().log_softmax(-1).flatten(0, 1) for logits in (found, expected))
    return F.kl_div(student_logs, teacher_logs, log_target=True, reduction="batchmean")


def _has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.9
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
