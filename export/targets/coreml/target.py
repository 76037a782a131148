"""Core ML: mlprogram packages for iOS 18, integers as constexpr_blockwise_shift_scale, the KV cache as MLState.

The decoder has two functions that share their weights: `prefill` takes PREFILL tokens (padded), `decode` takes one.
Both compute in float16, as the Neural Engine does. Whatever a weight is dequantized from is stored as quantized.
"""

import importlib.metadata
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.bundle import Bundle
from himix_edge.export.graphs import (
    Swapped,
    VisionInjector,
    decompose_gelu,
    injector_outputs,
    quiet,
    release_memory,
    replace_module,
    share_weights,
    swap_linears,
)
from himix_edge.export.quantization.tensors import (
    QuantizedLinear,
    QuantizedModel,
    QuantizedModule,
    QuantizedTensor,
    digest,
    names_by_digest,
)
from himix_edge.export.stateful import StatefulDecoder
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.coreml.converter import LAST_UPDATES, register_conversions
from himix_edge.export.tolerance import FLOAT16, FLOAT32, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.model.decoder import RMSNorm
from himix_edge.runtimes.coreml.engine import CAPACITY_MULTIPLE, PREFILL, CoreMlEngine
from himix_edge.runtimes.coreml.interpreter import load_program
from himix_edge.runtimes.coreml.mil import Operation
from himix_edge.runtimes.engine import Engine

if TYPE_CHECKING:
    from coremltools import ImageType
    from coremltools.models import MLModel


