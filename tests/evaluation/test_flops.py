"""FLOPs of the models as built, against the paper's table and formula."""

import dataclasses
import json
from itertools import pairwise

import pytest

from himix_edge.checkpoints import save_checkpoint
from himix_edge.checkpoints.assemble import meta_model
from himix_edge.cli import himix
from himix_edge.config import Injection
from himix_edge.errors import InputError
from himix_edge.evaluation.flops import count_flops, himix_of, kv_bytes, parameters, picture_costs, vanilla_of
from himix_edge.model import build_model
from himix_edge.model.meta import meta_device
from himix_edge.presets import preset
from tests import commands
from tests.conftest import TINY

# arXiv 2501.10318: GFLOPs of the language decoder, vanilla and HiMix, as printed
PAPER = {
    "qwen2-0.5b": (837, 78),
    "tinyllama-1.1b": (1750, 161),
    "llama-3.2-1b": (2040, 192),
    "llama-3.2-3b": (5310, 525),
}


@pytest.fixture(scope="module")
def counted():
    return {name: (count_flops(vanilla_of(preset(name))), count_flops(preset(name))) for name in PAPER}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_table(counted, name):
    for flops, printed in zip(counted[name], PAPER[name], strict=True):
        assert flops.paper_prefill / 1e9 == pytest.approx(printed, rel=0.005)


@pytest.mark.parametrize("name", PAPER)
def test_the_formula(counted, name):
    config = preset(name)
    decoder, vision, text = config.decoder, config.vision.num_tokens, 64
    with meta_device():
        shapes = {n: p.shape for n, p in meta_model(vanilla_of(config)).named_parameters()}
    used = sum(s.numel() for n, s in shapes.items() if n.startswith(("model.", "lm_head")))
    if not decoder.tie_word_embeddings:
        used -= shapes["model.embed_tokens.weight"].numel()
    size, layers, width = decoder.hidden_size, decoder.num_hidden_layers, decoder.kv_size
    both = vision + text
    vanilla = 2 * used * both + 4 * size * layers * both**2
    ours = 2 * used * text + 4 * size * layers * text * both + 4 * vision * 1152 * width * layers
    assert counted[name][0].paper_prefill == pytest.approx(vanilla, rel=0.005)
    assert counted[name][1].paper_prefill == pytest.approx(ours, rel=0.005)


def test_tower_and_token(counted):
    for vanilla, ours in counted.values():
        assert ours.vision_encoder / 1e9 == pytest.approx(642, rel=0.005)
        assert ours.token == vanilla.token
        assert vanilla.prefill / ours.prefill > 9


@pytest.mark.parametrize(("name", "published"), [
    ("smollm2-135m", 134_515_008), ("smollm2-360m", 361_821_120), ("qwen2-0.5b", 494_032_768),
    ("tinyllama-1.1b", 1_100_048_384), ("llama-3.2-1b", 1_235_814_400), ("llama-3.2-3b", 3_212_749_824),
    ("vicuna-7b", 6_738_415_616), ("qwen3-0.6b", 596_049_920), ("mistral-7b", 7_248_023_552),
])  # fmt: skip
def test_decoders_have_the_published_number_of_parameters(name, published):
    assert parameters(preset(name, "nano"))["decoder"] == published


@pytest.mark.parametrize(("name", "published"), [
    ("smolvlm-256m", 256_484_928), ("smolvlm-500m", 507_482_304), ("smolvlm2-2.2b", 2_246_784_880),
    ("llava-1.5-7b", 7_063_427_072), ("internvl3-1b", 938_193_024), ("llava-onevision-0.5b", 893_673_248),
])  # fmt: skip
def test_vision_language_models_have_the_published_number_of_parameters(name, published):
    """LLaVA's files hold a last layer of CLIP and a norm that it never runs; our patches have a bias, CLIP's have not.

    SmolVLM2's, InternVL3's and LLaVA-OneVision's are said to be 2.25, 0.94 and 0.9 billion.
    """
    unused = 4 * (1024**2 + 1024) + 2 * 4096 * 1024 + 4096 + 1024 + 4 * 1024 + 2 * 1024 - 1024
    found = sum(parameters(preset(name)).values())
    assert found + (unused if name == "llava-1.5-7b" else 0) == published


def test_variants_cost_what_they_should():
    config = preset("nano")
    full = count_flops(config)
    half = count_flops(dataclasses.replace(config, injection=Injection(layers=(1, 3))))
    uniform = count_flops(dataclasses.replace(config, injection=Injection(sharing="uniform")))
    assert half.vision_injector * 2 == uniform.vision_injector * 4 == full.vision_injector
    assert uniform.prefill == full.prefill > half.prefill
    two = dataclasses.replace(config.vision, feature_layers=(-1, -2))
    levels = dataclasses.replace(
        config, vision=two, vision_hidden_size=two.feature_size, injection=Injection(sharing="levels")
    )
    # per level, 64 tokens through a connector of two 128 x 128 layers, then to keys and values of 2 x 64 each
    assert count_flops(levels).vision_injector == 2 * 64 * (2 * 2 * 128 * 128 + 2 * 2 * 128 * 128)
    pooled = dataclasses.replace(config, vision=dataclasses.replace(config.vision, pooling=2))
    assert count_flops(pooled).vision_injector * 4 == full.vision_injector
    assert kv_bytes(pooled, 0)[0] * 4 == kv_bytes(config, 0)[0] == 2 * 4 * 2 * 64 * 64 * 4


