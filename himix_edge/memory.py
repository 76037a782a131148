"""How much memory a bundle takes to run, predicted from its shapes and from what each runtime does with weights.

The peak is resident memory above that of the empty runtime, as `himix bench` measures it, with the cache filled to its
last slot. Each runtime's causes stand in its function below; `python -m benchmarks.memory` sets them beside measured
peaks. Nothing is imported but shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from himix_edge.bundle import Bundle, Manifest
from himix_edge.config import CNNConfig, FastViTConfig, ModelConfig, TransformersVisionConfig, ViTConfig
from himix_edge.errors import InputError

FLOAT = 4  # bytes; caches and activations are float32 in every runtime here
BLOCKS = (128, 64, 32, 16)  # columns that share an int8 scale in ONNX, the largest that divides a row


@dataclass(frozen=True)
class Model:
    """What a prediction needs of a bundle, or of one that is planned.

    Attributes:
        config: the model's.
        roles: role -> bytes as stored.
        bits: of `decoder` and `embedding` (32: float).
        group_size: of 4-bit weights.
        int8_activations: whether linears multiply by int8.
        capacity: cache slots.
    """

    config: ModelConfig
    roles: Mapping[str, int]
    bits: Mapping[str, int]
    group_size: int
    int8_activations: bool
    capacity: int

    @property
    def stored(self) -> int:
        """Bytes of all weights, a file's for each role."""
        return sum(self.roles.values())

    @property
    def linears(self) -> int:
        """Numbers in the decoder's matrices, embedding and head aside."""
        decoder = self.config.decoder
        return decoder.num_hidden_layers * decoder.layer_parameters

    @property
    def table(self) -> int:
        """Numbers of the embedding, or of the head."""
        return self.config.decoder.vocab_size * self.config.decoder.hidden_size

    @property
    def table_bytes(self) -> int:
        """Bytes of the embedding's integers, or floats, as stored."""
        return self.table * self.bits.get("embedding", 32) // 8

    @property
    def cache(self) -> int:
        """Keys and values of every slot in float32."""
        decoder = self.config.decoder
        return 2 * decoder.num_hidden_layers * decoder.kv_size * self.capacity * FLOAT


@dataclass(frozen=True)
class Prediction:
    """Bytes.

    Attributes:
        parts: cause -> what is held at the end of a question.
        opening: the peak while the bundle is opened.
        note: what is not known.
    """

    parts: dict[str, int]
    opening: int
    note: str | None = None

    @property
    def running(self) -> int:
        """What is held at the end of a question."""
        return sum(self.parts.values())

    @property
    def peak(self) -> int:
        """The largest, opening or running."""
        return max(self.opening, self.running)


def of_manifest(folder: Path, manifest: Manifest) -> Model:
    """What a bundle's manifest says. Raises InputError for a model that is none."""
    quantization = manifest.quantization
    return Model(
        Bundle(folder, manifest).config,
        {role: sum(record.bytes for record in records) for role, records in manifest.roles.items()},
        quantization.bits,
        quantization.group_size,
        quantization.activations == "int8",
        manifest.context_capacity,
    )


def predict(target: str, model: Model) -> Prediction:
    """The peak of a bundle of this target.

    Raises:
        InputError: what this runtime does with weights is not known here.
    """
    rule = RULES.get(target)
    if rule is None:
        raise InputError(f"target {target}: its use of memory is not known; known: {', '.join(RULES)}")
    return rule(model)


