"""The models against outputs of the authors' code, against Hugging Face's modules, and against themselves."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from himix_edge import load_checkpoint
from himix_edge.config import DecoderConfig, Injection, ModelConfig
from himix_edge.errors import InputError
from himix_edge.model import build_model
from himix_edge.model.decoder import attend, concat_images, mixture_mask
from himix_edge.model.sampled_text import sample_texts
from tests.conftest import TINY

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", sorted(path.parent.name for path in GOLDEN.glob("*/golden.safetensors")))
def test_reproduces_the_authors_outputs(case):
    model, golden = load_checkpoint(GOLDEN / case), load_file(GOLDEN / case / "golden.safetensors")
    logits, cache = model.decode(golden["input_ids"], model.inject(golden["vision_features"]))
    assert torch.allclose(logits, golden["prefill_logits"], rtol=0, atol=2e-5)
    assert torch.allclose(torch.stack(cache.key), golden["prefill_key_cache"], rtol=0, atol=2e-5)
    assert torch.allclose(torch.stack(cache.value), golden["prefill_value_cache"], rtol=0, atol=2e-5)
    for position in range(golden["decode_input_ids"].shape[1]):
        logits, cache = model.decode(golden["decode_input_ids"][:, position : position + 1], cache)
        assert torch.allclose(logits[:, 0], golden["decode_logits"][:, position], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("family", "hf_config", "hf_model"), [
    ("llama", LlamaConfig, LlamaForCausalLM), ("qwen2", Qwen2Config, Qwen2ForCausalLM),
])  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_text_only_equals_hugging_face(family, hf_config, hf_model, tied, scaled, tmp_path):
    scaling = None
    if scaled:
        scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 32}  # fmt: skip
    torch.manual_seed(1)
    reference = hf_model(hf_config(
        vocab_size=101, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, rope_theta=5e5, rms_norm_eps=1e-5, tie_word_embeddings=tied, rope_scaling=scaling,
        max_position_embeddings=256, attn_implementation="eager",
    )).eval()  # fmt: skip
    raw = {**reference.config.to_dict(), "architecture": "vanilla", "vision_hidden_size": 8}
    model = build_model(ModelConfig.from_dict(raw)).eval()
    missing, surplus = model.load_state_dict(reference.state_dict(), strict=False)
    assert all(name.startswith("connector") for name in missing)
    assert set(surplus) <= {"lm_head.weight"}
    ids = torch.randint(101, (2, 40))
    with torch.no_grad():
        assert torch.allclose(model(ids), reference(ids).logits, rtol=0, atol=2e-5)
        # vanilla: the image's tokens in front, as LLaVA feeds them
        features = torch.randn(2, 5, 8)
        embeddings = torch.cat([model.connector(features), model.model.embed_tokens(ids)], dim=1)
        expected = reference(inputs_embeds=embeddings).logits[:, 5:]
        assert torch.allclose(model(ids, vision_features=features), expected, rtol=0, atol=2e-5)


def test_cached_decode_equals_a_full_pass(tiny):
    ids, pixels = torch.randint(400, (1, 9)), torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    full = tiny(ids, pixel_values=pixels)
    cache = tiny.inject(tiny.encode_image(pixels))
    parts = []
    for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:]):
        logits, cache = tiny.decode(part, cache)
        parts.append(logits)
    assert torch.allclose(torch.cat(parts, 1), full, rtol=0, atol=1e-5)


def test_a_kept_image_gives_bit_equal_logits(tiny):
    first, second = torch.randint(400, (1, 6)), torch.randint(400, (1, 8))
    pixels = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    kept = tiny.inject(tiny.encode_image(pixels))
    tiny.decode(first, kept)
    assert torch.equal(tiny.decode(second, kept)[0], tiny(second, pixel_values=pixels))


def test_the_image_changes_the_answer_and_text_only_has_no_vision_segment(tiny):
    ids = torch.randint(400, (1, 6))
    black, white = (torch.full((1, 32, 32, 3), c, dtype=torch.uint8) for c in (0, 255))
    assert not torch.allclose(tiny(ids, pixel_values=black), tiny(ids, pixel_values=white))
    assert tiny.decode(ids)[1].key[0].shape[2] == ids.shape[1]


def test_two_images_are_one_longer_image_in_any_order():
    torch.manual_seed(0)
    model = build_model(TINY).eval()
    ids, one, two = torch.randint(400, (1, 5)), torch.randn(1, 7, 32), torch.randn(1, 3, 32)
    with torch.no_grad():
        joined = model(ids, vision_features=torch.cat([one, two], 1))
        for order in ([one, two], [two, one]):
            cache = concat_images([model.inject(image) for image in order])
            assert torch.allclose(model.decode(ids, cache)[0], joined, rtol=0, atol=1e-5)


def test_the_mask_is_causal_at_the_bottom_right():
    assert mixture_mask(2, 3, torch.device("cpu")).tolist() == [[True] * 4 + [False], [True] * 5]


def test_vision_states_are_the_penultimate_layers():
    config = dataclasses.replace(TINY.vision, feature_layers=(-2,))
    assert config.num_layers_used == config.num_hidden_layers - 1


def test_head_dim_may_differ_from_hidden_over_heads():
    decoder = dataclasses.replace(TINY.decoder, head_dim=24)
    assert isinstance(decoder, DecoderConfig)
    model = build_model(dataclasses.replace(TINY, decoder=decoder))
    assert model(torch.tensor([[1, 2]]), vision_features=torch.randn(1, 4, 32)).shape == (1, 2, 400)


def test_attention_written_out_for_gradients_is_torchs_own():
    """Values and gradients, with and without an image's slots, for each number of queries to a key head."""
    torch.manual_seed(0)
    for heads, kv_heads, new, cached in ((6, 2, 5, 7), (4, 4, 3, 0), (9, 3, 1, 4)):
        shapes = ((2, heads, new, 8), (2, kv_heads, cached + new, 8), (2, kv_heads, cached + new, 8))
        inputs = [torch.randn(shape) for shape in shapes]
        mask, weight = mixture_mask(new, cached, torch.device("cpu")), torch.randn(shapes[0])
        learning = [one.clone().requires_grad_() for one in inputs]
        ours = attend(*learning, mask)
        repeated = [one.clone().requires_grad_() for one in inputs]
        query, key, value = repeated
        theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(attend(*inputs, mask), theirs)  # without gradients
        for a, b in zip(
            torch.autograd.grad(ours, learning, weight), torch.autograd.grad(theirs, repeated, weight), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_layers_below_the_injected_ones_need_no_backward_pass():
    """Where nothing in them learns; each layer that is not injected starts with an empty cache, which must not link it
    to the projections of another."""
    config = dataclasses.replace(TINY, injection=Injection((1,)))
    model = build_model(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_img" in name)
    reached = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _module, _inputs, outputs: reached.append(outputs[0].requires_grad))
    features = torch.randn(1, 5, TINY.vision_hidden_size)
    model.decode(torch.tensor([[1, 2, 3]]), model.inject(features))[0].sum().backward()
    assert reached == [False, True]
    assert model.model.layers[1].self_attn.k_proj_img.weight.grad.abs().sum() > 0


def test_a_model_that_overflows_writes_no_text():
    """Finite weights may still make infinite sums: a clear word, not torch's complaint about probabilities."""
    model = build_model(TINY).eval()
    for parameter in model.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(InputError, match="its logits are NaN"):
        sample_texts(model, passages=1, tokens=3)
