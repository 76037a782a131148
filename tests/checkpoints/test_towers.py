"""Vision towers against transformers' modules, and EfficientNet-Lite0's real weights against its package."""

import dataclasses
import json
import math
import re

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from himix_edge.checkpoints import save_source
from himix_edge.checkpoints.packages import fetch
from himix_edge.checkpoints.safetensors import folder_weights
from himix_edge.checkpoints.source import random_source
from himix_edge.checkpoints.tower_weights import efficientnet_lite0_weights, tower_config, tower_weights
from himix_edge.config import CNNConfig, ViTConfig
from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.model import build_model
from himix_edge.model.meta import meta_device
from himix_edge.model.tower import build_tower
from himix_edge.preprocess import load_image
from himix_edge.runtimes import open_bundle
from himix_edge.tower_presets import TOWERS
from tests.conftest import TINY

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 30, "patch_size": 7}
CASES = {
    "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel, {**SMALL, "intermediate_size": 48}),
    "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel, {**SMALL, "intermediate_size": 48}),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, {
        **SMALL, "image_size": 28, "layerscale_value": 0.3,
    }),
    "vit": (transformers.ViTConfig, transformers.ViTModel, {**SMALL, "image_size": 28, "intermediate_size": 48}),
    "beit": (transformers.BeitConfig, transformers.BeitModel, {
        **SMALL, "image_size": 28, "intermediate_size": 48, "use_relative_position_bias": True,
        "layer_scale_init_value": 0.3,
    }),
    "hiera": (transformers.HieraConfig, transformers.HieraModel, {
        "embed_dim": 16, "image_size": [64, 64], "patch_stride": [4, 4], "depths": [1, 1, 2, 1],
        "num_heads": [1, 1, 2, 2], "masked_unit_size": [8, 8],
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random tower of each family, saved by transformers."""
    made = {}
    for family, (config_type, model_type, settings) in CASES.items():
        torch.manual_seed(0)
        model = model_type(config_type(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp("towers") / family
        model.save_pretrained(folder)
        made[family] = folder, model
    return made


def load(folder, **options):
    config = tower_config(folder, **options)
    with meta_device():
        tower = build_tower(config)
    tower.load_state_dict({n: w.read().float() for n, w in tower_weights(folder, config).items()}, assign=True)
    tower.reset_buffers()
    return tower.eval()


def normalized(pixels, config):
    mean, std = (torch.tensor(values) for values in (config.image_mean, config.image_std))
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


@pytest.mark.parametrize("layer", [-1, -2, -4])
@pytest.mark.parametrize("family", CASES)
def test_equals_transformers(folders, family, layer):
    folder, reference = folders[family]
    tower = load(folder, feature_layers=(layer,))
    size = tower.config.image_size
    pixels = torch.randint(256, (2, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        states = reference(normalized(pixels, tower.config), output_hidden_states=True).hidden_states[layer]
        features = tower(pixels)
    expected = states if family in ("siglip", "hiera") else states[:, 1:]
    assert features.shape[1:] == (tower.config.num_tokens, tower.config.feature_size)
    assert torch.allclose(features, expected, rtol=0, atol=2e-5)


def test_token_selection_and_levels(folders):
    folder, reference = folders["clip"]
    pixels = torch.randint(256, (1, 30, 30, 3), dtype=torch.uint8)
    tower = load(folder, feature_layers=(-2, -4), drop_first_token=False)
    with torch.no_grad():
        states = reference(normalized(pixels, tower.config), output_hidden_states=True).hidden_states
        assert torch.allclose(tower(pixels), torch.cat([states[-2], states[-4]], -1), rtol=0, atol=2e-5)
        # the authors' "patch" selection drops SigLIP's first patch too
        siglip, model = folders["siglip"]
        dropped = load(siglip, drop_first_token=True)
        expected = model(normalized(pixels, dropped.config), output_hidden_states=True).hidden_states[-2][:, 1:]
        assert torch.allclose(dropped(pixels), expected, rtol=0, atol=2e-5)


def test_pooling_averages_cells_of_the_grid(folders):
    folder, _ = folders["siglip"]
    pixels = torch.randint(256, (1, 30, 30, 3), dtype=torch.uint8)
    with torch.no_grad():
        full, pooled = load(folder)(pixels), load(folder, pooling=2)(pixels)
    grid = full.reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
    assert torch.allclose(pooled, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [21, 45])
@pytest.mark.parametrize("family", ["siglip", "clip", "dinov2", "vit"])
def test_another_image_size_interpolates_positions_as_transformers_does(folders, family, size):
    folder, reference = folders[family]
    tower = load(folder, image_size=size, drop_first_token=False)
    pixels = torch.randint(256, (1, size, size, 3), dtype=torch.uint8)
    options = {} if family == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        states = reference(normalized(pixels, tower.config), output_hidden_states=True, **options).hidden_states
        assert tower.config.num_tokens == (size // 7) ** 2 + (family != "siglip")
        assert torch.allclose(tower(pixels), states[-2], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("config_type", "model_type", "family"), [
    (transformers.CLIPConfig, transformers.CLIPModel, "clip"),
    (transformers.SiglipConfig, transformers.SiglipModel, "siglip"),
])  # fmt: skip
def test_the_vision_half_of_a_whole_model(config_type, model_type, family, tmp_path):
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    model_type(config_type(text_config=text, vision_config=CASES[family][2])).save_pretrained(tmp_path)
    reference = CASES[family][1].from_pretrained(tmp_path).eval()
    tower = load(tmp_path, drop_first_token=False)
    pixels = torch.randint(256, (1, 30, 30, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = reference(normalized(pixels, tower.config), output_hidden_states=True).hidden_states[-2]
        assert torch.allclose(tower(pixels), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("settings", [
    {"use_mask_token": True}, {"use_relative_position_bias": False, "use_shared_relative_position_bias": True},
    {"use_absolute_position_embeddings": True},
])  # fmt: skip
def test_the_variants_of_beit(tmp_path, settings):
    torch.manual_seed(0)
    config_type, model_type, shared = CASES["beit"]
    reference = model_type(config_type(**{**shared, **settings})).eval()
    reference.save_pretrained(tmp_path)
    tower = load(tmp_path)
    pixels = torch.randint(256, (1, 28, 28, 3), dtype=torch.uint8)
    with torch.no_grad():
        states = reference(normalized(pixels, tower.config), output_hidden_states=True).hidden_states
        assert torch.allclose(tower(pixels), states[-2][:, 1:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", CASES)
def test_blocks_behind_the_feature_layer_are_not_built(folders, family):
    depth = 4
    names = set(load(folders[family][0], feature_layers=(-3,)).state_dict())
    block = re.compile(r"^(?:blocks|inner\.encoder\.(?:layer|stages))\.(\d+)\.")
    assert {int(found[1]) for found in map(block.match, names) if found} == set(range(depth - 2))


def test_preprocessor_config_is_followed(folders, tmp_path):
    folder, _ = folders["siglip"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    config = tower_config(tmp_path)
    assert (config.image_mean, config.image_std, config.resample) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    config = tower_config(tmp_path)
    assert (config.image_mean, config.image_std) == ((0, 0, 0), (1, 1, 1))
    for settings, message in (
        ({"resample": 1}, "resample 1"), ({"rescale_factor": 1.0}, "pixels are scaled by other than 1/255"),
        ([], "expected a JSON object"), ({"image_std": [0, 1, 1]}, "image_std"), ({"image_mean": [0.5]}, "image_mean"),
        ({"image_mean": [0.5, 0.5, 99]}, "image_mean"), ({"image_mean": [0.5, 0.5, True]}, "image_mean"),
    ):  # fmt: skip
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        with pytest.raises(InputError, match=rf"/preprocessor_config\.json: {message}"):
            tower_config(tmp_path)


@pytest.mark.parametrize("family", [*CASES, "cnn", "stem"])
def test_every_tower_exports(folders, family, tmp_path):
    if family == "cnn":
        tower = build_tower(CNNConfig("efficientnet_lite0", image_size=64)).eval()
    elif family == "stem":
        tower = build_tower(ViTConfig(32, 8, 32, 48, 3, 2, stem_channels=(8, 16, 16))).eval()
    else:
        tower = load(folders[family][0])
    size = tower.config.image_size
    pixels = torch.randint(256, (1, size, size, 3), dtype=torch.uint8)
    program = torch.onnx.export(tower, (pixels,), dynamo=True, opset_version=23, verbose=False)
    program.save(str(tmp_path / "tower.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "tower.onnx")
    (features,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        assert np.abs(features - tower(pixels).numpy()).max() < 1e-4


@pytest.mark.parametrize("family", [
    "siglip", "cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "siglip"),
])  # fmt: skip
def test_every_tower_goes_through_the_gate_quantized(folders, family, tmp_path):
    """Slow: adds the towers that are built like the others, or run as transformers' module."""
    vision = CNNConfig("efficientnet_lite0", image_size=64) if family == "cnn" else tower_config(folders[family][0])
    config = dataclasses.replace(TINY, vision=vision, vision_hidden_size=vision.feature_size)
    save_source(tmp_path / "model", random_source(config, "tiny"))
    bundle = export(plan(ExportRequest(str(tmp_path / "model"), "onnx", "int8", tmp_path / "out", probe_questions=2)))
    assert bundle.manifest.quantization.bits["vision_encoder"] == (32 if family == "cnn" else 8)
    assert bundle.manifest.preprocessing.method.startswith(f"pillow-{vision.resample}")
    session = open_bundle(bundle.folder)
    assert session.encode_image(bundle.folder / bundle.manifest.selftest.image).tokens == vision.num_tokens


@pytest.fixture(scope="module")
def efficientnet():
    tower = build_tower(CNNConfig("efficientnet_lite0"))
    tower.load_state_dict({name: tensor.read() for name, tensor in efficientnet_lite0_weights().items()})
    return tower.eval()


def test_efficientnet_lite0_equals_the_packages_own(efficientnet, probe_image):
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    state = torch.load(fetch("efficientnet-lite0"), weights_only=True)
    reference.load_state_dict(state)
    images = [load_image(probe_image, 224, "bicubic"), np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3))]
    for image in images:
        pixels = torch.tensor(image, dtype=torch.uint8)
        with torch.no_grad():
            expected = reference.extract_features(((pixels - 127.0) / 128).permute(0, 3, 1, 2))
            features = efficientnet(pixels)
        assert features.shape == (1, 49, 1280)
        features = features - efficientnet.positions
        assert torch.allclose(features, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-4)
        assert float(features.std()) > 0.1


