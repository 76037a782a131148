"""What the targets trace: the model's own modules, with quantized linears and attention swapped for a target's."""

import contextlib
import copy
import ctypes
import gc
import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from himix_edge.config import ModelConfig
from himix_edge.export.quantization.tensors import QuantizedLinear
from himix_edge.low_rank import role_linears
from himix_edge.model import HiMixModel, VanillaModel, VisionLanguageModel
from himix_edge.model.adapted import Factors
from himix_edge.model.decoder import DecoderStack, rope_tables, rotate
from himix_edge.model.vit import VisionBlock, gelu_tanh
from himix_edge.runtimes.chatter import without_logged_warnings

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Swapped = TypeVar("Swapped", bound=nn.Module)


def injector_outputs(config: ModelConfig) -> list[str]:
    """Names of what the injector's graph gives: keys and values, or embeddings of pictures that stand in the text."""
    return ["vision_key", "vision_value"] if config.images is None else ["vision_embeds"]


def factors_of(config: ModelConfig, role: str, rank: int) -> Factors | None:
    """The adapter, of a rank up to `rank`, that a role's graph takes; None: it takes none."""
    linears = role_linears(config)[role] if rank else {}
    return Factors(linears) if linears else None


class FixedImageRope(nn.Module):
    """`ImageRope` of one number of slots, whose tables are constants: some targets compute cosines coarsely."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rope: nn.Module, slots: int):
        super().__init__()
        cos, sin = rope(slots, torch.device("cpu"))
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


class VisionInjector(nn.Module):
    """vision_features (1, N, d_v) -> vision_key, vision_value (I, G, N, h), see `ModelConfig.vision_rows`.

    Where pictures stand in the text: -> vision_embeds (1, M, d).

    Layers whose norms are equal, as `fold_image_norms` makes them, have one.
    """

    def __init__(self, model: VisionLanguageModel):
        super().__init__()
        config = model.config
        if isinstance(model, HiMixModel) and (config.injection.positions, config.injection.mixing) != ("none", None):
            model = share_weights(model)
            model.image_rope = FixedImageRope(model.get_submodule("image_rope"), config.tile_tokens)
        self.model = model
        own = config.architecture == "himix" and config.injection.sharing == "none"
        layers = [model.model.layers[i] for i in config.projecting_layers] if own else []
        norms = [layer.input_layernorm_img for layer in layers]
        self.norm = norms[0] if norms and all(torch.equal(norm.weight, norms[0].weight) for norm in norms) else None
        self.attentions = [layer.self_attn for layer in layers]
        self.slots = [layer.slots_img for layer in layers]

    def projections(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """What all layers project, with one norm: keys and values (I, G, N, h)."""
        attention = self.attentions[0]
        made = self.linears_of(normed)
        key, value = (torch.cat([attention.split(new, attention.kv_heads) for new in made[i::2]]) for i in range(2))
        return key, value

    def linears_of(self, normed: Tensor) -> list[Tensor]:
        """Key and value (1, N, G*h) of each layer in turn."""
        return [project(normed) for a in self.attentions for project in (a.k_proj_img, a.v_proj_img)]

    def forward(self, vision_features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(self.model, VanillaModel) and self.model.config.images is not None:
            return self.model.connect(vision_features)
        if self.norm is None or not isinstance(self.model, HiMixModel):
            rows = self.model.project_image(vision_features)
            return torch.cat([key for key, _ in rows]), torch.cat([value for _, value in rows])
        states, passed = self.model.mix(vision_features)
        key, value = self.projections(self.norm(states))
        if self.model.config.injection.slots:
            heads = self.attentions[0].kv_heads
            key, value = (
                made + self.attentions[0].split(torch.stack([getattr(terms, kind) for terms in self.slots]), heads)
                for made, kind in ((key, "key"), (value, "value"))
            )
        key, value = (
            torch.cat([*(row[i] for row in passed), made]) if passed else made for i, made in enumerate((key, value))
        )
        return self.model.place(key), value


class Embedding(nn.Module):
    """What the decoder reads: ids (1, T) looked up, or where they are SLOT the row of `vision_embeds` (1, T, d)."""

    def __init__(self, table: Callable[[Tensor], Tensor]):
        super().__init__()
        self.table = table

    def forward(self, input_ids: Tensor, vision_embeds: Tensor | None) -> Tensor:
        if vision_embeds is None:
            return self.table(input_ids)
        # not clamp: in Core ML it goes through float16, which has no 2049
        words = torch.where(input_ids < 0, 0, input_ids)
        return torch.where(input_ids[..., None] < 0, vision_embeds, self.table(words))


class RotaryTable(nn.Module):
    """cos and sin of every position below `rows`, looked up."""

    cos: Tensor
    sin: Tensor

    def __init__(self, stack: DecoderStack, rows: int):
        super().__init__()
        cos, sin = rope_tables(stack.config, torch.arange(rows))
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, T) -> cos, sin (B, 1, T, h/2)."""
        cos, sin = (torch.nn.functional.embedding(position_ids, table)[:, None] for table in (self.cos, self.sin))
        return cos, sin


