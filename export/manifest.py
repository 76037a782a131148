"""The bundle's manifest and self-test, of what an export has made."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from himix_edge.bundle import (
    AdapterPlaces,
    GenerationDefaults,
    Manifest,
    ParityResult,
    Preprocessing,
    Quantization,
    SelfTest,
    file_record,
)
from himix_edge.checkpoints import image_kv_id
from himix_edge.checkpoints.identity import base_id
from himix_edge.export.quantization.policy import Policy
from himix_edge.export.quantization.rounding import method_name
from himix_edge.export.quantization.tensors import QuantizedModel
from himix_edge.export.request import Plan, weights_hash
from himix_edge.export.target import ChipTarget
from himix_edge.export.traces import Question
from himix_edge.low_rank import adapter_linears
from himix_edge.manifest import METHODS, TILES
from himix_edge.names import MAX_NAME, as_name
from himix_edge.parts import part_of
from himix_edge.reading import JsonObject
from himix_edge.text import TOKENIZER, TextProcessor

SCALES = "adapter_scales.safetensors"


def write_selftest(question: Question, text: TextProcessor, staging: Path) -> SelfTest:
    """The question that the reference is surest of, with the pixels that its image has to become."""
    folder = staging / "selftest"
    folder.mkdir()
    image = folder / f"image{question.image.suffix}"
    shutil.copyfile(question.image, image)
    Image.fromarray(np.concatenate(list(question.pixels))).save(folder / "pixels.png")  # tiles below each other
    tokens = question.reference.tokens
    return SelfTest(
        image=image.relative_to(staging).as_posix(),
        prompt=question.prompt,
        pixels_sha256=hashlib.sha256(question.pixels.tobytes()).hexdigest(),
        token_ids=[token for token in tokens if token not in text.stop_ids],
        text=text.decode(tokens),
        ends=tokens[-1] in text.stop_ids,
    )


def make_manifest(
    plan: Plan,
    model: QuantizedModel,
    text: TextProcessor,
    staging: Path,
    roles: dict[str, list[Path]],
    selftest: SelfTest,
    parity: list[ParityResult],
) -> Manifest:
    assert plan.config.vision is not None
    provenance: JsonObject = {"checkpoint_sha256": weights_hash(plan.source), "export_key": plan.key}
    if plan.source.adapter is not None:
        provenance["merged_adapter"] = plan.source.adapter
    adapters = _adapter_places(plan, model, staging)
    if isinstance(plan.target, ChipTarget) and plan.options.chips:
        provenance["chips"] = {chip: plan.target.chip_facts(staging, chip) for chip in plan.options.chips}
    if plan.source.provenance:
        provenance["training"] = plan.source.provenance
    kind = f"-{plan.target.name}-{plan.request.precision}"
    others = [staging / TOKENIZER, *sorted((staging / "selftest").iterdir())]
    if adapters is not None and adapters.scales is not None:
        others.append(staging / adapters.scales)
    return Manifest(
        schema_version=1,
        name=as_name(plan.source.name)[: MAX_NAME - len(kind)] + kind,
        target=plan.target.name,
        roles={role: [file_record(staging, path) for path in paths] for role, paths in roles.items()},
        files=[file_record(staging, path) for path in others],
        model=json.loads(json.dumps(plan.config.to_dict())),
        preprocessing=Preprocessing(
            image_size=plan.config.vision.image_size,
            method=TILES if plan.config.images else METHODS[plan.config.vision.resample],
            layout=plan.config.images,
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
        vision_tokens=plan.config.tile_tokens,
        image_kv_id=image_kv_id(model.reference),
        tools=plan.tools,
        provenance=provenance,
        weights=model.digests,
        parity=parity,
        selftest=selftest,
        adapters=adapters,
    )


def _adapter_places(plan: Plan, model: QuantizedModel, staging: Path) -> AdapterPlaces | None:
    """That the graphs take adapters, if they do; what was moved between linears is written to a file."""
    if not plan.options.adapter_rank:
        return None
    linears = adapter_linears(plan.config)
    scales = {name: factor for name, factor in model.moved.items() if name.rpartition(".")[0] in linears}
    if scales:
        save_file({name: factor.contiguous() for name, factor in scales.items()}, staging / SCALES)
    return AdapterPlaces(rank=plan.options.adapter_rank, base=base_id(plan.source), scales=SCALES if scales else None)


def _bits(policy: Policy, model: QuantizedModel) -> dict[str, int]:
    """Bits by role; a tower of convolutions alone stays float whatever the policy says."""
    bits = policy.bits()
    if not any(part_of(name) == "tower" for name in model.tensors):
        bits["vision_encoder"] = 32
    return bits