@pytest.mark.parametrize("pooling", [1, 7])
def test_a_convolutional_tower_says_where_its_cells_are(pooling):
    tower = build_tower(CNNConfig("efficientnet_lite0", pooling=pooling))
    side = 7 // pooling
    waves = [100.0 ** (-k / 320) for k in range(320)]
    angles = [[[i // side * w for w in waves], [i % side * w for w in waves]] for i in range(side * side)]
    expected = 2 * torch.tensor([[f(a) for axis in cell for f in (math.sin, math.cos) for a in axis] for cell in angles]
    )  # fmt: skip
    torch.testing.assert_close(tower.positions, expected - expected.mean(0), rtol=0, atol=1e-5)
    with torch.no_grad():
        for parameter in tower.head.parameters():
            parameter.zero_()
        assert torch.equal(tower(torch.zeros(1, 224, 224, 3, dtype=torch.uint8))[0], tower.positions)


def damaged(folder, tmp_path, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    return tmp_path


@pytest.mark.parametrize(("family", "change", "message"), [
    ("clip", lambda t: t.pop("vision_model.pre_layrnorm.bias"), "missing pre_layrnorm.bias"),
    ("siglip", lambda t: t.update(mystery=torch.zeros(1)), "surplus mystery"),
    ("vit", lambda t: t.update({"encoder.layer.0.extra": torch.zeros(1)}), r"surplus encoder\.layer\.0\.extra"),
    ("beit", lambda t: t.update(mystery=torch.zeros(1)), "surplus inner.mystery"),
    ("siglip", lambda t: t.update({"vision_model.encoder.layers.0.mlp.fc1.bias": torch.zeros(9)}), "has shape"),
    ("clip", lambda t: t.update({"vision_model.embeddings.patch_embedding.weight": torch.zeros(32, 7, 7, 3)}),
     r"patch_embedding.weight has shape \(32, 7, 7, 3\), config.json says \(32, 3, 7, 7\)"),
    ("vit", lambda t: t.update({"embeddings.position_embeddings": torch.zeros(1, 10, 32)}),
     r"config.json says \(17, 32\)"),
    ("dinov2", lambda t: t.update({"embeddings.cls_token": torch.zeros(1, 1, 5)}), "cls_token has shape"),
    ("clip", lambda t: t.update({"vision_model.encoder.layers.4.layer_norm1.bias": torch.zeros(32)}),
     r"surplus encoder\.layers\.4"),
    ("beit", lambda t: t.update({"encoder.layer.4.layernorm_before.bias": torch.zeros(32)}),
     r"surplus inner\.encoder\.layer\.4"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_named(folders, tmp_path, family, change, message):
    folder = damaged(folders[family][0], tmp_path, change)
    with pytest.raises(InputError, match=message):
        load(folder)


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "resnet"}, "not a known tower"),
    ({"hidden_act": "relu"}, "hidden_act 'relu'"),
    ({"num_attention_heads": 5}, "multiple of"),
    ({"model_type": "dinov2", "use_swiglu_ffn": True}, "swiglu"),
    ({"patch_size": 0}, "only squares"),
    ({"image_size": [30, 40]}, "only squares"),
    ({"hidden_size": -32}, "hidden_size = -32"),
    ({"hidden_size": "wide"}, "hidden_size: "),
    ({"hidden_size": 1 << 40}, "out of range"),
    ({"num_channels": 1}, "RGB"),
    ({"vision_config": [1]}, "no(t)? (a )?JSON object"),
    ({"model_type": "hiera", "depths": []}, "transformers cannot build this hiera"),
    ({"model_type": "beit", "num_hidden_layers": 1}, r"feature_layer -2 must be in -1\.\.-1"),
])  # fmt: skip
def test_configs_that_are_not_supported(folders, tmp_path, changes, message):
    folder = folders["siglip"][0]
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **changes}))
    with pytest.raises(InputError, match=message):
        tower_config(tmp_path)


