"""The export: quantize once, write each role, pass the gate, publish by rename.

`plan` checks what is asked; `export` and `export_all` carry it out. At any moment there is the old bundle, the new one,
or none.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from himix_edge.bundle import Bundle, write_manifest
from himix_edge.data.llava import load_llava
from himix_edge.errors import GateRefused, HimixError, InputError
from himix_edge.export.adapter_gate import adapted_gate
from himix_edge.export.graphs import release_memory
from himix_edge.export.manifest import make_manifest, write_selftest
from himix_edge.export.parity import Gate
from himix_edge.export.progress import Progress, Show, Step
from himix_edge.export.quantization.rounding import round_weights
from himix_edge.export.quantization.tensors import QuantizedModel
from himix_edge.export.report import table
from himix_edge.export.request import PROBE, ExportRequest, Plan, plan
from himix_edge.export.target import ChipTarget
from himix_edge.export.tolerance import FLOAT16
from himix_edge.export.writing import STAGES, replacing, staged, write_roles
from himix_edge.manifest import ROLES
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.verifying import open_verified
from himix_edge.staging import Staging, tidy
from himix_edge.text import TOKENIZER

__all__ = ["PROBE", "ExportRequest", "Plan", "Step", "export", "export_all", "is_current", "plan", "quantized_model"]

SHARED_STEPS = ("quantizing", "asking the reference")  # for all targets
GATE_STEPS = ("gate: stored weights", "gate: exact", "gate: as it ships")
OWN_STEPS = len(ROLES) + len(GATE_STEPS) + 1  # of each target; the last is "publishing"


def is_current(plan: Plan) -> bool:
    """Whether the output folder already holds exactly what this plan would make, undamaged."""
    tidy(plan.request.out)
    try:
        return open_verified(plan.request.out).manifest.provenance.get("export_key") == plan.key
    except HimixError:
        return False


def export(plan: Plan, show: Show = lambda _: None) -> Bundle:
    """Carry out a plan.

    Args:
        plan: what `plan` gave.
        show: called with each step when it begins.

    Returns:
        The published bundle.

    Raises:
        GateRefused: a stage of the parity gate failed; the text is its table, and nothing was published.
        InputError: the output folder exists and is not to be replaced, cannot be written, or the disk is full.
    """
    (outcome,) = export_all([plan], show)
    if isinstance(outcome, GateRefused):
        raise outcome
    return outcome


def export_all(plans: Sequence[Plan], show: Show = lambda _: None) -> Iterator[Bundle | GateRefused]:
    """Carry out plans that differ in target and folder only: quantized once, the reference asked once.

    Each bundle is published before the next one is begun; a refusal is handed on and stops only its own.

    Raises:
        InputError: as `export`.
    """
    progress = Progress(show, len(SHARED_STEPS) + OWN_STEPS * len(plans))
    model: QuantizedModel | None = None
    gate: Gate | None = None
    for i, work in enumerate(plans):
        try:
            with staged(work) as place:
                if model is None or gate is None:
                    progress.step(SHARED_STEPS[0])
                    model = quantized_model(work, progress.detail)
                    progress.step(SHARED_STEPS[1])
                    gate = Gate(model, work.source.load_text(), work.probe, work.options.capacity)
                    gate.check_subgraphs()
                    gate.check_quantized()
                progress.skip_to(len(SHARED_STEPS) + OWN_STEPS * i)
                progress.prefix = f"{work.target.name}: " if len(plans) > 1 else ""
                _make(work, model, gate.copy(), place, progress)
        except GateRefused as refusal:
            yield refusal
        else:
            yield open_verified(work.request.out)


def quantized_model(plan: Plan, report: Callable[[str], None] = lambda _: None) -> QuantizedModel:
    """The integers that every target packs, and the model on them; `report` gets a line for each part of the work."""
    samples = load_llava(plan.request.calibration or PROBE).samples
    return round_weights(plan.source, plan.policy, plan.rounding, samples, report)


def _make(plan: Plan, model: QuantizedModel, gate: Gate, place: Staging, progress: Progress) -> None:
    """Write, compare and publish one target's bundle."""
    text, folder = plan.source.load_text(), place.new
    roles = write_roles(plan, model, folder, progress)
    selftest = write_selftest(gate.most_certain(), text, folder)
    text.tokenizer.save(str(folder / TOKENIZER))
    manifest = make_manifest(plan, model, text, folder, roles, selftest, gate.results)
    _pass_gate(plan, model, gate, Bundle(folder, manifest), progress)
    decisive = any(question is gate.most_certain() for question in gate.decisive)
    checked = {"parity": gate.results, "selftest": selftest.model_copy(update={"decisive": decisive})}
    write_manifest(folder, manifest.model_copy(update=checked))
    (folder / STAGES).unlink()
    progress.step("publishing")
    open_verified(folder)
    place.publish(folder, lambda: replacing(plan).check(plan.request.out, place))


def _pass_gate(plan: Plan, model: QuantizedModel, gate: Gate, bundle: Bundle, progress: Progress) -> None:
    refused = f"{plan.request.out}: the parity gate refused this export; nothing was published"
    try:
        _compare_with_runtime(plan, model, gate, bundle, progress)
    except InputError as error:  # the runtime cannot open what was just written
        raise GateRefused(f"{refused}\n{error}") from None
    if gate.failures:
        raise GateRefused(f"{refused}\n{table(gate.failures)}")


def _compare_with_runtime(plan: Plan, model: QuantizedModel, gate: Gate, bundle: Bundle, progress: Progress) -> None:
    allowed = plan.target.tolerances
    shipped = allowed.shipped[bundle.manifest.quantization.activations]
    progress.step(GATE_STEPS[0])
    try:
        gate.check_weights(plan.target.read_weights(bundle))
    except Exception as error:  # whatever the formats' libraries raise for a damaged file
        raise InputError(f"the written weights cannot be read back: {str(error).splitlines()[0]}") from None
    progress.step(GATE_STEPS[1])
    reference = plan.target.exact_reference(model)
    with tempfile.TemporaryDirectory() as scratch:
        engine = plan.target.exact_engine(model, bundle, Path(scratch))
        release_memory()  # it may have converted anew
        if reference is model.reference:
            gate.check_engine("packed", allowed.exact, engine)
        else:
            gate.check_emulated("packed", allowed.emulated or allowed.exact, shipped, engine, reference)
        adapted = adapted_gate(gate, plan.probe, bundle)
        if adapted is not None:
            adapted.check_exact(engine, allowed, shipped, plan.target.exact_reference(adapted.model))
    del engine, reference  # before the next one is opened
    release_memory()
    progress.step(GATE_STEPS[2])
    engine = load_engine(bundle)
    gate.check_engine("runtime", shipped, engine, allowed.questions)
    if adapted is not None:
        adapted.check_shipped(engine, shipped)
        gate.results += adapted.results
    if isinstance(plan.target, ChipTarget):
        for chip in plan.options.chips:
            progress.detail(f"{chip}, emulated")
            release_memory()
            with plan.target.chip_engine(bundle, chip) as engine:
                gate.check_chip(chip, FLOAT16, engine, plan.forecast.weights["decoder"])
