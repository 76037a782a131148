"""How a model's weights are rounded: what is calibrated by default, and the steps of each way."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from himix_edge.checkpoints.assemble import assemble
from himix_edge.checkpoints.lazy import as_weights
from himix_edge.checkpoints.source import Source
from himix_edge.data import Sample
from himix_edge.errors import InputError
from himix_edge.export.preflight import float_bytes
from himix_edge.export.quantization.balancing import balance, group_ranges
from himix_edge.export.quantization.calibration import calibrate
from himix_edge.export.quantization.folding import fold_image_norms
from himix_edge.export.quantization.passages import WRITTEN, as_passages, conversation_passages, writes_text
from himix_edge.export.quantization.policy import Policy, role_bits
from himix_edge.export.quantization.smoothing import largest_inputs, smooth
from himix_edge.export.quantization.tensors import QuantizedModel, check_finite, quantize
from himix_edge.export.quantization.tuning import tune
from himix_edge.model.sampled_text import sample_texts

Rounding = Literal["tuned", "gptq", "nearest"]  # tuned: gptq, then scales and norms end to end
TUNED_BYTES = 1 << 30  # float32 bytes up to which a language model is tuned unless one says otherwise


def choose_rounding(source: Source, policy: Policy, asked: Rounding | None, random_weights: bool) -> Rounding:
    """What was asked for, or what helps: not for random weights, nor for 8-bit ones of a model without outliers, which
    one trained here on conversations is. A language model is also tuned, unless that would take long.

    Raises:
        InputError: "tuned" for a model without 4-bit weights, or one that writes no text.
    """
    language, four = writes_text(source), has_4_bits(policy)
    if not any(bits <= 8 for bits in policy.bits().values()) and not policy.overrides:
        return "nearest"
    if asked == "tuned" and not (language and four):
        raise InputError(
            f"--rounding tuned: {source.where} has no 4-bit weights or writes no text to tune on; use gptq"
        )
    if not (four or language):
        return "nearest"
    if asked:
        return asked
    if random_weights:
        return "nearest"
    return "tuned" if language and four and float_bytes(source.config) <= TUNED_BYTES else "gptq"


def round_weights(
    source: Source, policy: Policy, rounding: Rounding, samples: Sequence[Sample], report: Callable[[str], None]
) -> QuantizedModel:
    """Quantize a model.

    Args:
        source: the model in float.
        policy: bits by module.
        rounding: what `choose_rounding` gave.
        samples: conversations to calibrate on, beside text that a language model writes itself.
        report: called with a short line at the start of each step.

    Raises:
        InputError: as `quantize`.
    """
    source = check_finite(source)
    source = replace(source, weights=fold_image_norms(source.weights))
    if rounding == "nearest":
        report("reading and rounding")
        return quantize(source, policy)
    report("reading")
    model = assemble(source.config, source.weights, source.where)
    written = None
    if writes_text(source):
        report("writing text to calibrate on")
        written = sample_texts(model, *WRITTEN)
    if not has_4_bits(policy):
        report("smoothing and rounding")
        if written is not None:
            source = replace(source, weights=smooth(source.weights, largest_inputs(model, written)))
        return quantize(source, policy)
    text = source.load_text()
    passages = [passage for sample in samples for passage in conversation_passages(model, text, sample)]
    layers = source.config.decoder.num_hidden_layers
    calibrated = calibrate(
        source.config, source.weights, passages + as_passages(written), lambda name: role_bits(name, policy),
        policy.group_size, lambda i: report(f"calibrating layer {i + 1} of {layers}"),
    )  # fmt: skip
    if rounding == "tuned" and written is not None:
        report("rounding")
        made = quantize(source, policy, calibrated)
        calibrated, norms = tune(
            made, model, written, lambda i, of: report(f"tuning scales and norms: step {i} of {of}")
        )
        source = replace(source, weights={**source.weights, **as_weights(norms)})
    if written is not None:
        report("balancing")
        weights, calibrated = balance(source.weights, calibrated, group_ranges(model, written, policy.group_size))
        source = replace(source, weights=weights)
    report("rounding")
    return quantize(source, policy, calibrated)


def method_name(policy: Policy, rounding: Rounding) -> str:
    """How quantized weights were rounded, in words."""
    if rounding == "nearest":
        return "round-to-nearest"
    if not has_4_bits(policy):
        return "smoothed, round-to-nearest"
    return "gptq, tuned scales and norms" if rounding == "tuned" else "gptq"


def has_4_bits(policy: Policy) -> bool:
    """Whether any weight gets 4 bits."""
    return 4 in policy.bits().values() or any(bits == 4 for _, bits in policy.overrides)