def test_a_transformers_tower_must_give_what_its_config_says():
    with pytest.raises(InputError, match=r"\(9, 384\), but the module gives \(196, 384\)"):
        build_tower(dataclasses.replace(TOWERS["hiera-tiny"], num_tokens=9))


@pytest.mark.parametrize(("change", "message"), [
    (lambda shard, index: shard.write_bytes(shard.read_bytes()[:-7]), "model-00002.*: damaged"),
    (lambda shard, index: shard.unlink(), "model-00002.*: missing"),
    (lambda shard, index: save_file({"other": torch.zeros(1)}, shard), "model-00002.*: no tensor"),
    (lambda shard, index: index.write_text(index.read_text().replace(shard.name, f"../{shard.name}")), "outside"),
    (lambda shard, index: (index.rename(index.with_name("pytorch_model.bin"))), "never opened; convert"),
])  # fmt: skip
def test_shards_that_are_broken_are_named(folders, tmp_path, change, message):
    folders["vit"][1].save_pretrained(tmp_path, max_shard_size="40KB")
    index = tmp_path / "model.safetensors.index.json"
    assert set(folder_weights(tmp_path)) == set(json.loads(index.read_text())["weight_map"])
    change(sorted(tmp_path.glob("model-00002*"))[0], index)
    with pytest.raises(InputError, match=message):
        folder_weights(tmp_path)


