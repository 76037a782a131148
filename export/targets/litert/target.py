"""LiteRT: three .tflite files, which XNNPACK computes; the decoder's graphs share one copy of the weights.

The files are written here, operator by operator: Google's converter wants packages that this project's cannot stand
beside, folds norms into weights, and holds every weight in float. Quantized linears compute with int8 activations,
there is no other kernel. So the exact check multiplies the weights of the very files out and compares in float.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from himix_edge.bundle import Bundle
from himix_edge.errors import InputError
from himix_edge.export.graphs import injector_outputs, quiet, share_weights
from himix_edge.export.quantization.tensors import QuantizedModel, QuantizedTensor
from himix_edge.export.target import ExportOptions, versions
from himix_edge.export.targets.litert.graph import Graph
from himix_edge.export.targets.litert.lowering import lower
from himix_edge.export.targets.litert.model_file import ModelFile, write_model
from himix_edge.export.targets.litert.modules import HANDLERS, Decoder, Injector, swap
from himix_edge.export.targets.litert.weights import read_back, write_float_twin
from himix_edge.export.tolerance import FLOAT32, INT8, Tolerances
from himix_edge.model import VisionLanguageModel
from himix_edge.runtimes.engine import Engine
from himix_edge.runtimes.litert.engine import STEPS, cache_names, cache_sizes, graph_name
from himix_edge.runtimes.loading import load_engine


class LiteRtTarget:
    """Three .tflite files."""

    name = "litert"
    extra = "litert"
    disk = (2.1, 8.0)  # the exact check has the files in float
    activations: None = None
    tolerances = Tolerances({"float": FLOAT32, "int8": INT8}, exact=FLOAT32)

    def tools(self) -> dict[str, str]:
        return versions("ai-edge-litert", extra=self.extra)

    def stages(self, model: QuantizedModel, options: ExportOptions) -> dict[str, Callable[[Path], list[Path]]]:
        if model.tensors and not options.int8_activations:
            raise InputError("LiteRT has no kernels for quantized weights with float activations; use --quant none")
        return {
            "vision_encoder": lambda folder: _encoder(model, folder),
            "vision_injector": lambda folder: _injector(model, folder),
            "decoder": lambda folder: _decoder(model, options.capacity, folder),
        }

    def exact_reference(self, model: QuantizedModel) -> VisionLanguageModel:
        return model.reference

    def exact_engine(self, model: QuantizedModel, bundle: Bundle, scratch: Path) -> Engine:
        files = {}
        for role in bundle.manifest.roles:
            files[role] = scratch / f"{role}.tflite"
            write_float_twin(bundle.role_path(role), files[role])
        return load_engine(bundle, role_files=files)

    def read_weights(self, bundle: Bundle) -> Iterator[tuple[str, QuantizedTensor]]:
        return read_back(bundle)


TARGET = LiteRtTarget()


def _encoder(model: QuantizedModel, folder: Path) -> list[Path]:
    vision = model.reference.config.vision
    assert vision is not None
    tower = swap(share_weights(model.reference).vision_tower)
    pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8)
    file = ModelFile()
    lower(_trace(tower, (pixels,)), Graph(file, "vision_encoder"), ["image"], ["vision_features"], HANDLERS)
    return _write(file, folder / "vision_encoder.tflite")


def _injector(model: QuantizedModel, folder: Path) -> list[Path]:
    config = model.reference.config
    assert config.vision is not None
    features = torch.zeros(1, config.vision.num_tokens, config.vision.feature_size)
    injector = Injector(share_weights(model.reference))
    file = ModelFile()
    program, names = _trace(injector, (features,)), injector_outputs(config)
    lower(program, Graph(file, "vision_injector"), ["vision_features"], names, HANDLERS)
    return _write(file, folder / "vision_injector.tflite")


def _decoder(model: QuantizedModel, capacity: int, folder: Path) -> list[Path]:
    config = model.reference.config
    sizes = cache_sizes(capacity)
    decoder = Decoder(share_weights(model.reference), capacity + STEPS[0])
    heads, head_dim = config.decoder.num_key_value_heads, config.decoder.head_dim
    past, present = (cache_names(kind, config.decoder.num_hidden_layers) for kind in ("past", "present"))
    file = ModelFile()
    for tokens in STEPS:
        numbers = ["filled", "position", *(["last"] if tokens > 1 else [])]
        embeds = [torch.zeros(1, tokens, config.decoder.hidden_size)] if config.images else []
        arguments = (
            torch.zeros(1, tokens, dtype=torch.int32),
            *(torch.tensor([i], dtype=torch.int32) for i in range(len(numbers))), *([] if tokens > 1 else [None]),
            *embeds, *(torch.zeros(1, heads, sizes[-1], head_dim) for _ in past),
        )  # fmt: skip
        slots = {2: torch.export.Dim("slots", min=2 * tokens, max=sizes[-1])}
        names = ["input_ids", *numbers, *("vision_embeds" for _ in embeds), *past]
        program = _trace(decoder, arguments, (*(None,) * 4, (*(None for _ in embeds), *(slots for _ in past))))
        for size in sizes:
            lower(program, Graph(file, graph_name(tokens, size)), names, ["logits", *present], HANDLERS, size)
    return _write(file, folder / "decoder.tflite")


def _trace(
    module: nn.Module, arguments: tuple[Tensor | None, ...], dynamic: tuple[object, ...] | None = None
) -> ExportedProgram:
    with quiet(), torch.no_grad():
        return torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic)


def _write(file: ModelFile, path: Path) -> list[Path]:
    write_model(file.schema, file.model, file.appended, path)
    return [path]
