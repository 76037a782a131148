"""Vision-language models in their authors' layouts, beside what the authors' own code made of the same weights.

The goldens in tests/golden/vlm were made by the scripts there, in each family's own code.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import nn

from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.families import llava_original
from himix_edge.checkpoints.families.llava_original import QWEN_2
from himix_edge.checkpoints.families.parts import read_apart
from himix_edge.checkpoints.families.spare_token import spare_token
from himix_edge.checkpoints.folder import save_source
from himix_edge.checkpoints.tower_config import tower_config_from
from himix_edge.config import Connector, FastViTConfig
from himix_edge.errors import InputError
from himix_edge.image_text import Slots
from himix_edge.model.connector import build_connector
from himix_edge.picture_tokens import slots
from himix_edge.runtimes import Session, open_checkpoint
from himix_edge.text import ChatTemplate, Message
from himix_edge.tiles import load_tiles
from himix_edge.tower_presets import TOWERS
from himix_edge.vlm_presets import VLMS
from tests.checkpoints.test_fastvit import PREFIX, inference_form
from tests.golden.vlm.making import Golden, nano_tokenizer, picture, weights
from tests.golden.vlm.talking import TEXT

NANOVLM = ["<|endoftext|>", "<empty_output>"]
INTERNVL = ["<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"]
LLAMA = ["<unk>", "</s>"]
TOKENS = {  # `nano_tokenizer`'s arguments
    "nanovlm": (NANOVLM,), "nanovlm_tiles": (NANOVLM,), "nanovlm_222m": (NANOVLM,),
    "internvl_chat": (INTERNVL,), "internvl_chat_llama": (INTERNVL,), "fastvlm": (["<|endoftext|>"],),
    "mobilevlm": (LLAMA, "<s>"), "llava_llama": (LLAMA, "<s>"), "nanollava": (["<|endoftext|>"],),
    "tinyllava_qwen2": (["<|endoftext|>"], None, "<|endoftext|>"), "tinyllava_llama": (LLAMA, "<s>", "</s>"),
}  # fmt: skip
LLAVA_QWEN = (  # of convert_fastvlm_weights_to_hf.py
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOWER = "model.vision_tower.vision_tower."


@pytest.fixture(scope="module", autouse=True)
def tiny_fastvit():
    """`mobileclip_l` names one size, of 125 million parameters; the golden has a tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llava_original, "FASTVITHD", FastViTConfig(1024, (1,) * 5, (8, 16, 16, 32, 32)))
        yield


def written(golden: Golden, folder: Path) -> Path:
    """The family's folder, with the weights that the golden was made with."""
    folder.mkdir(exist_ok=True)
    tokenizer = nano_tokenizer(*TOKENS[golden.name])
    tokenizer.chat_template = golden.config.get("_chat_template")
    tokenizer.save_pretrained(folder)
    config = {name: value for name, value in golden.config.items() if not name.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config))
    state = weights(golden.shapes)
    if "_tower" in golden.config:
        named = golden.config.get("mm_vision_tower") or golden.config["vision_model_name_or_path"]
        tower = folder / Path(named).name
        tower.mkdir(exist_ok=True)
        for name, content in golden.config["_tower"].items():
            (tower / name).write_text(json.dumps(content))
        if golden.config.get("_tower_apart"):
            inside = {name: state.pop(name) for name in list(state) if name.startswith(TOWER)}
            save_file(
                {name.removeprefix(TOWER): tensor for name, tensor in inside.items()}, tower / "model.safetensors"
            )
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=TOKENS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