def test_named_towers_have_their_published_sizes():
    sizes = {name: (config.num_tokens, config.feature_size) for name, config in TOWERS.items()}
    assert sizes["siglip-so400m"] == (728, 1152)
    assert sizes["clip-vit-b32"] == (49, 768)
    assert sizes["efficientnet-lite0"] == (49, 1280)
    with meta_device():
        counts = {name: sum(p.numel() for p in build_tower(c).parameters()) for name, c in TOWERS.items()}
    full = dataclasses.replace(TOWERS["siglip-so400m"], feature_layers=(-1,))
    with meta_device():
        # transformers' SiglipVisionModel of this size without its pooling head and last norm
        reference = transformers.SiglipVisionConfig(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
            patch_size=14, vision_use_head=False,
        )  # fmt: skip
        model = transformers.SiglipVisionModel(reference)
        ours = sum(p.numel() for p in build_tower(full).parameters())
    assert ours == sum(p.numel() for p in model.parameters()) - 2 * 1152
    assert counts["efficientnet-lite0"] < 3.5e6
    assert (sizes["beit-base"], sizes["hiera-tiny"]) == ((196, 768), (196, 384))


def test_no_wheel_is_unpickled():
    """The weights' own reading does not import pickle machinery; their values equal torch's own reading."""
    state = torch.load(fetch("efficientnet-lite0"), weights_only=True)
    from himix_edge.checkpoints.packages import efficientnet_lite0_state

    ours = efficientnet_lite0_state()
    assert set(ours) == {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    assert all(torch.equal(tensor.read(), state[name]) for name, tensor in ours.items())


def test_core_ml_does_not_turn_one_gelu_into_the_other(tmp_path):
    """coremltools has only exact GELU behind torch's operator, so the tanh approximation has to be spelled out."""
    from himix_edge.export.quantization.tensors import QuantizedModel
    from himix_edge.export.targets.coreml.target import _encoder
    from himix_edge.runtimes.coreml.interpreter import Interpreter, load_program

    torch.manual_seed(0)
    vision = dataclasses.replace(TINY.vision, hidden_act="gelu_tanh")
    model = build_model(dataclasses.replace(TINY, vision=vision)).eval().requires_grad_(False)
    for block in model.vision_tower.blocks:
        block.fc1.weight *= 3  # to where the two differ most
    package = _encoder(QuantizedModel(model, {}, {}), tmp_path, half=False)[0].parent
    pixels = torch.randint(256, (1, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = pixels.permute(0, 3, 1, 2).float()
    found = Interpreter(load_program(package), "main", package).run({"image": image}, {})["vision_features"]
    expected = model.encode_image(pixels)
    assert (found - expected).abs().max() < 2e-5 * expected.std()
