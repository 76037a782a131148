"""Core AI: .aimodel folders for OS 27, integers as blockwise_shift_scale, the KV cache as two states.

The decoder has two functions that share their weights: `prefill` takes PREFILL tokens (padded), `decode` takes one.
All compute in float16, norms in float32. Beta: the packages that make and run it are.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from himix_edge.bundle import Bundle
from himix_edge.export.graphs import (
    Swapped,
    VisionInjector,
    decompose_gelu,
    injector_outputs,
    keep_injection,
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
from himix_edge.export.targets.coreai.converter import Function, save_program
from himix_edge.export.targets.coreai.stored import stored_tensors
from himix_edge.export.tolerance import FLOAT16, FLOAT32, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.coreai.engine import CAPACITY_MULTIPLE, PREFILL, STATES, CoreAiEngine
from himix_edge.runtimes.engine import Engine


class CoreAiTarget:
    """Three .aimodel folders."""

    name = "coreai"
    extra = "coreai"
    disk = (8.0, 8.0)
    activations: Literal["float16"] = "float16"
    # the exact check converts the same graphs for float32; Apple's runtime for Linux takes seconds a token in float16
    tolerances = Tolerances({"float16": FLOAT16}, exact=FLOAT32, questions=2)

    def tools(self) -> dict[str, str]:
        return versions("coreai-core", "coreai-torch", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        return _stages(model, options.capacity, torch.float16)

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        """The same integers and graphs, converted for float32 throughout."""
        capacity = bundle.manifest.context_capacity
        stages = _stages(model, capacity, torch.float32)
        files = {role: write(scratch)[0] for role, write in stages.items()}
        return CoreAiEngine(files, bundle.config, capacity)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        names = names_by_digest(bundle.manifest.weights)
        for role in bundle.manifest.roles:
            for number, tensor in enumerate(stored_tensors(bundle.role_path(role).parent)):
                yield names.get(digest(tensor), f"{role}: {number}"), tensor


TARGET = CoreAiTarget()


class Weight(nn.Module):
    """A matrix as it is stored; called, it gives floats."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.bits = 0
        if isinstance(module, QuantizedModule):
            self.bits = module.bits
            self.register_buffer("values", module.values)
            self.register_buffer("scale", module.scale)
        else:
            self.weight = module.get_parameter("weight")

    def forward(self) -> Tensor:
        if not self.bits:
            return self.weight
        kind = getattr(torch, f"int{self.bits}")
        floats: Tensor = torch.ops.coreai.constexpr_blockwise_shift_scale(
            self.get_buffer("values"), self.get_buffer("scale"), input_dtype=kind
        )
        return floats


class Linear(nn.Module):
    """A linear layer on a stored matrix."""

    bias: Tensor | None

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.weight = Weight(linear)
        self.register_buffer("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


class Encoder(nn.Module):
    """image uint8 (1, S, S, 3) -> vision_features float32 (1, N, d_v)."""

    def __init__(self, tower: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.tower, self.dtype = tower, dtype

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.tower(image.to(self.dtype))
        return features.float()


class Injector(nn.Module):
    """vision_features float32 (1, N, d_v) -> vision_key, vision_value float32 (I, G, N, h), or vision_embeds."""

    def __init__(self, model: VisionLanguageModel, dtype: torch.dtype):
        super().__init__()
        self.injector, self.dtype = VisionInjector(model), dtype

    def forward(self, vision_features: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = self.injector(vision_features.to(self.dtype))
        return made.float() if isinstance(made, Tensor) else tuple(each.float() for each in made)


class Decoder(nn.Module):
    """`StatefulDecoder` with float32 logits, and pictures' embeddings as float32."""

    def __init__(self, decoder: StatefulDecoder, dtype: torch.dtype):
        super().__init__()
        self.decoder, self.dtype = decoder, dtype

    def forward(
        self, input_ids: Tensor, start: Tensor, position: Tensor, last: Tensor, vision_embeds: Tensor | None = None
    ) -> Tensor:
        pictures = None if vision_embeds is None else vision_embeds.to(self.dtype)
        logits: Tensor = self.decoder(input_ids, start, position, last, pictures)
        return logits.float()


def _stages(model: QuantizedModel, capacity: int, dtype: torch.dtype) -> dict[str, Callable[[Path], list[Path]]]:
    return {
        "vision_encoder": lambda folder: _encoder(model, folder, dtype),
        "vision_injector": lambda folder: _injector(model, folder, dtype),
        "decoder": lambda folder: _decoder(model, capacity, folder, dtype),
    }


def _encoder(model: QuantizedModel, folder: Path, dtype: torch.dtype) -> list[Path]:
    vision = model.reference.config.vision
    assert vision is not None
    image = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
    tower = decompose_gelu(_swap(share_weights(model.reference).vision_tower))
    function = Function("main", Encoder(_in(tower, dtype), dtype), (image,), ["image"], ["vision_features"])
    return save_program([function], folder / "vision_encoder.aimodel")


def _injector(model: QuantizedModel, folder: Path, dtype: torch.dtype) -> list[Path]:
    config = model.reference.config
    assert config.vision is not None
    features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
    injector = _in(Injector(_swap(keep_injection(share_weights(model.reference))), dtype), dtype)
    function = Function("main", injector, (features,), ["vision_features"], injector_outputs(config))
    return save_program([function], folder / "vision_injector.aimodel")


def _decoder(model: QuantizedModel, capacity: int, folder: Path, dtype: torch.dtype) -> list[Path]:
    config = model.reference.config
    slots = -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
    decoder = Decoder(_in(StatefulDecoder(_swap(share_weights(model.reference)), slots, Weight), dtype), dtype)
    functions = []
    for name, tokens in (("prefill", min(PREFILL, slots)), ("decode", 1)):
        arguments = (
            torch.zeros(1, tokens, dtype=torch.int32),
            *(torch.tensor([n], dtype=torch.int32) for n in (2, 1, 0)),
            *((torch.zeros(1, tokens, config.decoder.hidden_size),) if config.images else ()),
        )
        inputs = ["input_ids", "start", "position", "last", *(["vision_embeds"] if config.images else [])]
        functions.append(Function(name, decoder, arguments, inputs, ["logits"], STATES))
    return save_program(functions, folder / "decoder.aimodel")


def _swap(module: Swapped) -> Swapped:
    return swap_linears(module, Linear)


def _in(module: Swapped, dtype: torch.dtype) -> Swapped:
    """A module with its floats in this type. What it shares with another one stays as it is there."""
    made: dict[int, Tensor | nn.Parameter] = {}  # a tied matrix stays one
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None and parameter.dtype != dtype:
                made.setdefault(id(parameter), nn.Parameter(parameter.detach().to(dtype), False))
                child._parameters[name] = cast(nn.Parameter, made[id(parameter)])
        for name, buffer in child._buffers.items():
            if buffer is not None and buffer.is_floating_point() and buffer.dtype != dtype:
                made.setdefault(id(buffer), buffer.to(dtype))
                child._buffers[name] = made[id(buffer)]
    return module
