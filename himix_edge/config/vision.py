"""The vision towers' configurations. Every kind gives `image_size`, `num_tokens` (N) and `feature_size` (d_v)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from himix_edge.reading import MAX_LAYERS

Resample = Literal["bilinear", "bicubic"]
Side = Annotated[int, Field(ge=1, le=4096)]  # pixels; the largest published towers take 1536
Epsilon = Annotated[float, Field(gt=0, le=1)]
Channel = Annotated[float, Field(ge=-10, le=10)]
RGB = tuple[Channel, Channel, Channel]
Depth = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Width = Annotated[int, Field(ge=1, le=1 << 16)]  # channels
STRICT = ConfigDict(extra="forbid")  # a misspelt field is an error


def _check_deviation(image_std: RGB) -> None:
    if not all(1e-4 <= value < math.inf for value in image_std):
        raise ValueError(f"image_std {image_std} must be positive, and of pixels from 0 to 1")


@dataclass(frozen=True)
class ViTConfig:
    """A ViT tower: SigLIP, CLIP, DINOv2, ViT or our own. All sizes in pixels or channels.

    Attributes:
        stem_channels: of 3x3 stride-2 convolutions in place of the patch projection.
        class_token: a learned token in front of the patches (CLIP, DINOv2, ViT).
        pre_norm: a LayerNorm behind the embeddings (CLIP).
        layer_scale: a learned factor per channel behind attention and MLP (DINOv2).
        feature_layers: indices into the hidden states, as in LLaVA: -2 is the penultimate layer's output. Several
            levels are joined along the channels.
        drop_first_token: LLaVA's "patch" selection: without the class token, or without SigLIP's first patch.
        post_norm: a LayerNorm behind the last block (SigLIP as SmolVLM and Idefics3 use it).
        pooling: average-pool the token grid by this factor in both directions.
        resample: the filter that an app resizes the image with.
    """

    image_size: Side
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: Epsilon = 1e-6
    hidden_act: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    image_mean: RGB = (0.5, 0.5, 0.5)
    image_std: RGB = (0.5, 0.5, 0.5)
    stem_channels: Annotated[tuple[int, ...], Field(max_length=12)] = ()
    class_token: bool = False
    pre_norm: bool = False
    layer_scale: bool = False
    feature_layers: Annotated[tuple[int, ...], Field(max_length=64)] = (-2,)
    drop_first_token: bool = False
    pooling: int = 1
    resample: Resample = "bilinear"
    post_norm: bool = False
    kind: Literal["vit"] = "vit"
    __pydantic_config__ = STRICT

    @property
    def grid(self) -> int:
        """Patches along a side; pixels beyond the last whole patch are cut off, as a convolution does."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        if self.pooling > 1:
            return (self.grid // self.pooling) ** 2
        return self.grid**2 + self.class_token - self.drop_first_token

    @property
    def feature_size(self) -> int:
        return self.hidden_size * len(self.feature_layers)

    @property
    def parameters(self) -> int:
        """How many numbers the matrices hold, those of layers that never run included."""
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        return self.num_hidden_layers * layer + self.hidden_size * (3 * self.patch_size**2 + self.grid**2)

    @property
    def num_layers_used(self) -> int:
        """Blocks that run: those behind the last of `feature_layers` are never built."""
        return self.num_hidden_layers + 1 + max(self.feature_layers)

    def __post_init__(self) -> None:
        _check_deviation(self.image_std)
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be at least patch_size ({self.patch_size})")
        if self.stem_channels and self.patch_size != 2 ** len(self.stem_channels):
            raise ValueError(
                f"patch_size ({self.patch_size}) must be 2 to the number of stem_channels ({len(self.stem_channels)})"
            )
        if self.stem_channels and self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.post_norm and self.feature_layers != (-1,):
            raise ValueError(f"post_norm stands behind the last block; feature_layers are {self.feature_layers}")
        if not self.feature_layers or not all(-self.num_hidden_layers <= i <= -1 for i in self.feature_layers):
            raise ValueError(f"feature_layers {self.feature_layers} must be in -{self.num_hidden_layers}..-1")
        if self.pooling < 1 or self.grid % self.pooling:
            raise ValueError(f"pooling ({self.pooling}) must divide the {self.grid} patches of a side")
        if self.num_tokens < 1:
            raise ValueError("drop_first_token leaves no token")
        if self.pooling > 1 and self.class_token != self.drop_first_token:
            raise ValueError("pooling needs the whole grid and nothing else: drop_first_token only with class_token")


@dataclass(frozen=True)
class CNNConfig:
    """A convolutional tower by name; features are the last feature map and its cells' positions, added and flattened.

    EfficientNet-Lite0: 7 x 7 x 1280.
    """

    name: Literal["efficientnet_lite0"]
    image_size: Side = 224
    image_mean: RGB = (127 / 255, 127 / 255, 127 / 255)
    image_std: RGB = (128 / 255, 128 / 255, 128 / 255)
    pooling: int = 1
    resample: Resample = "bicubic"
    kind: Literal["cnn"] = "cnn"
    __pydantic_config__ = STRICT

    @property
    def grid(self) -> int:
        """Side of the feature map: five halvings, rounded up."""
        return -(-self.image_size // 32)

    @property
    def num_tokens(self) -> int:
        return (self.grid // self.pooling) ** 2

    @property
    def feature_size(self) -> int:
        return 1280

    @property
    def parameters(self) -> int:
        """Of EfficientNet-Lite0's features."""
        return 3_400_000

    def __post_init__(self) -> None:
        _check_deviation(self.image_std)
        if self.pooling < 1 or self.grid % self.pooling:
            raise ValueError(f"pooling ({self.pooling}) must divide the {self.grid} cells of a side")


@dataclass(frozen=True)
class FastViTConfig:
    """A FastViT tower (arXiv 2303.14189) in its inference form, as FastVLM's FastViTHD (the default sizes).

    Attributes:
        depths: blocks of each stage; a stage has half the cells a side of the one before, the first a quarter of the
            pixels.
        widths: their channels.
        attention_stages: how many of the last ones mix by attention, the others by convolution.
        mlp_ratio: hidden channels of the feed-forward, in widths.
        head_dim: of attention.
        expansion: channels of the features, in last widths.
        squeeze: how many of them become one in squeeze and excitation.
    """

    image_size: Side = 1024
    depths: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)] = (2, 12, 24, 4, 2)
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)] = (96, 192, 384, 768, 1536)
    attention_stages: int = 2
    mlp_ratio: Annotated[int, Field(ge=1, le=16)] = 4
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 32
    expansion: Annotated[int, Field(ge=1, le=8)] = 2
    squeeze: Annotated[int, Field(ge=1, le=1024)] = 16
    layer_norm_eps: Epsilon = 1e-5
    image_mean: RGB = (0.0, 0.0, 0.0)
    image_std: RGB = (1.0, 1.0, 1.0)
    resample: Resample = "bicubic"
    kind: Literal["fastvit"] = "fastvit"
    __pydantic_config__ = STRICT

    @property
    def grid(self) -> int:
        """Cells along a side of the last map; each halving rounds up."""
        return -(-self.image_size // 2 ** (len(self.depths) + 1))

    @property
    def num_tokens(self) -> int:
        return self.grid**2

    @property
    def feature_size(self) -> int:
        return self.widths[-1] * self.expansion

    @property
    def parameters(self) -> int:
        """How many numbers the linear layers hold; the depthwise kernels are few."""
        blocks = sum(n * 2 * self.mlp_ratio * width**2 for n, width in zip(self.depths, self.widths, strict=True))
        attending = zip(self.depths[self._first_attention :], self.widths[self._first_attention :], strict=True)
        attention = sum(4 * n * width**2 for n, width in attending)
        points = sum(width**2 for width in self.widths)
        return blocks + attention + points + 2 * self.feature_size**2 // self.squeeze

    @property
    def _first_attention(self) -> int:
        return len(self.depths) - self.attention_stages

    def __post_init__(self) -> None:
        _check_deviation(self.image_std)
        if len(self.depths) != len(self.widths):
            raise ValueError(f"{len(self.depths)} depths and {len(self.widths)} widths")
        if sum(self.depths) > MAX_LAYERS:
            raise ValueError(f"depths: more than {MAX_LAYERS} layers")
        if not 0 <= self.attention_stages <= len(self.depths):
            raise ValueError(f"attention_stages ({self.attention_stages}) of {len(self.depths)} stages")
        if any(width % self.head_dim for width in self.widths[self._first_attention :]):
            raise ValueError(f"widths {self.widths} with attention must be multiples of head_dim ({self.head_dim})")
        if any(after % before for before, after in pairwise(self.widths)):
            raise ValueError(f"widths {self.widths} must each be a multiple of the one before")
        if self.feature_size < self.squeeze:
            raise ValueError(f"squeeze ({self.squeeze}) leaves no channel of {self.feature_size}")


@dataclass(frozen=True)
class TransformersVisionConfig:
    """A tower that runs as Hugging Face's own module (BEiT, Hiera): `config` is its config.json.

    `num_tokens` and `feature_size` are recorded here so that a runtime without transformers knows them; they are
    checked against the module when the tower is built.
    """

    config: dict[str, object]
    image_size: Side
    num_tokens: int
    feature_size: int
    feature_layer: int = -2
    drop_first_token: bool = False
    image_mean: RGB = (0.5, 0.5, 0.5)
    image_std: RGB = (0.5, 0.5, 0.5)
    resample: Resample = "bicubic"
    kind: Literal["transformers"] = "transformers"
    __pydantic_config__ = STRICT

    @property
    def parameters(self) -> int:
        """Unknown before the module is built, which checks its own sizes."""
        return 0

    def __post_init__(self) -> None:
        _check_deviation(self.image_std)
        depths = self.config.get("depths")  # of Hiera's stages
        if isinstance(depths, list) and sum(n for n in depths if isinstance(n, int)) > MAX_LAYERS:
            raise ValueError(f"config.depths: more than {MAX_LAYERS} layers")


def _kind(value: object) -> object:
    """A config.json from before there were kinds is a ViT's."""
    return value.get("kind", "vit") if isinstance(value, dict) else getattr(value, "kind", None)


VisionConfig = Annotated[
    Annotated[ViTConfig, Tag("vit")]
    | Annotated[CNNConfig, Tag("cnn")]
    | Annotated[FastViTConfig, Tag("fastvit")]
    | Annotated[TransformersVisionConfig, Tag("transformers")],
    Discriminator(_kind),
]