@pytest.fixture(scope="module")
def session(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_checkpoint(written(golden, tmp_path_factory.mktemp("vlm") / golden.name))


def tiles(session: Session, shape: list[int]):
    return load_tiles(picture(*shape), session.config.vision.image_size, session.config.images)


def test_pixels_are_theirs(golden, session):
    labels = [name.removeprefix("pixels_") for name in golden.arrays if name.startswith("pixels_")]
    assert labels
    for label in labels:
        ours = tiles(session, [int(side) for side in label.split("x")]).pixels
        np.testing.assert_array_equal(ours, golden.arrays[f"pixels_{label}"].numpy())


def test_ids_logits_and_tokens_are_theirs(golden, session):
    for i, question in enumerate(golden.questions):
        grids = [tiles(session, shape) for shape in question.shapes]
        text, system = session.text, [Message("system", question.system)] if question.system else []
        if grids:
            places = [slots(grid, session.config.images, session.config.tile_tokens) for grid in grids]
            ahead = text.encode_pictures(places, question.system)
            ids = ahead + text.encode_behind_pictures(question.words)
        else:
            ids = text.encode_chat([*system, Message("user", question.words)])
        slot = session.config.images.slot_id
        assert [golden.slot if number == slot else number for number in ids] == question.ids
        pixels = torch.from_numpy(np.concatenate([grid.pixels for grid in grids])) if grids else None
        with torch.no_grad():
            logits = session.engine.model(torch.tensor([ids]), pixels)[0]
        expected = golden.arrays[f"logits_{i}"]
        assert (logits[-len(expected) :] - expected).abs().max() < 2e-5
        ends = [at for at, token in enumerate(question.tokens) if token in text.stop_ids]
        said = question.tokens[: ends[0]] if ends else question.tokens
        chat = session.chat([picture(*shape) for shape in question.shapes], question.system or None)
        pieces = list(chat.send(question.words, max_new_tokens=32, temperature=0))
        assert [piece.token_id for piece in pieces if piece.token_id is not None] == said


def test_a_saved_checkpoint_is_the_same_model(golden, session, tmp_path):
    folder = written(golden, tmp_path / "theirs")
    save_source(tmp_path / "ours", open_source(folder))
    again = open_checkpoint(tmp_path / "ours")
    assert again.text.template == session.text.template
    assert again.answer("What?", picture(150, 33), 12) == session.answer("What?", picture(150, 33), 12)


def test_a_missing_and_a_surplus_tensor_are_named(golden, tmp_path):
    folder = written(golden, tmp_path / "theirs")
    unused = ".encoder.layers.2." if golden.name.startswith("tinyllava") else None  # behind the feature layer
    for name in list(golden.shapes)[:: len(golden.shapes) // 4]:
        if unused and unused in name:
            continue
        shapes = {kept: shape for kept, shape in golden.shapes.items() if kept != name}
        save_file(weights({**shapes, "one.too.many": [1]}), folder / "model.safetensors")
        with pytest.raises(InputError, match="missing"):
            open_source(folder)


def test_the_whole_picture_of_nanovlm_is_theirs_within_its_rounding():
    golden = Golden.load("nanovlm")
    wholes = [name for name in golden.arrays if name.startswith("whole_")]
    assert wholes
    for name in wholes:
        ours = golden.arrays[name.replace("whole", "pixels")][0].permute(2, 0, 1) / 255
        assert (ours - golden.arrays[name]).abs().max() <= 1 / 255


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("nanovlm", {"vit_cls_flag": True}, "vit_cls_flag True is not supported"),
        ("nanovlm", {"lm_attn_scaling": 2.0}, "lm_attn_scaling 2.0"),
        ("nanovlm", {"max_img_size": 100}, "max_img_size 100 is not a multiple"),
        ("nanovlm", {"max_img_size": 32 * 5}, "r1c5 is None"),
        ("nanovlm", {"max_img_size": 32 * 500}, "500 rows"),
        ("nanovlm", {"vlm_extra_tokens": ["<|image|>"]}, "vlm_extra_tokens"),
        ("nanovlm", {"vlm_extra_tokens": {}}, "no image_token"),
        ("nanovlm", {"lm_base_vocab_size": -3}, "lm_base_vocab_size -3"),
        ("nanovlm", {"mp_image_token_length": 64}, "mp_image_token_length 64"),
        ("nanovlm", {"lm_n_blocks": None}, "num_hidden_layers"),
        ("internvl_chat", {"ps_version": "v1"}, "ps_version 'v1' is not supported"),
        ("internvl_chat", {"template": "phi3-chat"}, "template 'phi3-chat' is not supported; internvl2_5, Hermes-2"),
        ("internvl_chat", {"llm_config": {"architectures": ["InternLM2ForCausalLM"]}}, "'InternLM2ForCausalLM'"),
        ("internvl_chat", {"llm_config": 3}, "llm_config is not a JSON object"),
        ("internvl_chat", {"vision_config": {}}, "the one of 6 billion"),
        ("internvl_chat", {"downsample_ratio": 0.3}, "downsample_ratio 0.3"),
        ("internvl_chat", {"select_layer": 4}, "select_layer 4"),
        ("internvl_chat", {"use_llm_lora": 8}, "use_llm_lora 8"),
        ("internvl_chat", {"use_thumbnail": 1}, "use_thumbnail 1 is neither"),
        ("internvl_chat", {"max_dynamic_patch": 65}, "most_tiles"),
        ("internvl_chat", {"system_message": 7}, "system_message is no text"),
        ("fastvlm", {"model_type": "llava_mpt"}, "'llava_mpt' with mm_vision_tower is not supported; llava_qwen2"),
        ("fastvlm", {"mm_projector_type": "mlp3x_gelu"}, "'mlp3x_gelu' is not supported; linear, mlp2x_gelu"),
        ("fastvlm", {"mm_use_im_start_end": True}, "mm_use_im_start_end True"),
        ("fastvlm", {"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type 'spatial_unpad'"),
        ("fastvlm", {"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported; pad and square"),
        (
            "fastvlm",
            {"mm_vision_tower": "openai/clip-vit-l14"},
            "its tower openai/clip-vit-l14 is a folder of its own",
        ),
        ("fastvlm", {"mm_vision_tower": "mobileclip_l_0"}, "image_size"),
        ("fastvlm", {"mm_projector_type": "ldpnetv2"}, "ldpnetv2 makes 12 x 12 tokens, not of 2 x 2"),
        ("mobilevlm", {"mm_projector_type": "ldpnet"}, "mm_projector_type 'ldpnet' is not supported"),
        ("mobilevlm", {"mm_vision_select_layer": 1}, "mm_vision_select_layer 1"),
        (
            "mobilevlm",
            {"mm_vision_tower": "tiny", "_tower": {"config.json": {}, "preprocessor_config.json": {}}},
            "not a known tower",
        ),
        ("mobilevlm", {"mm_vision_tower": "tiny", "_tower": {"config.json": []}}, "expected a JSON object, found list"),
        ("tinyllava_qwen2", {"connector_type": "resampler"}, "'resampler' is not supported; linear and mlp1x_gelu to"),
        ("tinyllava_qwen2", {"connector_type": "mlp2x_relu"}, "connector_type 'mlp2x_relu' is not supported"),
        ("tinyllava_qwen2", {"connector_type": "mlp3x_gelu"}, r"missing connector\.4\.bias, connector\.4\.weight"),
        (
            "tinyllava_qwen2",
            {"text_config": {"model_type": "phi"}},
            "'phi' is not supported; decoders: llama",
        ),
        ("tinyllava_qwen2", {"text_config": {"tie_word_embeddings": "x"}}, "text_config: tie_word_embeddings 'x'"),
        (
            "tinyllava_qwen2",
            {"vision_config": {"model_type": "dinov2"}},
            "'dinov2' is not supported; clip_",
        ),
        ("tinyllava_qwen2", {"vision_config": []}, "no vision_config in config.json"),
        ("tinyllava_qwen2", {"vision_model_name_or_path2": "dinov2"}, "a mixture of two towers is not supported"),
        ("tinyllava_qwen2", {"vision_feature_layer": 2}, "vision_feature_layer 2 is not supported"),
        ("tinyllava_qwen2", {"vision_feature_select_strategy": "cls"}, "vision_feature_select_strategy 'cls'"),
        ("tinyllava_qwen2", {"image_aspect_ratio": "anyres"}, "'anyres' is not supported; square and pad are"),
        (
            "tinyllava_qwen2",
            {"_tower": {}},
            r"no preprocessor_config\.json; copy that of its tower someone",
        ),
        (
            "tinyllava_qwen2",
            {"_tower": {"preprocessor_config.json": {"resample": 0}}},
            r"preprocessor_config\.json: resample 0",
        ),
        (
            "tinyllava_qwen2",
            {"vision_model_name_or_path": "siglip:google/siglip-so400m-patch14-384", "_tower": {}},
            "do not give the 32 x 32 pixels",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name, changes, says, tmp_path):
    golden = Golden.load(name)
    golden.config |= changes
    folder = written(golden, tmp_path / "theirs")
    with pytest.raises(InputError, match=says) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


def in_parts(golden: Golden, folder: Path) -> Path:
    """TinyLLaVA's golden in a folder for each part, as TinyLLaVA Factory leaves a training's first stage."""
    written(golden, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    for part, prefix in (("language_model", "language_model."), ("vision_tower", "vision_tower._vision_tower."),
                         ("connector", "connector.")):  # fmt: skip
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        (folder / part).mkdir()
        save_file(inside, folder / part / "model.safetensors")
    for part, name in (("language_model", "text_config"), ("vision_tower", "vision_config")):
        (folder / part / "config.json").write_text(json.dumps(config.pop(name)))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("name", "end"), [("tinyllava_qwen2", "<|endoftext|>"), ("tinyllava_llama", "</s>")])
def test_tinyllava_in_a_folder_for_each_part_is_the_same_model(name, end, tmp_path):
    golden = Golden.load(name)
    whole, parts = open_source(written(golden, tmp_path / "whole")), open_source(in_parts(golden, tmp_path / "parts"))
    assert parts.config == whole.config
    assert all(torch.equal(parts.weights[name].read(), tensor.read()) for name, tensor in whole.weights.items())
    template = parts.load_text().template
    assert (template.assistant, template.stop[0]) == (("ASSISTANT:", end), end)
    (tmp_path / "parts" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="LoRA adapters are not supported; merge them"):
        open_source(tmp_path / "parts")


def test_pictures_in_the_configuration_alone_or_in_the_template_alone_are_refused(tmp_path):
    folder = tmp_path / "ours"
    save_source(folder, open_source(written(Golden.load("tinyllava_llama"), tmp_path / "theirs")))
    config, template = (json.loads((folder / name).read_text()) for name in ("config.json", "chat_template.json"))
    twice = {**config["images"], "whole_first": True}
    for images, image, says in (
        (config["images"], None, "config.json's images is there and the chat template's image is not"),
        (None, template["image"], "the chat template's image is there and config.json's images is not"),
        (twice, template["image"], "images.whole_first is True, the chat template's image.whole_first False"),
        ({**config["images"], "slot_id": 5}, template["image"], "its chat template: image.slot '<unk>' is not token 5"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, "images": images}))
        (folder / "chat_template.json").write_text(json.dumps({**template, "image": image}))
        with pytest.raises(InputError, match=says):
            open_source(folder).load_text()


def test_a_connector_of_several_layers_is_theirs():
    torch.manual_seed(0)
    ours = build_connector(Connector(layers=3), 8, 4)
    theirs = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))  # MLPConnector
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(1, 3, 8)
    assert torch.equal(ours(features), theirs(features))


def transformers_folder(folder: Path) -> Path:
    """FastVLM's golden as transformers has it: `timm_names.json` is by its own convert_fastvlm_weights_to_hf.py."""
    golden = Golden.load("fastvlm")
    theirs = open_source(written(golden, folder / "apple"))
    tower = inference_form(
        {n.removeprefix(PREFIX): t for n, t in weights(golden.shapes).items() if n.startswith(PREFIX)}
    )
    names = json.loads((golden.folder / "timm_names.json").read_text())
    state = {f"model.vision_tower.timm_model.{names[name]}": tower[name] for name in names}
    renamed = {
        "mm_projector.0": "multi_modal_projector.linear_1", "mm_projector.2": "multi_modal_projector.linear_2",
        "model.layers": "model.language_model.layers", "model.norm": "model.language_model.norm",
        "model.embed_tokens": "model.language_model.embed_tokens",
    }  # fmt: skip
    for name, tensor in weights(golden.shapes).items():
        if not name.startswith(PREFIX):
            place = next(place for place in renamed if place in name)
            state[name.replace(place, renamed[place])] = tensor
    text = {name: golden.config[name] for name in TEXT} | {"vocab_size": golden.config["vocab_size"]}
    config = {
        "model_type": "fast_vlm", "text_config": {**text, "model_type": "qwen2"}, "tie_word_embeddings": True,
        "vision_config": {"model_type": "timm_wrapper", "architecture": "fastvit_mci3"},
        "image_token_id": theirs.config.images.slot_id,
    }  # fmt: skip
    pixels = transformers.CLIPImageProcessor(
        crop_size={"height": 128, "width": 128}, size={"shortest_edge": 128}, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    folder = folder / "transformers"
    pixels.save_pretrained(folder)
    tokenizer = nano_tokenizer(["<|endoftext|>", "<image>"])
    tokenizer.chat_template = LLAVA_QWEN
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def test_fastvlm_in_transformers_layout_is_the_same_model(tmp_path):
    ours = open_checkpoint(transformers_folder(tmp_path))
    apple = open_checkpoint(tmp_path / "apple")
    assert ours.config == replace(apple.config, images=replace(apple.config.images, strategy="crop"))
    first, second = ours.engine.model.state_dict(), apple.engine.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)
    square = [picture(40, 40)]
    assert ours.answer("What?", square, 12) == apple.answer("What?", square, 12)
    system, asked = QWEN_2.default_system, ours.text.encode_pictures([Slots(0, 0, 4)])
    assert asked == apple.text.encode_pictures([Slots(0, 0, 4)], system)
    assert ours.text.encode_behind_pictures("What?") == apple.text.encode_behind_pictures("What?")


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"vision_config": {"architecture": "fastvit_sa12"}}, "architecture 'fastvit_sa12'"),
        ("config.json", {"vision_feature_layer": -2}, "vision_feature_layer -2 is not supported; -1 is"),
        ("config.json", {"image_token_id": 10**6}, "image_token_id 1000000"),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3}, "image_mean or image_std is not supported"),
        ("preprocessor_config.json", {"crop_size": "all"}, "crop_size 'all'"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}}, "do not give the 128 x 128 pixels"),
    ],
)
def test_fastvlm_in_transformers_layout_is_refused_by_name(file, changes, says, tmp_path):
    folder = transformers_folder(tmp_path)
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | changes))
    with pytest.raises(InputError, match=says):
        open_source(folder)


