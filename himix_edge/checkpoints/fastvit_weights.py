"""The weights of a FastViT tower, under its authors' names (apple/ml-fastvlm), in training's form or in inference's.

In training's, several convolutions with batch norms stand side by side, some with a skip between them. They are linear,
so one convolution does the same (RepVGG, arXiv 2101.03697): branches add up when a tensor is read. Scales of layers and
the feed-forward's batch norm become part of the layer beside them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.checkpoints.assemble import check_names, expected_shapes
from himix_edge.checkpoints.lazy import LazyTensor, Weights
from himix_edge.config import FastViTConfig
from himix_edge.errors import InputError
from himix_edge.model.meta import meta_device
from himix_edge.model.tower import build_tower

EPSILON = 1e-5  # of torch's batch norm
Pair = tuple[Tensor, Tensor]  # a convolution's weight and bias
Fuse = Callable[[], Pair]
UNUSED = ("head.",)  # their classifier or projection, which features do not pass


def fastvit_weights(tensors: Weights, config: FastViTConfig, where: str) -> Weights:
    """A tower's weights under this project's names.

    Args:
        tensors: the authors', of `FastViT` alone.
        config: the tower's.
        where: the source, for messages.

    Raises:
        InputError: missing, surplus or misshapen tensors, named.
    """
    with meta_device():
        expected = expected_shapes(build_tower(config))
    state = _State(tensors, where)
    found: dict[str, LazyTensor] = {}
    for ours, fuse in _layers(state, config):
        for part, name in enumerate(("weight", "bias")):
            if (whole := f"{ours}.{name}") in expected:
                found[whole] = _lazy(fuse, part, expected[whole])
    for name in tensors.keys() - state.used:
        if not name.startswith(UNUSED) and not name.endswith("num_batches_tracked"):
            found[name] = tensors[name]
    check_names(found, expected, where)
    return found


def _lazy(fuse: Fuse, part: int, shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(shape, lambda: fuse()[part].reshape(shape))


@dataclass
class _State:
    """The authors' tensors; `used` are those that something was made of."""

    tensors: Weights
    where: str
    used: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        """A tensor's values, in float32. Raises InputError if it is missing, or of another shape."""
        if name not in self.tensors:
            raise InputError(f"{self.where}: tensors do not fit config.json: missing {name}")
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise InputError(f"{self.where}: {name} has shape {tensor.shape}, its tower wants {shape}")
        self.used.add(name)
        return lambda: tensor.read().float()

    def plain(self, name: str, shape: tuple[int, ...], bias: bool = True) -> Fuse:
        """A layer as it is stored."""
        weight = self.take(f"{name}.weight", shape)
        offset = self.take(f"{name}.bias", shape[:1]) if bias else None
        return lambda: (weight(), torch.zeros(shape[0]) if offset is None else offset())

    def norm(self, name: str, channels: int) -> Fuse:
        """A batch norm as the factor and the offset of each channel."""
        names = ("weight", "bias", "running_mean", "running_var")
        parts = [self.take(f"{name}.{part}", (channels,)) for part in names]

        def read() -> Pair:
            gain, offset, mean, variance = (part() for part in parts)
            gain = gain / (variance + EPSILON).sqrt()
            return gain, offset - mean * gain

        return read

    def normed(self, name: str, shape: tuple[int, ...], kernel: int) -> Fuse:
        """A convolution with a batch norm behind it, in the middle of a kernel that may be larger."""
        weight, norm = self.take(f"{name}.conv.weight", shape), self.norm(f"{name}.bn", shape[0])

        def read() -> Pair:
            gain, offset = norm()
            return F.pad(weight() * gain[:, None, None, None], [(kernel - shape[-1]) // 2] * 4), offset

        return read


def _layers(state: _State, config: FastViTConfig) -> Iterator[tuple[str, Fuse]]:
    """Every layer's name here, and what reads its weight and bias."""
    widths = config.widths
    yield "stem.first", _branches(state, "patch_embed.0", (widths[0], 3, 3, 3))
    yield "stem.second", _branches(state, "patch_embed.1", (widths[0], 1, 3, 3))
    yield "stem.point", _branches(state, "patch_embed.2", (widths[0], widths[0], 1, 1))
    place = 0
    for index, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
        ours = f"stages.{index}"
        if index:
            theirs = f"network.{place}.proj"
            yield f"{ours}.down.large", _large(state, f"{theirs}.0", (width, 1, 7, 7))
            yield f"{ours}.down.point", _branches(state, f"{theirs}.1", (width, width, 1, 1))
            place += 1
        attends = index >= len(widths) - config.attention_stages
        if attends:
            yield f"{ours}.positions", _positions(state, f"network.{place}", (width, 1, 7, 7))
            place += 1
        for block in range(depth):
            names = f"{ours}.blocks.{block}", f"network.{place}.{block}"
            yield from (_attention if attends else _mixer)(state, *names, width, config)
        place += 1
    wide = config.feature_size
    narrow = wide // config.squeeze
    yield "expansion.filter", _branches(state, "conv_exp", (wide, 1, 3, 3))
    yield "expansion.reduce", state.plain("conv_exp.se.reduce", (narrow, wide, 1, 1))
    yield "expansion.expand", state.plain("conv_exp.se.expand", (wide, narrow, 1, 1))


def _mixer(state: _State, ours: str, theirs: str, width: int, config: FastViTConfig) -> Iterator[tuple[str, Fuse]]:
    yield f"{ours}.mixer", _rep_mixer(state, f"{theirs}.token_mixer", (width, 1, 3, 3))
    yield from _feed_forward(state, ours, theirs, f"{theirs}.layer_scale", width, config)


def _attention(state: _State, ours: str, theirs: str, width: int, config: FastViTConfig) -> Iterator[tuple[str, Fuse]]:
    yield f"{ours}.norm", state.plain(f"{theirs}.norm", (width,))
    joined = state.take(f"{theirs}.token_mixer.qkv.weight", (3 * width, width))

    def third(part: int) -> Fuse:
        return lambda: (joined()[part * width : (part + 1) * width], torch.zeros(width))

    for part, letter in enumerate("qkv"):
        yield f"{ours}.attention.{letter}_proj", third(part)
    out = state.plain(f"{theirs}.token_mixer.proj", (width, width))
    yield f"{ours}.attention.out_proj", _scaled(out, state.take(f"{theirs}.layer_scale_1", (width, 1, 1)))
    yield from _feed_forward(state, ours, theirs, f"{theirs}.layer_scale_2", width, config)


def _feed_forward(
    state: _State, ours: str, theirs: str, scale: str, width: int, config: FastViTConfig
) -> Iterator[tuple[str, Fuse]]:
    hidden, inner = config.mlp_ratio * width, f"{theirs}.convffn"
    yield f"{ours}.feed_forward.spread", state.normed(f"{inner}.conv", (width, 1, 7, 7), 7)
    yield f"{ours}.feed_forward.fc1", state.plain(f"{inner}.fc1", (hidden, width, 1, 1))
    last = state.plain(f"{inner}.fc2", (width, hidden, 1, 1))
    yield f"{ours}.feed_forward.fc2", _scaled(last, state.take(scale, (width, 1, 1)))


def _scaled(layer: Fuse, scale: Callable[[], Tensor]) -> Fuse:
    def read() -> Pair:
        (weight, bias), factor = layer(), scale().flatten()
        return weight.flatten(1) * factor[:, None], bias * factor

    return read


def _branches(state: _State, name: str, shape: tuple[int, ...]) -> Fuse:
    """MobileOne's block (arXiv 2206.04040): convolutions, one of a single pixel, and a skip, each with its norm."""
    if state.has(f"{name}.reparam_conv.weight"):
        return state.plain(f"{name}.reparam_conv", shape)
    kernel = shape[-1]
    found: list[Fuse] = []
    while state.has(f"{name}.rbr_conv.{len(found)}.conv.weight"):
        found.append(state.normed(f"{name}.rbr_conv.{len(found)}", shape, kernel))
    if state.has(f"{name}.rbr_scale.conv.weight"):
        found.append(state.normed(f"{name}.rbr_scale", (*shape[:2], 1, 1), kernel))
    if state.has(f"{name}.rbr_skip.weight"):
        found.append(_skip(state.norm(f"{name}.rbr_skip", shape[0]), shape))
    if not found:
        raise InputError(f"{state.where}: tensors do not fit config.json: missing {name}.reparam_conv.weight")
    return _sum(found)


def _large(state: _State, name: str, shape: tuple[int, ...]) -> Fuse:
    """RepLKNet's: a large kernel, and a small one in its middle."""
    if not state.has(f"{name}.lkb_origin.conv.weight"):
        return state.plain(f"{name}.lkb_reparam", shape)
    found = [state.normed(f"{name}.lkb_origin", shape, shape[-1])]
    if state.has(f"{name}.small_conv.conv.weight"):
        found.append(state.normed(f"{name}.small_conv", (*shape[:2], 3, 3), shape[-1]))
    return _sum(found)


def _positions(state: _State, name: str, shape: tuple[int, ...]) -> Fuse:
    if not state.has(f"{name}.pe.weight"):
        return state.plain(f"{name}.reparam_conv", shape)
    return _sum([state.plain(f"{name}.pe", shape), lambda: (_identity(shape), torch.zeros(shape[0]))])


def _rep_mixer(state: _State, name: str, shape: tuple[int, ...]) -> Fuse:
    """x + scale (mixer(x) - norm(x)), all of them convolutions."""
    if state.has(f"{name}.reparam_conv.weight"):
        return state.plain(f"{name}.reparam_conv", shape)
    mixer, norm = _branches(state, f"{name}.mixer", shape), _branches(state, f"{name}.norm", shape)
    scale = state.take(f"{name}.layer_scale", (shape[0], 1, 1))

    def read() -> Pair:
        (weight, bias), (normed, offset), factor = mixer(), norm(), scale()
        return _identity(shape) + factor[..., None] * (weight - normed), factor.flatten() * (bias - offset)

    return read


def _skip(norm: Fuse, shape: tuple[int, ...]) -> Fuse:
    def read() -> Pair:
        gain, offset = norm()
        return _identity(shape) * gain[:, None, None, None], offset

    return read


def _identity(shape: tuple[int, ...]) -> Tensor:
    """The kernel (out, in, k, k) that gives every channel back."""
    kernel, channels = torch.zeros(shape), torch.arange(shape[0])
    kernel[channels, channels % shape[1], shape[2] // 2, shape[3] // 2] = 1
    return kernel


def _sum(branches: list[Fuse]) -> Fuse:
    def read() -> Pair:
        pairs = [branch() for branch in branches]
        return sum((w for w, _ in pairs[1:]), pairs[0][0]), sum((b for _, b in pairs[1:]), pairs[0][1])

    return read