class MirroredNorm(nn.Module):
    """RMSNorm as Core ML's layer_norm, one operator whose sums are not rounded to float16 on the way.

    The mean of x and -x is zero, so their variance is the mean square of x. The largest magnitude is divided out first,
    which keeps squares inside float16; epsilon, divided by its square, is the square of one more channel, mirrored too.
    """

    def __init__(self, norm: RMSNorm):
        super().__init__()
        (size,) = norm.weight.shape
        self.size, self.root_eps = size, math.sqrt(norm.eps)
        scale = torch.cat([norm.weight, norm.weight.new_zeros(1)]) * math.sqrt(size / (size + 1))
        self.weight = nn.Parameter(scale.repeat(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(dim=-1, keepdim=True).clamp_min(self.root_eps)
        half = torch.cat([x / largest, math.sqrt(self.size) * self.root_eps / largest], dim=-1)
        both = torch.cat([half, -half], dim=-1)
        return F.layer_norm(both, (2 * self.size + 2,), self.weight, None, 0.0)[..., : self.size]


class Encoder(nn.Module):
    """image (1, 3, S, S) in pixel values, as Core ML hands it over -> vision_features (1, N, d_v)."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.tower(image.permute(0, 2, 3, 1))
        return features


class CoreMlTarget:
    """Three .mlpackage folders."""

    name = "coreml"
    extra = "coreml"
    disk = (13.0, 8.0)  # coremltools keeps every program that it converts until the end
    activations: Literal["float16"] = "float16"
    # the exact check converts the same graphs for float32
    tolerances = Tolerances({"float16": FLOAT16}, exact=FLOAT32)

    def tools(self) -> dict[str, str]:
        return versions("coremltools", "torchao", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        with quiet():  # they tell what they miss when they are first imported
            for package in ("coremltools", "torchao.quantization"):
                importlib.import_module(package)
        return {
            "vision_encoder": lambda folder: _encoder(model, folder, half=True),
            "vision_injector": lambda folder: _injector(model, folder, half=True),
            "decoder": lambda folder: _decoder(model, options.capacity, folder, half=True),
        }

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The same integers and graphs, converted for float32 throughout."""
        capacity = bundle.manifest.context_capacity
        files = {
            "vision_encoder": _encoder(model, scratch, half=False)[0],
            "vision_injector": _injector(model, scratch, half=False)[0],
            "decoder": _decoder(model, capacity, scratch, half=False)[0],
        }
        return CoreMlEngine(files, bundle.config, capacity, rounding=False)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        names = names_by_digest(bundle.manifest.weights)
        for role in bundle.manifest.roles:
            for function in load_program(bundle.role_path(role).parent).functions.values():
                for operation in function.operations:
                    if operation.op_type == "constexpr_blockwise_shift_scale":
                        tensor = _stored(operation)
                        yield names.get(digest(tensor), f"{role}: {operation.name}"), tensor


TARGET = CoreMlTarget()


def _encoder(model: QuantizedModel, folder: Path, half: bool) -> list[Path]:
    import coremltools

    vision = model.reference.config.vision
    assert vision is not None
    tower = decompose_gelu(_swap(share_weights(model.reference).vision_tower))
    shape = (1, 3, vision.image_size, vision.image_size)
    image = coremltools.ImageType(name="image", shape=shape, color_layout=coremltools.colorlayout.RGB)
    package = _convert(Encoder(tower), (torch.zeros(shape),), [image], ["vision_features"], half)
    return _save(package, folder / "vision_encoder.mlpackage")


def _injector(model: QuantizedModel, folder: Path, half: bool) -> list[Path]:
    config = model.reference.config
    assert config.vision is not None
    features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
    injector = VisionInjector(_swap(share_weights(model.reference)))
    package = _convert(injector, (features,), None, injector_outputs(config), half)
    return _save(package, folder / "vision_injector.mlpackage")


def _decoder(model: QuantizedModel, capacity: int, folder: Path, half: bool) -> list[Path]:
    import coremltools

    slots = -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
    decoder = StatefulDecoder(_swap(share_weights(model.reference)), slots, Weight)
    images, hidden = model.reference.config.images, model.reference.config.decoder.hidden_size
    functions = coremltools.utils.MultiFunctionDescriptor()
    parts = []
    for name, tokens in (("prefill", min(PREFILL, slots)), ("decode", 1)):
        arguments = (
            torch.zeros(1, tokens, dtype=torch.int32),
            *(torch.tensor([n], dtype=torch.int32) for n in (2, 1, 0)),
            *((torch.zeros(1, tokens, hidden),) if images else ()),
        )
        part = folder / f".{name}.mlpackage"
        _convert(decoder, arguments, None, ["logits"], half).save(str(part))
        release_memory()  # each conversion peaks by some copies of the weights
        functions.add_function(str(part), "main", name)
        parts.append(part)
    functions.default_function_name = "decode"
    path = folder / "decoder.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    with quiet():
        coremltools.utils.save_multifunction(functions, str(path))
    for part in parts:
        shutil.rmtree(part)
    return _files(path)


class Weight(nn.Module):
    """A table's or a head's matrix."""

    def __init__(self, module: nn.Module):
        super().__init__()
        if isinstance(module, QuantizedModule):
            self.weight = _integers(module.quantized)
        else:
            self.weight = module.get_parameter("weight")

    def forward(self) -> Tensor:
        return self.weight


def _integers(quantized: QuantizedTensor) -> nn.Parameter:
    """A weight that torch.export shows to coremltools as integers and scales."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    zero = torch.zeros_like(quantized.scale, dtype=torch.int8)
    kind = getattr(torch, f"int{quantized.bits}")
    block = (1, quantized.group_size)
    stored = IntxUnpackedToInt8Tensor(quantized.values, quantized.scale, zero, kind, block, torch.float32, None)
    return nn.Parameter(stored, requires_grad=False)


def _swap(module: Swapped) -> Swapped:
    def make(linear: QuantizedLinear) -> nn.Module:
        made = nn.Linear(1, 1, device="meta")
        made.weight = _integers(linear.quantized)
        bias = None if linear.bias is None else nn.Parameter(linear.bias, requires_grad=False)
        made.register_parameter("bias", bias)
        return made

    for name, child in list(module.named_modules()):
        if isinstance(child, RMSNorm):
            replace_module(module, name, MirroredNorm(child))
    return swap_linears(module, make)


def _convert(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: "list[ImageType] | None", outputs: list[str], half: bool
) -> "MLModel":
    import coremltools

    register_conversions()
    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    with quiet(), torch.no_grad():
        program = torch.export.export(module.eval(), arguments).run_decompositions({})
        passes = coremltools.PassPipeline.DEFAULT
        passes.append_pass(LAST_UPDATES)
        return coremltools.convert(
            program, convert_to="mlprogram", minimum_deployment_target=coremltools.target.iOS18, inputs=inputs,
            outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in outputs],
            compute_precision=precision, skip_model_load=True, pass_pipeline=passes,
        )  # fmt: skip


def _save(package: "MLModel", path: Path) -> list[Path]:
    shutil.rmtree(path, ignore_errors=True)
    package.save(str(path))
    return _files(path)


def _files(package: Path) -> list[Path]:
    """What Core ML reads of a package, its manifest first."""
    for extra in package.glob("executorch_debug_handle_mapping.json"):
        extra.unlink()
    inner = sorted(path for path in package.rglob("*") if path.is_file() and path.parent != package)
    return [package / "Manifest.json", *inner]


def _stored(operation: Operation) -> QuantizedTensor:
    data, scale = np.asarray(operation.data.val), np.asarray(operation.scale.val)
    bits = 4 if "int4" in str(operation.data.dtype) else 8
    return QuantizedTensor(torch.from_numpy(data.astype("int8")), torch.from_numpy(scale.astype("float32")), bits)
