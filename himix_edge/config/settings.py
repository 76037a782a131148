"""Settings of other decoders that may stand in a decoder's config.json and would change what is computed.

Of each the values are listed with which it computes nothing else; with any other one the file is refused by name,
because the answers would be wrong without a word. What transformers' own classes of the FAMILIES read is among them.
"""

from himix_edge.config.families import family_of
from himix_edge.errors import InputError

POSITIONS = 2048  # the most, where a config.json says nothing

NEUTRAL: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    # attention
    "use_sliding_window": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "attn_logit_softcapping": (0,),
    "attention_logit_cap": (0,),
    "clip_qkv": (),
    "qkv_clip": (),
    "use_bidirectional_attention": (False,),
    "is_causal": (True,),
    "attention_sink": (False,),
    "attn_temperature_tuning": (False, 0),
    "attention_out_bias": (False,),
    "use_bias": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "kv_lora_rank": (0,),
    "alibi": (False,),
    "mlp_bias": (False,),
    "mlp_only_layers": ([],),
    "parallel_attn": (False,),
    "use_parallel_residual": (False,),
    # positions
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rotary_percent": (1,),
    "rope_percent": (1,),
    "rope_pct": (1,),
    "rotary_dim": (),
    "rope_ratio": (1,),
    "rope_local_base_freq": (),
    "local_rope_theta": (),
    "rope_interleaved": (False,),
    "rope_interleave": (False,),
    "rope_traditional": (False,),
    "rotary_emb_interleaved": (False,),
    "no_rope_layers": ([],),
    "no_rope_layer_interval": (0,),
    "mrope_section": (),
    # factors and limits
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "lm_head_multiplier": (1,),
    "mup_enabled": (False,),
    "scale_emb": (1,),
    "scale_depth": (),
    "dim_model_base": (),
    "normalize_embedding": (False,),
    "scale_embedding": (False,),
    "final_logit_softcapping": (0,),
    "logits_soft_cap": (0,),
    "swiglu_limit": (),
    "norm_after": (False,),
    "lm_head_bias": (False,),
    # experts, and layers that are used again
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "moe_num_experts": (0,),
    "num_kv_shared_layers": (0,),
    "cross_layer_kv_sharing": (False,),
    # stored otherwise
    "quantization_config": ({},),
    "compression_config": ({},),
}


def refuse_settings(raw: dict[str, object], where: str) -> None:
    """Raises InputError naming a setting of a config.json with which this decoder would compute something else."""
    family = family_of(raw, where)
    for name, harmless in NEUTRAL.items():
        value = raw.get(name)
        if value is not None and not any(value == good and _truth(value) == _truth(good) for good in harmless):
            means = f"; supported: {harmless[0]}" if harmless and harmless[0] not in ([], {}) else ""
            raise InputError(f"{where}: {name} {_said(value)} is not supported{means}")
    kinds = raw.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise InputError(f"{where}: layer_types {_said(kinds)} are not supported; only full_attention is")
    facts = {"attention_bias": family.qkv_bias, "qkv_bias": family.qkv_bias}
    facts |= dict.fromkeys(("use_qk_norm", "qk_norm", "qk_layernorm"), family.qk_norm)
    for name, fact in facts.items():
        said = raw.get(name)
        if said is not None and said is not fact:
            raise InputError(f"{where}: {name} {_said(said)} contradicts model_type {_said(raw.get('model_type'))}")
    window, positions = raw.get("sliding_window"), raw.get("max_position_embeddings", POSITIONS)
    if window is None or family.optional_window or family.window or raw.get("use_sliding_window") is False:
        return
    if type(window) is not int or type(positions) is not int or window < positions:
        raise InputError(f"{where}: sliding_window {_said(window)} is not supported")


def window_of(raw: dict[str, object], where: str) -> int | None:
    """How many tokens attention reaches back, itself included; None: all.

    Raises:
        InputError: a window that is no number of tokens.
    """
    family = family_of(raw, where)
    if family.window is None or "injection" in raw:  # a config.json of ours has it as its most positions
        return None
    window = raw.get("sliding_window", family.window)
    if window is not None and (type(window) is not int or window < 1):
        raise InputError(f"{where}: sliding_window {_said(window)} is no number of tokens")
    return window


def _truth(value: object) -> bool:
    """A truth value is no number here: 1 == True to Python."""
    return isinstance(value, bool)


def _said(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
