"""FLOPs and bytes of a model, counted from the model that is actually built, HiMix beside vanilla.

The model is built on the meta device and run under torch's FLOP counter: nothing is computed, and no formula of ours is
involved. A multiplication and an addition are two FLOPs; attention counts every query against every key, masked or not,
as the paper does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from himix_edge.checkpoints.assemble import meta_model
from himix_edge.config import Connector, Injection, ModelConfig
from himix_edge.model import KVCache, VanillaModel
from himix_edge.parts import ROLES, part_of
from himix_edge.picture_tokens import arrange
from himix_edge.tiles import cut_tiles

PAPER_TEXT_TOKENS = 64


@dataclass(frozen=True)
class Flops:
    """FLOPs of one model's parts for one picture and one prompt of M tokens.

    Attributes:
        vision_encoder: the tower, on all tiles.
        vision_injector: HiMix: the tiles' keys and values, mixing included. Vanilla: the connector.
        prefill: what the runtimes here do: logits of the last position only.
        paper_prefill: as the paper counts: logits at every position that runs through the decoder; with the injection.
        token: one further token behind the cached ones, the picture's and M.
    """

    vision_encoder: int
    vision_injector: int
    prefill: int
    paper_prefill: int
    token: int


@dataclass(frozen=True)
class PictureCosts:
    """What one picture becomes: tiles that go through the tower, and tokens in the decoder's cache, tags aside."""

    tiles: int
    tokens: int


def picture_costs(config: ModelConfig, width: int, height: int) -> PictureCosts:
    """Of a picture of so many pixels; any picture is one tile of a model whose pictures do not stand in its text.

    Raises:
        InputError: a picture so long and thin that no grid of tiles holds it.
    """
    assert config.vision is not None
    if config.images is None:
        return PictureCosts(1, config.tile_tokens)
    tiles = cut_tiles(Image.new("RGB", (width, height)), config.vision.image_size, config.images)
    count = len(tiles.pixels)
    return PictureCosts(count, len(arrange(tiles, config.images, np.zeros((count, config.tile_tokens, 1), np.float32))))


def vanilla_of(config: ModelConfig) -> ModelConfig:
    """The LLaVA-style baseline on the same decoder and tower; `config` itself if it is one."""
    return replace(config, architecture="vanilla", injection=Injection())


def himix_of(config: ModelConfig) -> ModelConfig:
    """HiMix on the same decoder and tower, `config` itself if it is one; a vanilla model's has every layer injected."""
    if config.architecture == "himix":
        return config
    return replace(config, architecture="himix", connector=Connector(), images=None)


@torch.no_grad()
def count_flops(
    config: ModelConfig, text_tokens: int = PAPER_TEXT_TOKENS, picture: PictureCosts | None = None
) -> Flops:
    """Count the parts of `config`'s model for one picture and `text_tokens` of text.

    Args:
        config: the model's; HiMix takes each tile of `picture` as an image.
        text_tokens: M.
        picture: see `picture_costs`; None: one tile.

    Raises:
        ValueError: a model without a tower.
    """
    vision = config.vision
    if vision is None:
        raise ValueError("a model without a vision tower")
    model = meta_model(config)
    picture = picture or PictureCosts(1, config.tile_tokens)
    hidden = config.decoder.hidden_size
    pixels = torch.zeros(1, vision.image_size, vision.image_size, 3, dtype=torch.uint8, device="meta")
    tile = torch.zeros(1, vision.num_tokens, vision.feature_size, device="meta")
    ids = torch.zeros(1, text_tokens, dtype=torch.int64, device="meta")
    one = ids[:, :1]
    tower = picture.tiles * _counted(lambda: model.encode_image(pixels))
    if isinstance(model, VanillaModel):
        connector = model.connector
        injector = picture.tiles * _counted(lambda: connector(tile))
        embeddings = torch.zeros(1, picture.tokens + text_tokens, hidden, device="meta")
        states, cache = model.model.run(embeddings, None)
        through = _counted(lambda: model.model.run(embeddings, None))
        paper = through + _counted(lambda: model.project_out(states))
    else:
        features = tile.repeat(1, picture.tiles, 1)
        injector = _counted(lambda: model.inject(features))
        start = model.inject(features)
        states, cache = model.hidden(ids, start)
        through = _counted(lambda: model.hidden(ids, start))
        paper = through + _counted(lambda: model.project_out(states)) + injector
    head = _counted(lambda: model.project_out(states[:, -1:]))
    return Flops(tower, injector, through + head, paper, _counted(lambda: model.decode(one, cache)))


def parameters(config: ModelConfig) -> dict[str, int]:
    """How many parameters the tower, the injection (vanilla: the connector) and the decoder have, tied ones once.

    Raises:
        BackendMissing: the tower needs a package that is not installed.
    """
    counts = dict.fromkeys(ROLES.values(), 0)
    for name, parameter in meta_model(config).named_parameters():
        counts[ROLES[part_of(name)]] += parameter.numel()
    return counts


def picture_slots(config: ModelConfig, picture: PictureCosts) -> int:
    """The cache slots a layer that a picture takes, tags aside; of HiMix each tile takes its own."""
    return picture.tokens if config.architecture == "vanilla" else picture.tiles * config.tile_tokens


def kv_bytes(
    config: ModelConfig, slots: int, bytes_each: int = 4, picture: PictureCosts | None = None
) -> tuple[int, int]:
    """Bytes of one picture's kept keys and values, and of the decoder's cache of `slots` slots a layer.

    The runtimes hold float32. Their caches have the same slots in every layer, whether or not the image enters it.
    """
    assert config.vision is not None
    per_slot = 2 * config.decoder.kv_size * bytes_each
    image = config.num_vision_rows * picture_slots(config, picture or PictureCosts(1, config.tile_tokens)) * per_slot
    return image, config.decoder.num_hidden_layers * slots * per_slot


def _counted(run: Callable[[], Tensor | KVCache | tuple[Tensor, KVCache]]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
