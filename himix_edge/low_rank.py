"""Which linears of a model an adapter of low rank may change (LoRA, Hu et al., arXiv 2106.09685), and their sizes."""

from collections.abc import Mapping

from himix_edge.config import ModelConfig

Sizes = Mapping[str, tuple[int, int]]  # a linear's name -> columns and rows of its weight: what goes in and comes out
MOST_RANK = 1024
DOWN, UP = ".lora_A", ".lora_B"  # behind a linear's name: (in, r) and (r, out); what is added is x A B


def role_linears(config: ModelConfig) -> dict[str, Sizes]:
    """The linears that an adapter may change, in the graphs of the two roles that take adapters.

    The decoder's, and in the injector those that project the image's features. A vanilla model's image in front of the
    text goes through the decoder itself, in the injector's graph.
    """
    of_decoder = _decoder(config)
    if config.architecture == "himix":
        return {"vision_injector": _projections(config), "decoder": of_decoder}
    return {"vision_injector": {} if config.images is not None else of_decoder, "decoder": of_decoder}


def adapter_linears(config: ModelConfig) -> Sizes:
    """All of them, each once."""
    return {name: size for linears in role_linears(config).values() for name, size in linears.items()}


def image_linears(config: ModelConfig) -> Sizes:
    """Those that take part in an image's keys and values."""
    return _projections(config) if config.architecture == "himix" else _decoder(config)


def factor_names(linears: Sizes) -> list[str]:
    """What a graph calls its inputs for an adapter of these linears, in their order."""
    return [name + kind for name in linears for kind in (DOWN, UP)]


def _decoder(config: ModelConfig) -> Sizes:
    decoder = config.decoder
    width, inner = decoder.hidden_size, decoder.intermediate_size
    sizes = {
        "self_attn.q_proj": (width, decoder.q_size), "self_attn.k_proj": (width, decoder.kv_size),
        "self_attn.v_proj": (width, decoder.kv_size), "self_attn.o_proj": (decoder.q_size, width),
        "mlp.gate_proj": (width, inner), "mlp.up_proj": (width, inner), "mlp.down_proj": (inner, width),
    }  # fmt: skip
    layers = range(decoder.num_hidden_layers)
    return {f"model.layers.{layer}.{linear}": size for layer in layers for linear, size in sizes.items()}


def _projections(config: ModelConfig) -> Sizes:
    if config.vision_hidden_size is None:
        return {}
    size, kinds = config.decoder.kv_size, ("k_proj_img", "v_proj_img")
    if config.injection.sharing != "none":
        return {f"shared_injection.{kind}": (config.vision_hidden_size // config.levels, size) for kind in kinds}
    places = [f"model.layers.{layer}.self_attn" for layer in config.projecting_layers]
    return {f"{place}.{kind}": (config.injection_width, size) for place in places for kind in kinds}
