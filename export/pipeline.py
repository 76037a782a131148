"""The export: preflight, quantise once, write each role, pass the gate, publish by rename.

Work happens in a hidden folder beside the target. It is keyed by everything that decides the result, so a rerun after
a kill goes on with the roles that are finished, and a rerun with other settings starts anew.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from himix_edge.bundle import (
    MANIFEST,
    Bundle,
    FileRecord,
    GenerationDefaults,
    Manifest,
    ParityResult,
    Preprocessing,
    Quantization,
    SelfTest,
    all_files,
    file_record,
    read_manifest,
    write_manifest,
)
from himix_edge.checkpoints import image_kv_id, open_source
from himix_edge.checkpoints.source import Source, random_source
from himix_edge.config import ModelConfig
from himix_edge.data import Sample
from himix_edge.data.llava import load_llava
from himix_edge.errors import GateRefused, HimixError, InputError
from himix_edge.export.gate import Gate, Question
from himix_edge.export.graphs import release_memory
from himix_edge.export.preflight import Forecast, float_bytes, forecast, refuse_if_too_large
from himix_edge.export.quantization.policy import GROUP_SIZES, POLICIES, Policy, Precision, read_policy
from himix_edge.export.quantization.rounding import Rounding, choose_rounding, method_name, round_weights
from himix_edge.export.quantization.tensors import QuantizedModel, check_policy
from himix_edge.export.report import table
from himix_edge.export.targets import ExportOptions, Target, find_target
from himix_edge.files import sha256
from himix_edge.folders import Replacing
from himix_edge.names import MAX_NAME, as_name
from himix_edge.presets import SHIPPED, preset
from himix_edge.reading import read_json, validated
from himix_edge.runtimes.engine import load_engine
from himix_edge.runtimes.verifying import open_verified
from himix_edge.staging import Staging, remove, staging, tidy
from himix_edge.text import TOKENIZER, TextProcessor

STAGES = "stages.json"
PROBE = SHIPPED / "probe" / "probe.json"
USUAL_CAPACITY = 2048
USUAL_QUESTIONS = ((100 << 20, 1000), (1 << 30, 8))  # by the model's float32 bytes; of larger ones 2
METHODS: dict[str, Literal["pillow-bilinear-squash", "pillow-bicubic-squash"]] = {
    "bilinear": "pillow-bilinear-squash",
    "bicubic": "pillow-bicubic-squash",
}
Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for."""

    model: str  # what `open_source` takes; with `random_weights` the name of a preset
    target: str
    precision: Precision  # none, int8, int4
    out: Path
    group_size: int = 32
    capacity: int | None = None  # cache slots; None: the model's max_position_embeddings, at most 2048
    policy: Path | None = None  # YAML with changes to the precision's policy
    rounding: Rounding | None = None  # None: see `choose_rounding`
    calibration: Path | None = None  # LLaVA-format file to calibrate on; None: the probe
    int8_activations: bool | None = None  # None: where weights are quantised
    probe: Path = PROBE  # LLaVA-format file of real images and prompts for the gate
    probe_questions: int | None = None  # ask only the first so many of them; None: fewer, the larger the model
    random_weights: bool = False  # a preset at its real size, without a checkpoint
    tower: str | None = None  # with `random_weights`: another tower than the preset's
    force: bool = False  # replace an existing bundle


@dataclass(frozen=True)
class Stages:
    """stages.json of an unfinished export: what it is of, and the files of the roles that are finished."""

    key: str
    roles: dict[str, list[FileRecord]]


@dataclass(frozen=True)
class Plan:
    """A request, resolved and checked; nothing has been written yet."""

    request: ExportRequest
    source: Source
    policy: Policy
    rounding: Rounding
    probe: tuple[Sample, ...]
    target: Target
    options: ExportOptions
    forecast: Forecast
    tools: dict[str, str]
    key: str

    @property
    def config(self) -> ModelConfig:
        return self.source.config

    @property
    def replacing(self) -> Replacing:
        """What the bundle may take the place of."""
        read = (self.request.calibration, self.request.policy, self.request.probe, *self.source.files)
        keep = tuple(path for path in read if path is not None)
        return Replacing("bundle", self.request.force, keep, listed_files)


