"""Checkpoints: what is saved comes back, and what is wrong is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from himix_edge import load_checkpoint, save_checkpoint
from himix_edge.checkpoints import save_source, save_trained
from himix_edge.checkpoints.assemble import model_weights
from himix_edge.checkpoints.source import model_name, open_source
from himix_edge.config import ModelConfig, RopeScaling
from himix_edge.errors import InputError
from himix_edge.model import build_model
from tests.conftest import TINY


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_round_trip(tiny, tmp_path):
    save_checkpoint(tmp_path / "model", tiny)
    again = load_checkpoint(tmp_path / "model")
    assert again.config == tiny.config
    ids, pixels = torch.tensor([[3, 5]]), torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(again(ids, pixel_values=pixels), tiny(ids, pixel_values=pixels))


def test_a_failed_save_leaves_the_old_checkpoint(tiny, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "model", tiny)
    monkeypatch.setattr(
        "himix_edge.checkpoints.saving.save_file",
        lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(tmp_path / "model", tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_size": 80}, "has shape"),
    ({"num_hidden_layers": 3}, "missing model.layers.2"),
    ({"num_hidden_layers": 1}, "surplus model.layers.1"),
    ({"model_type": "llama"}, "surplus .*bias"),
    ({"model_type": "gpt2"}, "model_type"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"num_attention_heads": 3}, "multiple of"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
    ({"use_sliding_window": True}, "sliding"),
    ({"vision_hidden_size": 48}, "contradicts"),
    ({"vocab_size": 10**15}, "out of range"),
    ({"num_hidden_layers": 10**6}, "out of range"),
    ({"hidden_size": "many"}, "hidden_size"),
])  # fmt: skip
def test_a_config_that_contradicts_the_weights_is_refused(copy, changes, message):
    edit_config(copy, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(copy)


def test_a_truncated_file_is_refused(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(copy)


def test_a_pickle_is_never_opened(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        load_checkpoint(copy)


def write_tensors(folder, changes, head=None):
    """Change the stored tensors by name, and give the checkpoint a head of its own."""
    tensors = load_file(folder / "model.safetensors")
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    save_file(tensors if head is None else {**tensors, "lm_head.weight": head}, folder / "model.safetensors")


UP = "model.layers.1.mlp.up_proj.weight"


def first(value):
    """A change of a tensor's first number."""

    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(("change", "message"), [
    (first(float("nan")), f"{UP}: 1 of its 6144 numbers are NaN or infinite"),
    (first(float("-inf")), f"{UP}: 1 of its 6144 numbers are NaN or infinite"),
    (lambda t: t.to(torch.int8), f"{UP} is stored as int8"),
    (lambda t: t.to(torch.float8_e4m3fn), f"{UP} is stored as float8_e4m3fn"),
    (lambda t: first(1e300)(t.double()), f"{UP}: 1e[+]300 is beyond float32"),
])  # fmt: skip
def test_weights_that_are_no_numbers_of_a_model_are_named(copy, change, message):
    write_tensors(copy, {UP: change})
    with pytest.raises(InputError, match=message):
        load_checkpoint(copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_no_file_is_written_with_numbers_that_its_type_cannot_hold(copy, tmp_path, dtype):
    write_tensors(copy, {UP: first(1e5)})
    if dtype is torch.float16:
        with pytest.raises(InputError, match=f"{UP}: 100000 is beyond float16, which ends at 65504"):
            save_source(tmp_path / "out", open_source(copy), dtype)
        assert not (tmp_path / "out").exists()
    else:
        save_source(tmp_path / "out", open_source(copy), dtype)
        assert float(load_file(tmp_path / "out" / "model.safetensors")[UP][0, 0]) == pytest.approx(1e5, rel=1e-2)


def test_training_that_has_diverged_is_not_stored(tmp_path, text):
    start = model_weights(build_model(TINY))
    with pytest.raises(InputError, match=f"{UP}: holds NaN"):
        save_trained(tmp_path / "out", TINY, start, {UP: torch.full((96, 64), float("nan"))}, 0.0, text, {}, None)
    assert not (tmp_path / "out").exists()


def test_a_head_of_its_own_beside_a_tied_flag_is_the_models(copy):
    """As a fine-tuning leaves it that trained both; one that repeats the embedding is dropped."""
    tied = load_checkpoint(copy)
    table = load_file(copy / "model.safetensors")["model.embed_tokens.weight"]
    write_tensors(copy, {}, head=table.half().float() * 0 + table)
    assert load_checkpoint(copy).config == tied.config
    write_tensors(copy, {}, head=table.flip(0))
    model, ids = load_checkpoint(copy), torch.tensor([[1, 2, 3]])
    assert not model.config.decoder.tie_word_embeddings
    assert torch.allclose(model(ids), tied(ids).flip(-1), rtol=0, atol=1e-6)
    write_tensors(copy, {}, head=table[:-1].clone())
    with pytest.raises(InputError, match=r"lm_head.weight has shape"):
        load_checkpoint(copy)


def test_a_head_that_is_not_tied_has_to_be_there(copy):
    edit_config(copy, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"missing lm_head.weight; if the head is the embedding, tie_word_embeddings"):
        load_checkpoint(copy)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(copy):
    tokenizer = open_source(copy).load_tokenizer()
    tokenizer.add_tokens([f"<{i}>" for i in range(TINY.decoder.vocab_size - tokenizer.get_vocab_size())])
    tokenizer.save(str(copy / "tokenizer.json"))
    open_source(copy).load_text()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save(str(copy / "tokenizer.json"))
    with pytest.raises(InputError, match="1 tokens more than the embedding's 400 rows, the first '<tool>' with id 400"):
        open_source(copy).load_text()


@pytest.mark.parametrize(("path", "name"), [
    ("tiny", "tiny"), ("runs/small/final", "small"), ("my model; reboot", "my-model-reboot"), ("x/../y", "y"),
    ("a.b-1_2", "a.b-1_2"), ("über", "ber"), (".hidden", "hidden"),
])  # fmt: skip
def test_a_model_is_called_after_its_folder_by_a_name_that_can_travel(tmp_path, path, name):
    assert model_name(tmp_path / path) == name


@pytest.mark.parametrize("content", ["[]", '"text"', '{"recipe": 5}', '{"converted": []}'])
def test_a_record_of_another_form_is_refused(copy, content):
    (copy / "provenance.json").write_text(content)
    with pytest.raises(InputError, match=r"provenance.json: .*JSON object"):
        open_source(copy)


@pytest.mark.parametrize("place", [
    "../model.safetensors", "/etc/passwd", "..", ".", "model.bin", "a" * 5000 + ".safetensors", "a\0.safetensors",
    "sub/model.safetensors", "",
])  # fmt: skip
def test_an_index_names_safetensors_files_of_its_folder_alone(copy, place):
    names = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").rename(copy / "one.safetensors")
    index = {"weight_map": {**dict.fromkeys(names, "one.safetensors"), "model.norm.weight": place}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index.json: shard .* refused"):
        load_checkpoint(copy)


def test_a_tensor_of_a_shard_counts_where_the_index_forgets_it(copy):
    """As transformers reads it: else a head that the index does not name would be passed over."""
    names = load_file(copy / "model.safetensors")
    save_file({**names, "mystery": torch.zeros(1)}, copy / "one.safetensors")
    (copy / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(names, "one.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="surplus mystery"):
        load_checkpoint(copy)


@pytest.mark.parametrize("name", ["two\nlines", "x" * 300, "\x1b[31mred"])
def test_a_tensor_of_a_strange_name_is_refused_in_one_line(copy, name):
    save_file({**load_file(copy / "model.safetensors"), name: torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(InputError, match="a tensor is called") as refusal:
        load_checkpoint(copy)
    assert str(refusal.value).isprintable()


def test_a_surplus_tensor_is_named(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "mystery": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(InputError, match="surplus mystery"):
        load_checkpoint(copy)


@pytest.mark.parametrize("name", ["nonsense", "/nowhere/at/all", "../assets/nano"])
def test_an_unknown_model_is_named(name):
    with pytest.raises(InputError, match="shipped"):
        load_checkpoint(name)


def test_transformers_5_rope_parameters_are_read():
    raw = TINY.to_dict()
    del raw["rope_theta"], raw["rope_scaling"]
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    plain = ModelConfig.from_dict({**raw, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})
    assert (plain.decoder.rope_theta, plain.decoder.rope_scaling) == (7.0, None)
    both = {"rope_type": "llama3", "rope_theta": 7.0, **scaling}
    assert ModelConfig.from_dict({**raw, "rope_parameters": both}).decoder.rope_scaling == RopeScaling(**scaling)


def test_config_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