def image_bytes(config: ModelConfig) -> int:
    """What the tower needs beside its weights, about: the largest layer's input, output and one more, or attention.

    ViT: a token's hidden and MLP vectors twice, and attention's scores of all heads. Convolutions: three of the largest
    feature maps.
    """
    tower = config.vision
    if isinstance(tower, ViTConfig):
        tokens = (tower.image_size // tower.patch_size) ** 2
        rows = 2 * tokens * (tower.hidden_size + tower.intermediate_size)
        return FLOAT * (rows + tower.num_attention_heads * tokens**2)
    if isinstance(tower, CNNConfig):  # half the pixels a side; the first blocks widen 16 channels to 96
        return FLOAT * 3 * 96 * (tower.image_size // 2) ** 2
    if isinstance(tower, FastViTConfig):  # a quarter of the pixels a side
        return FLOAT * 3 * tower.widths[0] * tower.mlp_ratio * (tower.image_size // 4) ** 2
    if isinstance(tower, TransformersVisionConfig):
        return FLOAT * 10 * tower.num_tokens * tower.feature_size
    return 0


def _kept_image(model: Model) -> int:
    """The image's keys and values as they come out of the injector and are kept by the session, two copies."""
    config = model.config
    return 2 * FLOAT * 2 * config.num_vision_rows * config.decoder.kv_size * config.tile_tokens


def _blocks(bits: int, model: Model) -> int:
    """Columns that share a scale where ONNX Runtime packs them."""
    if bits == 4:
        return model.group_size or 32
    return next((block for block in BLOCKS if model.config.decoder.hidden_size % block == 0), 16)


def _onnx(model: Model) -> Prediction:
    """ONNX Runtime.

    MatMulNBits is packed when the session is made, and the stored integers are let go: beside each block a float32
    scale and, with int8 activations, the sum of its integers. A tied table is looked up as stored and packed once more
    as the head. While the table is packed both lie in memory. Tower and injector are laid out anew once.
    """
    bits, table_bits = model.bits.get("decoder", 32), model.bits.get("embedding", 32)
    table = model.table_bytes

    def packed(count: int, width: int) -> int:
        if width > 8:
            return count * FLOAT
        beside = FLOAT * (2 if model.int8_activations else 1)
        return count * width // 8 + beside * count // _blocks(width, model)

    weights = packed(model.linears, bits) + packed(model.table, table_bits)
    parts = {
        "runtime": 20_000_000,
        "tower and injector": model.roles["vision_encoder"] + model.roles["vision_injector"],
        "decoder, packed": weights,
        "embedding, to look up": table,
        "cache": model.cache,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    opening = parts["runtime"] + parts["tower and injector"] + weights + 2 * table
    return Prediction(parts, opening)


def _onnx_portable(model: Model) -> Prediction:
    """ONNX Runtime on standard operators.

    DequantizeLinear runs at each step, so a float copy of the decoder's matrices stays in the arena; with int8 weights
    two more are made when the session is. There is no fixed cache: a step holds what goes in and what comes out.
    """
    bits = model.bits.get("decoder", 32)
    floats = FLOAT * (model.linears + model.table)
    copies = {8: 3, 4: 1}.get(bits, 1)
    held = {8: 2, 4: 0}.get(bits, 1)
    parts = {
        "runtime": 20_000_000,
        "weights as stored": model.stored if bits <= 8 else model.stored - model.roles["decoder"],
        "decoder in float": copies * floats,
        "embedding in float": FLOAT * model.table if bits <= 8 else 0,
        "cache, in and out": 2 * model.cache,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    return Prediction(parts, parts["runtime"] + parts["weights as stored"] + held * floats)


def _openvino(model: Model) -> Prediction:
    """OpenVINO.

    The files are mapped, and their pages stay resident as far as they were read; the plugin lays every weight out anew
    when it is used first. Paged attention's cache is allocated whole.
    """
    parts = {
        "runtime": 68_000_000,
        "weights, mapped files": model.stored,
        "weights, laid out anew": model.stored,
        "cache": model.cache,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    return Prediction(parts, parts["runtime"] + model.stored + model.roles["vision_encoder"])


def _executorch(model: Model) -> Prediction:
    """ExecuTorch.

    XNNPACK packs every weight when a method is loaded, and what it read of the file is let go; the embedding is looked
    up in the mapped file. A method's arena is as large as its longest input needs: that of `start`, which fills the
    cache from an image, is planned for as many slots as there are, what goes in and what comes out of it; that of the
    decoder for as long a prompt.
    """
    decoder = model.config.decoder
    whole, table = _whole(model), model.table_bytes
    parts = {
        "runtime": 16_000_000,
        "weights, packed": whole,
        "embedding, mapped": table,
        "cache": model.cache,
        "arena of `start`": 2 * model.cache,
        "arena of the decoder": 5 * decoder.hidden_size * model.capacity * FLOAT,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    return Prediction(parts, parts["runtime"] + whole + 2 * table + 3 * model.cache)


def _litert(model: Model) -> Prediction:
    """LiteRT.

    Weights are read and packed by XNNPACK, whose cache in memory holds them once for all graphs: two copies of all but
    the embedding, which is looked up in the mapped file. The cache goes in and comes out in the same memory, and has
    the smallest of its sizes that holds what there is.
    """
    parts = {
        "runtime": 20_000_000,
        "weights, read": model.stored - model.table_bytes,
        "weights, packed": model.stored - model.table_bytes,
        "embedding, mapped": model.table_bytes,
        "cache": model.cache,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    return Prediction(parts, parts["runtime"] + model.stored + model.table_bytes)


def _coreml(model: Model) -> Prediction:
    """Core ML: what there has to be; its own copies are unknown, as it was never measured on an Apple device."""
    parts = {
        "weights as stored": model.stored,
        "cache": model.cache,
        "image stage": image_bytes(model.config) + _kept_image(model),
    }
    return Prediction(parts, model.stored, "the least: Core ML's own copies were never measured on an Apple device")


def _whole(model: Model) -> int:
    """Bytes of a file that serves every role: the manifest lists it for each."""
    sizes = set(model.roles.values())
    return max(sizes) if len(sizes) == 1 else model.stored


RULES: dict[str, Callable[[Model], Prediction]] = {
    "onnx": _onnx,
    "onnx_portable": _onnx_portable,
    "openvino": _openvino,
    "executorch": _executorch,
    "litert": _litert,
    "coreml": _coreml,
}