def plan(request: ExportRequest) -> Plan:
    """Check a request and predict its needs.

    Raises:
        InputError: unknown model, target or precision, a bad group size or capacity, an output folder that is in the
            way, or a machine that is too small.
        BackendMissing: the target's packages are not installed.
    """
    if request.precision not in POLICIES:
        raise InputError(f"unknown precision {request.precision!r}; known: {', '.join(POLICIES)}")
    if request.group_size not in GROUP_SIZES:
        raise InputError(f"group size {request.group_size}: choose one of {', '.join(map(str, GROUP_SIZES))}")
    source = _open(request)
    config = source.config
    if config.vision is None:
        raise InputError(f"{source.where}: a decoder without a vision tower; himix convert adds one")
    usual = min(config.decoder.max_position_embeddings, USUAL_CAPACITY)
    capacity = usual if request.capacity is None else request.capacity
    if not config.vision.num_tokens < capacity <= config.decoder.max_position_embeddings:
        raise InputError(
            f"capacity {capacity}: must be more than the {config.vision.num_tokens} vision tokens and at most "
            f"max_position_embeddings ({config.decoder.max_position_embeddings})"
        )
    probe = _probe(request, config)
    target = find_target(request.target)
    policy = replace(POLICIES[request.precision], group_size=request.group_size)
    if request.policy is not None:
        policy = read_policy(request.policy, policy)
    check_policy(config, policy)
    rounding = choose_rounding(source, policy, request.rounding, request.random_weights)
    quantised = request.precision != "none"
    int8_activations = quantised if request.int8_activations is None else request.int8_activations and quantised
    options = ExportOptions(capacity, int8_activations)
    tools = {"himix-edge": version("himix-edge"), "torch": torch.__version__, **target.tools()}
    what: dict[str, Any] = {
        "weights": _weights_hash(source), "config": config.to_dict(), "questions": len(probe),
        "policy": asdict(policy), "rounding": rounding, "calibration": sha256(request.calibration or PROBE),
        "options": asdict(options), "target": target.name,
        "tools": tools, "probe": sha256(request.probe),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    need = forecast(config, policy, rounding, target.disk)
    refuse_if_too_large(need, request.out)
    return Plan(request, source, policy, rounding, probe, target, options, need, tools, key)


def _open(request: ExportRequest) -> Source:
    if not request.random_weights:
        if request.tower:
            raise InputError("--tower goes with --random-weights; to give a checkpoint another tower: himix convert")
        return open_source(request.model)
    return random_source(preset(request.model, request.tower), f"{request.model}-random")


def _probe(request: ExportRequest, config: ModelConfig) -> tuple[Sample, ...]:
    """The questions to ask: the first so many, fewer of a model that takes long for each."""
    samples = load_llava(request.probe).samples
    count = request.probe_questions
    if count is None:
        size = float_bytes(config)
        count = next((most for limit, most in USUAL_QUESTIONS if size <= limit), 2)
    chosen: list[Sample] = []
    for sample in samples:
        conversations = sample.conversations[: count - sum(len(s.conversations) for s in chosen)]
        if conversations:
            chosen.append(replace(sample, conversations=conversations))
    return tuple(chosen)


def _weights_hash(source: Source) -> str:
    """One digest for all that decides the weights."""
    parts = [f"{path.name} {sha256(path)}" for path in source.files] or [str(source.provenance)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_current(plan: Plan) -> bool:
    """Whether the output folder already holds exactly what this plan would make, undamaged."""
    tidy(plan.request.out)
    try:
        return open_verified(plan.request.out).manifest.provenance.get("export_key") == plan.key
    except HimixError:
        return False


def export(plan: Plan, report: Report = lambda _: None) -> Bundle:
    """Carry out a plan.

    Args:
        plan: what `plan` gave.
        report: called with a short line at the start of each step.

    Returns:
        The published bundle.

    Raises:
        GateRefused: a stage of the parity gate failed; the text is its table, and nothing was published.
        InputError: the output folder exists and is not to be replaced, cannot be written, or the disk is full.
    """
    (outcome,) = export_all([plan], report)
    if isinstance(outcome, GateRefused):
        raise outcome
    return outcome


def export_all(plans: Sequence[Plan], report: Report = lambda _: None) -> Iterator[Bundle | GateRefused]:
    """Carry out plans that differ in target and folder only: quantised once, the reference asked once.

    Each bundle is published before the next one is begun; a refusal is handed on and stops only its own.

    Raises:
        InputError: as `export`.
    """
    model: QuantizedModel | None = None
    gate: Gate | None = None
    for plan in plans:
        try:
            with _staged(plan) as place:
                if model is None or gate is None:
                    model = quantised(plan, report)
                    report("asking the reference")
                    gate = Gate(model, plan.source.load_text(), plan.probe, plan.options.capacity)
                    gate.check_subgraphs()
                    gate.check_quantised()
                _publish(plan, model, gate.copy(), place, report)
        except GateRefused as refusal:
            yield refusal
        else:
            yield open_verified(plan.request.out)


def _publish(plan: Plan, model: QuantizedModel, gate: Gate, place: Staging, report: Report) -> None:
    text, folder = plan.source.load_text(), place.new
    roles = _write_roles(plan, model, folder, report)
    selftest = _write_selftest(gate.most_certain(), text, folder)
    text.tokenizer.save(str(folder / TOKENIZER))
    manifest = _manifest(plan, model, text, folder, roles, selftest, gate.results)
    _run_gate(plan, model, gate, Bundle(folder, manifest), report)
    decisive = any(question is gate.most_certain() for question in gate.decisive)
    checked = {"parity": gate.results, "selftest": selftest.model_copy(update={"decisive": decisive})}
    write_manifest(folder, manifest.model_copy(update=checked))
    (folder / STAGES).unlink()
    report("publishing")
    open_verified(folder)
    place.publish(folder, lambda: plan.replacing.check(plan.request.out, place))


def quantised(plan: Plan, report: Report = lambda _: None) -> QuantizedModel:
    """The integers that every target packs, and the model on them."""
    samples = load_llava(plan.request.calibration or PROBE).samples
    return round_weights(plan.source, plan.policy, plan.rounding, samples, report)


def listed_files(folder: Path) -> frozenset[str]:
    """All files of a bundle, by its manifest. Raises InputError if it is none."""
    return frozenset((MANIFEST, *(record.path for record in all_files(read_manifest(folder)))))


@contextlib.contextmanager
def _staged(plan: Plan) -> Iterator[Staging]:
    """The staging folder with finished roles of an earlier try in its `new`, held by one export at a time.

    It survives a kill and an interrupt; any error removes it. Helper files of the exporters' libraries go there too.
    """
    out = plan.request.out
    with staging(out, busy="another export is writing this bundle", resumable=True) as place:
        plan.replacing.check(out, place)
        place.new.mkdir(exist_ok=True)
        place.scratch.mkdir()
        try:
            with _temporary_files_in(place.scratch):
                yield place
        except Exception:
            place.keeps = False
            raise


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let libraries make their temporary files in `folder`, which is cleared even after a kill."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable


def _write_roles(plan: Plan, model: QuantizedModel, folder: Path, report: Report) -> dict[str, list[Path]]:
    """Each role's files; those that an earlier try with the same key finished are taken over."""
    stages, done = folder / STAGES, _finished(folder / STAGES, plan.key)
    kept = {Path(record.path).parts[0] for records in done.values() for record in records} | {STAGES}
    for leftover in folder.iterdir():
        if leftover.name not in kept or not done:
            remove(leftover)
    roles = {}
    for role, write in plan.target.stages(model, plan.options).items():
        records = done.get(role, [])
        if records and all(_intact(folder, record) for record in records):
            report(f"{role}: finished by an earlier run")
        else:
            report(f"{role}: tracing and writing")
            records = [file_record(folder, path) for path in write(folder)]
            release_memory()
            done[role] = records
            listed = {name: [record.model_dump() for record in found] for name, found in done.items()}
            fresh = folder / f"{STAGES}.new"
            fresh.write_text(json.dumps({"key": plan.key, "roles": listed}), encoding="utf-8")
            fresh.replace(stages)
        roles[role] = [folder / record.path for record in records]
    return roles


def _finished(stages: Path, key: str) -> dict[str, list[FileRecord]]:
    """The roles that an earlier try with this key finished; none if it left no record that can be read."""
    try:
        earlier = validated(Stages, read_json(stages), str(stages))
    except InputError:
        return {}
    return dict(earlier.roles) if earlier.key == key else {}


def _intact(folder: Path, record: FileRecord) -> bool:
    path = folder / record.path
    return path.is_file() and path.stat().st_size == record.bytes and sha256(path) == record.sha256


def _write_selftest(question: Question, text: TextProcessor, staging: Path) -> SelfTest:
    """The question that the reference is surest of, with the pixels that its image has to become."""
    folder = staging / "selftest"
    folder.mkdir()
    image = folder / f"image{question.image.suffix}"
    shutil.copyfile(question.image, image)
    Image.fromarray(question.pixels[0]).save(folder / "pixels.png")
    tokens = question.reference.tokens
    return SelfTest(
        image=image.relative_to(staging).as_posix(),
        prompt=question.prompt,
        pixels_sha256=hashlib.sha256(question.pixels.tobytes()).hexdigest(),
        token_ids=[token for token in tokens if token not in text.stop_ids],
        text=text.decode(tokens),
        ends=tokens[-1] in text.stop_ids,
    )


def _manifest(
    plan: Plan,
    model: QuantizedModel,
    text: TextProcessor,
    staging: Path,
    roles: dict[str, list[Path]],
    selftest: SelfTest,
    parity: list[ParityResult],
) -> Manifest:
    assert plan.config.vision is not None
    provenance: dict[str, Any] = {"checkpoint_sha256": _weights_hash(plan.source), "export_key": plan.key}
    if plan.source.provenance:
        provenance["training"] = plan.source.provenance
    kind = f"-{plan.target.name}-{plan.request.precision}"
    others = [staging / TOKENIZER, *sorted((staging / "selftest").iterdir())]
    return Manifest(
        schema_version=1,
        name=as_name(plan.source.name)[: MAX_NAME - len(kind)] + kind,
        target=plan.target.name,
        roles={role: [file_record(staging, path) for path in paths] for role, paths in roles.items()},
        files=[file_record(staging, path) for path in others],
        model=json.loads(json.dumps(plan.config.to_dict())),
        preprocessing=Preprocessing(
            image_size=plan.config.vision.image_size, method=METHODS[plan.config.vision.resample]
        ),
        quantisation=Quantization(
            precision=plan.request.precision,
            bits=_bits(plan.policy, model),
            group_size=plan.policy.group_size if plan.request.precision == "int4" else 0,
            method=method_name(plan.policy, plan.rounding) if model.tensors else "none",
            activations=plan.target.activations or ("int8" if plan.options.int8_activations else "float"),
        ),
        chat_template=text.template,
        generation=GenerationDefaults(),
        context_capacity=plan.options.capacity,
        vision_tokens=plan.config.vision.num_tokens,
        image_kv_id=image_kv_id(model.reference),
        tools=plan.tools,
        provenance=provenance,
        weights=model.digests,
        parity=parity,
        selftest=selftest,
    )


def _bits(policy: Policy, model: QuantizedModel) -> dict[str, int]:
    """Bits by role; a tower of convolutions alone stays float whatever the policy says."""
    bits = policy.bits()
    if not any(name.startswith("vision_tower") for name in model.tensors):
        bits["vision_encoder"] = 32
    return bits


def _run_gate(plan: Plan, model: QuantizedModel, gate: Gate, bundle: Bundle, report: Report) -> None:
    refused = f"{plan.request.out}: the parity gate refused this export; nothing was published"
    try:
        _compare_with_runtime(plan, model, gate, bundle, report)
    except InputError as error:  # the runtime cannot open what was just written
        raise GateRefused(f"{refused}\n{error}") from None
    if gate.failures:
        raise GateRefused(f"{refused}\n{table(gate.failures)}")


def _compare_with_runtime(plan: Plan, model: QuantizedModel, gate: Gate, bundle: Bundle, report: Report) -> None:
    report("gate: stored weights")
    try:
        gate.check_weights(plan.target.read_weights(bundle))
    except Exception as error:  # whatever the formats' libraries raise for a damaged file
        raise InputError(f"the written weights cannot be read back: {str(error).splitlines()[0]}") from None
    report("gate: exact")
    reference = plan.target.exact_reference(model)
    emulated = reference is not model.reference
    with tempfile.TemporaryDirectory() as scratch:
        engine = plan.target.exact_engine(model, bundle, Path(scratch))
        release_memory()  # it may have converted anew
        tolerance = "int8 emulated" if emulated else "float32"
        gate.check_engine("packed", tolerance, engine, reference if emulated else None)
    del engine, reference  # before the next one is opened
    release_memory()
    report("gate: as it ships")
    activations = bundle.manifest.quantization.activations
    tolerance = "float32" if activations == "float" else f"{activations} activations"
    gate.check_engine("runtime", tolerance, load_engine(bundle))
