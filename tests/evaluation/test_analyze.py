"""`himix analyze`: Figure 2's numbers against Hugging Face's hidden states on the same weights and embeddings."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

from himix_edge.checkpoints import save_checkpoint
from himix_edge.cli import himix
from himix_edge.errors import InputError
from himix_edge.evaluation.similarity import layer_similarities
from himix_edge.model import build_model
from tests.conftest import TINY

VANILLA = dataclasses.replace(TINY, architecture="vanilla")


def test_similarities_equal_hugging_faces_hidden_states():
    torch.manual_seed(0)
    model = build_model(VANILLA).eval().requires_grad_(False)
    d = TINY.decoder
    reference = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=d.vocab_size, hidden_size=d.hidden_size, intermediate_size=d.intermediate_size,
        num_hidden_layers=d.num_hidden_layers, num_attention_heads=d.num_attention_heads, rms_norm_eps=d.rms_norm_eps,
        num_key_value_heads=d.num_key_value_heads, rope_theta=d.rope_theta, tie_word_embeddings=True,
    )).eval()  # fmt: skip
    reference.load_state_dict(model.state_dict(), strict=False)
    captured = []  # transformers norms the last hidden state it returns, so the layers' own outputs are taken
    for layer in reference.model.layers:
        layer.register_forward_hook(
            lambda _, args, out: captured.append((args[0], out if torch.is_tensor(out) else out[0]))
        )
    features, ids = torch.randn(1, 6, 32), torch.randint(400, (1, 9))
    vision, text = layer_similarities(model, features, ids)
    embeddings = torch.cat([model.connector(features), model.model.embed_tokens(ids)], dim=1)
    with torch.no_grad():
        reference.model(inputs_embeds=embeddings)
    expected = torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=-1)[0] for a, b in captured])
    assert (vision.shape, text.shape) == ((2, 6), (2, 9))
    assert torch.allclose(torch.cat([vision, text], 1), expected, rtol=0, atol=1e-5)


def test_it_writes_numbers_and_a_plot(tmp_path, text):
    save_checkpoint(tmp_path / "vanilla", build_model(VANILLA), text)
    arguments = ["--model", str(tmp_path / "vanilla"), "--limit", "2", "--out", str(tmp_path / "figure2")]
    himix.main(["analyze", *arguments], standalone_mode=False)
    result = json.loads((tmp_path / "figure2" / "similarity.json").read_text())
    assert [layer["layer"] for layer in result["layers"]] == [0, 1]
    assert result["images"] == 2
    assert result["text_tokens"] > result["prompts"] >= 2
    for layer in result["layers"]:
        assert -1 <= layer["vision_mean"] <= 1
        assert layer["text_std"] > 0
    with Image.open(tmp_path / "figure2" / "similarity.png") as image:
        assert image.width > 600


def records(folder, *images):
    """A LLaVA-format file with one record for each of `images`; None: text only."""
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a"}]
    file = folder / "data.json"
    file.write_text(json.dumps([{"conversations": talk, **({"image": i} if i else {})} for i in images]))
    return str(file)


def test_records_without_an_image_do_not_count(tmp_path, text, probe_image, capsys):
    save_checkpoint(tmp_path / "vanilla", build_model(VANILLA), text)
    data = records(tmp_path, None, probe_image.name, None, probe_image.name)
    arguments = ["--model", str(tmp_path / "vanilla"), "--data", data, "--image-folder", str(probe_image.parent)]
    for limit, images in ((["--limit", "1"], 1), ([], 2)):
        himix.main(["analyze", *arguments, *limit, "--json"], standalone_mode=False)
        result = json.loads(capsys.readouterr().out)
        assert (result["images"], result["prompts"]) == (images, images)
    with pytest.raises(InputError, match="no sample has an image"):
        himix.main(
            ["analyze", "--model", str(tmp_path / "vanilla"), "--data", records(tmp_path, None)], standalone_mode=False
        )


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, text):
    save_checkpoint(tmp_path / "vanilla", build_model(VANILLA), text)
    out = tmp_path / "figure2"
    arguments = ["analyze", "--model", str(tmp_path / "vanilla"), "--limit", "1", "--out", str(out)]
    himix.main(arguments, standalone_mode=False)
    himix.main(arguments, standalone_mode=False)  # an earlier result is replaced
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        himix.main(arguments, standalone_mode=False)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_himix_model_has_no_vision_sequence():
    with pytest.raises(InputError, match="train --vanilla"):
        himix.main(["analyze", "--model", "nano"], standalone_mode=False)