def test_towers_that_are_known_by_name_have_their_published_sizes():
    for name, preset in (("clip-vit-large-patch14-336", "clip"), ("siglip-so400m-patch14-384", "siglip-so400m")):
        described, settings = llava_original.KNOWN_TOWERS[name]
        found = tower_config_from(described, name, settings)
        known = TOWERS["siglip-so400m"] if preset == "siglip-so400m" else VLMS["llava-1.5-7b"].config.vision
        assert found == replace(known, drop_first_token=preset == "clip")


def word_tokenizer(**parts) -> Tokenizer:
    letters = dict.fromkeys(["<unk>", "\n", " ", "▁", *"What is it?"])
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token="<unk>"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    ("parts", "ahead"),
    [
        ({}, "\n"),
        ({"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])}, "\n"),
        ({"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first", split=False)}, " \n"),
    ],
)
def test_what_follows_a_picture_is_read_as_a_text_of_its_own(parts, ahead):
    """As SentencePiece's tokenizers put a space in front: of every piece, of the first one, or none."""
    tokenizer = word_tokenizer(**parts)
    assert read_apart(tokenizer, "\n", "What is it?", "here") == ahead


def test_a_spare_token_is_one_that_no_text_has():
    template = ChatTemplate(("<s>", "</s>"), ("", "</s>"), stop=("</s>",))
    tokenizer = Tokenizer(BPE({"a": 0}, []))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    assert spare_token(tokenizer, 4, template, "here") == tokenizer.token_to_id("<unk>")
    assert tokenizer.token_to_id("<image>") is None
    assert spare_token(tokenizer, 5, template, "here") == 4 == tokenizer.token_to_id("<image>")
    assert spare_token(tokenizer, 5, template, "here") == 4
    bare = Tokenizer(BPE({"a": 0}, []))
    with pytest.raises(InputError, match="no token is left that could stand for a picture"):
        spare_token(bare, 1, template, "here")
