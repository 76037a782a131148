"""What is asked of an export: resolved, checked and predicted before anything is written."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.adapters import merged
from himix_edge.checkpoints.random_preset import random_preset
from himix_edge.checkpoints.source import Source
from himix_edge.config import ModelConfig
from himix_edge.data import Sample
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.export.preflight import Forecast, float_bytes, forecast, refuse_if_too_large
from himix_edge.export.quantization.policy import GROUP_SIZES, POLICIES, Policy, Precision, read_policy
from himix_edge.export.quantization.rounding import Rounding, choose_rounding
from himix_edge.export.quantization.tensors import check_policy
from himix_edge.export.target import ChipTarget, ExportOptions, Target
from himix_edge.export.targets import find_target
from himix_edge.files import as_path, sha256
from himix_edge.low_rank import MOST_RANK
from himix_edge.presets import SHIPPED
from himix_edge.reading import JsonObject
from himix_edge.runtimes.pictures import picture_ids
from himix_edge.runtimes.registry import all_runtimes
from himix_edge.tiles import load_tiles

PROBE = SHIPPED / "probe" / "probe.json"
USUAL_CAPACITY, TEXT_BESIDE = 2048, 1024  # slots of all; of text beside a picture that takes more
USUAL_QUESTIONS = ((100 << 20, 1000), (1 << 30, 8))  # by the model's float32 bytes; of larger ones 2


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for.

    Attributes:
        model: what `himix_edge.load_checkpoint` takes; with `random_weights` the name of a preset.
        target: one of `himix export --help`.
        precision: of the weights: `none` (float), `int8` or `int4`.
        out: the bundle's folder.
        group_size: columns that share a 4-bit scale: 32, 64 or 128.
        capacity: cache slots, one a token; None: 2048, or as many as the largest picture takes and 1024 more, but not
            above the model's max_position_embeddings.
        policy: YAML with changes to the precision's policy.
        rounding: `tuned`, `gptq` (arXiv 2210.17323) or `nearest`; None: gptq, small language models tuned.
        calibration: LLaVA-format file to calibrate on; None: the probe.
        int8_activations: None: where weights are quantized.
        probe: LLaVA-format file of real images and prompts for the gate.
        probe_questions: ask only the first so many of them; None: fewer, the larger the model.
        random_weights: a preset at its real size, without a checkpoint.
        tower: with `random_weights`: another tower than the preset's.
        chips: also compile for these, where the target does that.
        adapter_rank: let the graphs take adapters of a rank up to this, see docs/guides/adapters.md; 0: none.
        adapter: merge this one into the weights first: a folder of PEFT's, a checkpoint with adapters, or a file that
            `himix adapter` made.
        force: replace an existing bundle.
    """

    model: str
    target: str
    precision: Precision
    out: Path
    group_size: int = 32
    capacity: int | None = None
    policy: Path | None = None
    rounding: Rounding | None = None
    calibration: Path | None = None
    int8_activations: bool | None = None
    probe: Path = PROBE
    probe_questions: int | None = None
    random_weights: bool = False
    tower: str | None = None
    chips: tuple[str, ...] = ()
    adapter_rank: int = 0
    adapter: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Paths may be given as text. Raises InputError for what is neither."""
        for name in ("out", "policy", "calibration", "probe", "adapter"):
            value = getattr(self, name)
            if value is not None or name in ("out", "probe"):
                object.__setattr__(self, name, as_path(value))


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
    if request.adapter is not None:
        source = merged(source, request.adapter)
    config = source.config
    if config.vision is None:
        raise InputError(f"{source.where}: a decoder without a vision tower; himix convert adds one")
    usual = min(config.decoder.max_position_embeddings, max(USUAL_CAPACITY, config.picture_slots + TEXT_BESIDE))
    capacity = usual if request.capacity is None else request.capacity
    if not config.tile_tokens < capacity <= config.decoder.max_position_embeddings:
        raise InputError(
            f"capacity {capacity}: must be more than the {config.tile_tokens} vision tokens and at most "
            f"max_position_embeddings ({config.decoder.max_position_embeddings})"
        )
    probe = _probe(request, config)
    _check_pictures_fit(probe, source, capacity)
    target = find_target(request.target)
    _check_adapter_rank(request.adapter_rank, target)
    policy = replace(POLICIES[request.precision], group_size=request.group_size)
    if request.policy is not None:
        policy = read_policy(request.policy, policy)
    check_policy(config, policy)
    rounding = choose_rounding(source, policy, request.rounding, request.random_weights)
    quantized = request.precision != "none"
    int8_activations = quantized if request.int8_activations is None else request.int8_activations and quantized
    options = ExportOptions(capacity, int8_activations, request.chips, request.adapter_rank)
    compilers = {}
    if request.chips:
        if not isinstance(target, ChipTarget):
            raise InputError(f"chips: target {target.name} compiles for none; onnx_qnn does")
        compilers = target.check_chips(request.chips)
    tools = {"himix-edge": version("himix-edge"), "torch": torch.__version__, **target.tools(), **compilers}
    what: JsonObject = {
        "weights": weights_hash(source), "config": config.to_dict(), "questions": len(probe),
        "policy": asdict(policy), "rounding": rounding, "calibration": sha256(request.calibration or PROBE),
        "options": {name: value for name, value in asdict(options).items() if name != "adapter_rank" or value},
        "target": target.name,
        "tools": tools, "probe": sha256(request.probe),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    need = forecast(config, policy, rounding, target.disk)
    refuse_if_too_large(need, request.out)
    return Plan(request, source, policy, rounding, probe, target, options, need, tools, key)


def _check_adapter_rank(rank: int, target: Target) -> None:
    """Raises InputError for a rank that is none, and for a target whose graphs take no adapters."""
    if not 0 <= rank <= MOST_RANK:
        raise InputError(f"adapter rank {rank}: 1 to {MOST_RANK} are there")
    able = [runtime.name for runtime in all_runtimes() if runtime.adapters]
    if rank and target.name not in able:
        raise InputError(
            f"--adapter-rank: bundles for {target.name} take no adapters; {', '.join(able)} do. Merge one at its "
            "export: --adapter FOLDER"
        )


def _open(request: ExportRequest) -> Source:
    if not request.random_weights:
        if request.tower:
            raise InputError("--tower goes with --random-weights; to give a checkpoint another tower: himix convert")
        return open_source(request.model)
    return random_preset(request.model, request.tower)


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


def _check_pictures_fit(probe: tuple[Sample, ...], source: Source, capacity: int) -> None:
    """Raises InputError if the gate's pictures, where they stand in the text, take more slots than there are."""
    vision, layout = source.config.vision, source.config.images
    if vision is None or layout is None:
        return
    text = source.load_text()
    for image in {sample.image for sample in probe if isinstance(sample.image, Path)}:
        try:
            picture_ids(text, source.config, [load_tiles(image, vision.image_size, layout)], None, capacity)
        except InputError as error:
            raise InputError(
                f"capacity {capacity}: the gate's picture {image} does not fit ({error}); raise --capacity, or give "
                "--probe a file with smaller pictures"
            ) from None


def weights_hash(source: Source) -> str:
    """One digest for all that decides the weights."""
    parts = [f"{path.name} {sha256(path)}" for path in source.files] or [str(source.provenance)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