def run_layers(
    stack: DecoderStack, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, rotate: Callable[..., Tensor] = rotate
) -> Tensor:
    """Embeddings (B, T, d) through all layers -> states (B, T, d) before the final norm.

    `attend(layer, query (B, H, T, h), key, value (B, G, T, h)) -> (B, H, T, h)` is the target's attention behind its
    cache; query and key are rotated already, by `rotate(x, cos, sin)`.
    """
    for i, layer in enumerate(stack.layers):
        attn = layer.self_attn
        query, key, value = attn.project(layer.input_layernorm(x))
        attended = attend(i, rotate(query, cos, sin), rotate(key, cos, sin), value)
        x = x + attn.o_proj(attended.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return x


def causal_mask(new: int, past: int) -> Tensor:
    """Boolean (T, P+T) from (symbolic) sizes, bottom-right aligned: every query sees all P cached slots."""
    return torch.arange(past + new)[None, :] <= torch.arange(new)[:, None] + past


def slot_mask(steps: Tensor, filled: Tensor, capacity: int) -> Tensor:
    """Boolean (1, 1, T, C) over a cache of fixed size: new token t sees the `filled` slots, and 0..t of the new."""
    return (torch.arange(capacity, dtype=torch.int32)[None] <= (filled + steps)[:, None])[None, None]


class TanhGelu(nn.Module):
    """GELU's tanh approximation, in elementary operators: some converters silently take exact GELU for the operator."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def decompose_gelu(tower: nn.Module) -> nn.Module:
    """Put TanhGelu into every block of `tower` that uses the tanh approximation, in place."""
    for block in tower.modules():
        if isinstance(block, VisionBlock) and block.activation is gelu_tanh:
            del block.activation
            block.activation = TanhGelu()
    return tower


def share_weights(model: VisionLanguageModel) -> VisionLanguageModel:
    """A copy whose modules can be replaced; parameters are shared with the original."""
    return copy.deepcopy(model, {id(p): p for p in [*model.parameters(), *model.buffers()]})


def keep_injection(model: VisionLanguageModel) -> VisionLanguageModel:
    """A model of `share_weights` with only what makes keys and values of features: exporters look at every weight."""
    model.vision_tower = None
    if model.config.images is not None:
        model.get_submodule("model").layers = nn.ModuleList()
    if model.config.architecture == "himix" or model.config.images is not None:
        model.model.embed_tokens = None
    if model.config.architecture == "himix":
        for layer in model.model.layers:
            layer.mlp = None
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(layer.self_attn, name, None)
    return model


def swap_linears(module: Swapped, make: Callable[[QuantizedLinear], nn.Module]) -> Swapped:
    """Replace every QuantizedLinear below `module` by what `make` makes of it, in place."""
    for name, child in list(module.named_modules()):
        if isinstance(child, QuantizedLinear):
            replace_module(module, name, make(child))
    return module


def replace_module(module: nn.Module, name: str, child: nn.Module) -> None:
    """Put `child` in the place called `name` below `module`."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, child)


def release_memory() -> None:
    """Give back what an exporter has left: traced programs in torch's caches, and freed memory that malloc keeps."""
    torch.compiler.reset()
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a libc other than glibc
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters log about what is not installed, warn about their own internals and draw a bar for each of their
    passes; none of it helps a user. What goes wrong is raised."""
    with without_logged_warnings(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
