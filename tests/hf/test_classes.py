"""The classes of transformers: the same numbers as ours, in transformers' own generate, Trainer and pipeline."""

import dataclasses

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from himix_edge.checkpoints import load_checkpoint, save_checkpoint
from himix_edge.checkpoints.named_templates import NAMED
from himix_edge.errors import InputError
from himix_edge.hf import HimixConfig, HimixForConditionalGeneration, HimixProcessor
from himix_edge.hf.processing import jinja_template
from himix_edge.model import build_model
from himix_edge.preprocess import load_image
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import Message
from tests.conftest import TINY


@pytest.fixture(scope="module", params=["himix", "vanilla"])
def folder(request, tmp_path_factory, text):
    """A tiny checkpoint of ours, of both architectures."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("hf") / "tiny"
    save_checkpoint(made, build_model(dataclasses.replace(TINY, architecture=request.param)), text)
    return made


@pytest.fixture(scope="module")
def opened(folder):
    return HimixForConditionalGeneration.from_pretrained(folder), HimixProcessor.from_pretrained(folder)


def asked(words, image=None):
    parts = [{"type": "image", "image": image}] if image is not None else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}]


def inputs(processor, words, image=None):
    return processor.apply_chat_template(
        asked(words, image), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def test_logits_are_ours(folder, opened, probe_image):
    model, processor = opened
    given = inputs(processor, "what is it?", Image.open(probe_image))
    pixels = torch.from_numpy(load_image(probe_image, TINY.vision.image_size).copy())
    ids = torch.tensor([processor._text.encode_chat([Message("user", "what is it?")])])
    assert torch.equal(given["input_ids"], ids)
    assert torch.equal(given["pixel_values"], pixels)
    with torch.inference_mode():
        assert torch.equal(model(**given).logits, load_checkpoint(folder)(ids, pixels))
        assert torch.equal(model(input_ids=ids).logits, load_checkpoint(folder)(ids))


def test_generate_says_what_the_session_says(folder, opened, probe_image):
    model, processor = opened
    session = open_checkpoint(folder)
    for image in (Image.open(probe_image), None):
        given = inputs(processor, "is it red?", image)
        for cached in (True, False):
            made = model.generate(**given, max_new_tokens=8, use_cache=cached)[0, given["input_ids"].shape[1] :]
            pieces = session.generate("is it red?", image, max_new_tokens=8, temperature=0)
            expected = [piece.token_id for piece in pieces if piece.token_id is not None]
            assert made[: len(expected)].tolist() == expected
            assert made[len(expected) :].tolist() in ([], sorted(session.text.stop_ids))


def test_beams_batches_and_several_answers(opened, probe_image):
    model, processor = opened
    image = Image.open(probe_image)
    one = inputs(processor, "is it red?", image)
    two = processor.apply_chat_template(
        [asked("is it red?", image), asked("is it red?", image.rotate(90))], add_generation_prompt=True, tokenize=True,
        return_dict=True, return_tensors="pt",
    )  # fmt: skip
    alone = model.generate(**one, max_new_tokens=5)
    assert torch.equal(model.generate(**two, max_new_tokens=5)[0, : alone.shape[1]], alone[0])
    beams = model.generate(**one, max_new_tokens=5, num_beams=3, output_scores=True, return_dict_in_generate=True)
    expected = model.generate(
        **one, max_new_tokens=5, num_beams=3, output_scores=True, return_dict_in_generate=True, use_cache=False
    )
    assert torch.equal(beams.sequences, expected.sequences)
    assert torch.allclose(beams.sequences_scores, expected.sequences_scores, atol=1e-5)
    drawn = model.generate(**one, max_new_tokens=5, do_sample=True, num_return_sequences=3)
    assert drawn.shape[0] == 3


def test_a_saved_folder_is_read_by_the_auto_classes_and_by_ours(opened, tmp_path, probe_image):
    model, processor = opened
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, config = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, HimixForConditionalGeneration)
    assert isinstance(config, HimixConfig)
    assert config.model == model.config.model
    given = inputs(AutoProcessor.from_pretrained(tmp_path), "what is it?", Image.open(probe_image))
    with torch.inference_mode():
        expected = model(**given).logits
        assert torch.equal(again(**given).logits, expected)
        assert torch.equal(load_checkpoint(tmp_path)(given["input_ids"], given["pixel_values"]), expected)
    assert open_checkpoint(tmp_path).answer("what is it?", probe_image, 4) is not None
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_the_pipeline_answers(folder, opened, tmp_path, probe_image):
    model, processor = opened
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ask = pipeline("image-text-to-text", model=str(tmp_path))
    assert isinstance(ask, ImageTextToTextPipeline)
    made = ask(text=asked("is it red?", Image.open(probe_image)), max_new_tokens=6, return_full_text=False)
    session = open_checkpoint(folder)
    said = "".join(p.text for p in session.generate("is it red?", probe_image, max_new_tokens=6, temperature=0))
    assert made[0]["generated_text"] == said


def test_trainer_learns(folder, tmp_path, probe_image):
    model, processor = HimixForConditionalGeneration.from_pretrained(folder), HimixProcessor.from_pretrained(folder)
    ids, target = processor._text.encode_conversation([("what is it?", "a red circle")])
    row = {"input_ids": ids, "labels": [token if t else -100 for token, t in zip(ids, target, strict=True)],
           "pixel_values": load_image(probe_image, TINY.vision.image_size)[0]}  # fmt: skip

    def collate(rows):
        return {name: torch.tensor([row[name] for row in rows] if name != "pixel_values" else
                                   [row[name].tolist() for row in rows], dtype=torch.uint8 if name == "pixel_values"
                                   else torch.long) for name in rows[0]}  # fmt: skip

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=24, learning_rate=1e-2, report_to=[],
        save_strategy="no", logging_steps=1, use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=[row] * 48, data_collator=collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    trainer.save_model(str(tmp_path / "saved"))
    processor.save_pretrained(tmp_path / "saved")
    changed = load_checkpoint(tmp_path / "saved").state_dict()
    assert all(torch.equal(changed[name], value) for name, value in model.state_dict().items())


def test_padding_at_the_end_changes_no_row(opened):
    model, processor = opened
    short, long = (processor._text.encode_chat([Message("user", words)]) for words in ("a?", "what is it, then?"))
    ids = torch.zeros((2, len(long)), dtype=torch.long)
    ids[0, : len(short)], ids[1] = torch.tensor(short), torch.tensor(long)
    mask = torch.arange(len(long))[None] < torch.tensor([[len(short)], [len(long)]])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
        assert torch.allclose(logits[0, : len(short)], model(input_ids=ids[:1, : len(short)]).logits[0], atol=1e-5)
    with pytest.raises(ValueError, match="one by one"):
        model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=2)
    with pytest.raises(ValueError, match="one by one"):
        model(input_ids=ids, attention_mask=mask.flip(1).long(), use_cache=False)


CONVERSATIONS = (
    [Message("user", " What is it? ")],
    [Message("user", "a\nb"), Message("assistant", "A red circle."), Message("user", 'Say "x" {{ y }}')],
)


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("said", [*CONVERSATIONS, [Message("system", "Be brief."), *CONVERSATIONS[1]]], ids=range(3))
def test_the_jinja_template_renders_the_same(name, said, text):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = NAMED[name]
    if said[0].role == "system" and template.system is None:
        return
    messages = [{"role": m.role, "content": m.content} for m in said]
    expected = "".join(part.text for part in template.render(said))
    for form in (messages, [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]):
        found, _ = render_jinja_template([form], chat_template=jinja_template(template), add_generation_prompt=True)
        assert found == [expected]


@pytest.mark.parametrize(("settings", "words"), [
    ({"device_map": "auto"}, "device_map"), ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"attn_implementation": "flash_attention_2"}, "attn_implementation"),
])  # fmt: skip
def test_what_is_not_followed_is_refused(folder, settings, words):
    with pytest.raises(InputError, match=words):
        HimixForConditionalGeneration.from_pretrained(folder, **settings)


def test_wrong_calls_are_one_line(opened, probe_image):
    model, processor = opened
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(input_ids=ids, inputs_embeds=torch.zeros(1, 2, 64))
    with pytest.raises(InputError, match="one picture for each"):
        processor(text=["a", "b"], images=[probe_image])
    with pytest.raises(InputError, match="no such image"):
        processor(text="a", images="none.png")