def test_info_prints_each_part(capsys):
    himix.main(["info", "smollm2-135m", "--flops", "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert facts["vision_tokens"] == 49
    assert facts["flops"]["token"] == facts["vanilla_flops"]["token"]
    sizes = [sum(facts["weight_bytes"][precision].values()) for precision in ("none", "int8", "int4")]
    assert all(more > less for more, less in pairwise(sizes))
    himix.main(["info", "smollm2-135m", "--flops", "--tower", "tinyclip-8m"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("vision_encoder", "vision_injector", "prefill", "196 vision tokens"))
    done = commands.himix("info", "--list")
    listed = done.stdout
    assert not done.stderr  # libraries that towers bring have much to say
    assert all(name in listed for name in PAPER)
    layer = 4 * (1152**2 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    siglip = 26 * layer + (3 * 14**2 + 1) * 1152 + 729 * 1152  # the penultimate state needs 26 of its 27 layers
    assert f"{siglip / 1e6:.1f} M" in listed


def test_a_vanilla_checkpoint_stands_beside_its_himix(capsys, tmp_path, text):
    vanilla = vanilla_of(TINY)
    save_checkpoint(tmp_path / "vanilla", build_model(vanilla), text)
    himix.main(["info", str(tmp_path / "vanilla"), "--flops", "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert himix_of(vanilla) == TINY
    assert facts["architecture"] == "vanilla"
    assert facts["flops"] == vars(count_flops(TINY))
    assert facts["vanilla_flops"] == vars(count_flops(vanilla))
    assert facts["flops"]["prefill"] < facts["vanilla_flops"]["prefill"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["nonsense", "--flops"], "presets: nano.*; towers: .*siglip-so400m"), (["nano", "--tower", "no"], "unknown tower"),
])  # fmt: skip
def test_unknown_names_list_the_known(arguments, message):
    with pytest.raises(InputError, match=message):
        himix.main(["info", *arguments], standalone_mode=False)


@pytest.mark.parametrize(("name", "size", "tiles", "tokens"), [
    ("smolvlm-256m", (1024, 768), 13, 13 * 64), ("smolvlm-256m", (600, 600), 17, 17 * 64),
    ("internvl3-1b", (1024, 768), 13, 13 * 256), ("internvl3-1b", (448, 448), 1, 256),
    ("llava-1.5-7b", (1024, 768), 1, 576),
    ("llava-onevision-0.5b", (384, 384), 2, 729 + 27 * 28), ("qwen2-0.5b", (1024, 768), 1, 728),
])  # fmt: skip
def test_a_pictures_shape_says_what_it_costs(name, size, tiles, tokens):
    found = picture_costs(vanilla_of(preset(name)), *size)
    assert (found.tiles, found.tokens) == (tiles, tokens)


def test_tiles_pass_the_tower_and_shuffled_tokens_the_decoder():
    """SmolVLM-256M by its sizes: two FLOPs for each weight and token, and attention's two products."""
    config = preset("smolvlm-256m")
    picture = picture_costs(config, 1024, 768)
    flops = count_flops(config, 64, picture)
    tower = 13 * 12 * (2 * 1024 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 1024**2 * 768)
    patches = 13 * 2 * 1024 * 3 * 16**2 * 768
    assert flops.vision_encoder == pytest.approx(tower + patches, rel=0.001)
    assert flops.vision_injector == 13 * 2 * 64 * (16 * 768) * 576
    layer = 576 * (2 * 576 + 2 * 192 + 3 * 1536)
    text = 13 * 64 + 64
    through = 30 * (2 * text * layer + 4 * text**2 * 576)
    assert flops.prefill == pytest.approx(through + 2 * 576 * 49280, rel=0.001)
    assert kv_bytes(config, text, 4, picture) == (30 * 832 * 2 * 192 * 4, 30 * 896 * 2 * 192 * 4)


def test_info_says_for_which_picture(capsys):
    himix.main(["info", "smolvlm-256m", "--flops", "--picture", "512x512", "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["picture"], facts["tiles"], facts["vision_tokens"]) == ([512, 512], 17, 1088)
    himix.main(["info", "internvl3-1b"], standalone_mode=False)
    assert "grid: up to 13 tiles of 256 tokens" in capsys.readouterr().out
    with pytest.raises(InputError, match="give its width and height in pixels"):
        himix.main(["info", "smolvlm-256m", "--flops", "--picture", "0x5"], standalone_mode=False)
