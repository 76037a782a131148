"""HiMix of a model whose picture is one tile in its text: LLaVA 1.5 in transformers' own class, tiny and random."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch

from himix_edge import load_checkpoint
from himix_edge.checkpoints import open_source
from himix_edge.checkpoints.assemble import assemble
from himix_edge.cli import himix
from himix_edge.data.llava import load_llava
from himix_edge.distillation.layers import image_use
from himix_edge.distillation.losses import one_question_each
from himix_edge.distillation.pooling import pooling_use
from himix_edge.distillation.rows import teacher_rows
from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.image_text import Slots
from himix_edge.model.decoder import rope_tables, rotate
from himix_edge.runtimes import open_bundle, open_checkpoint
from himix_edge.tiles import load_tiles
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.recipe import DataPart, Stage
from himix_edge.training.run import Run
from himix_edge.training.teacher import teacher_of
from himix_edge.training.teacher_forced import encode, question_batches
from himix_edge.training.trainer import Trainer, train
from tests.checkpoints.test_vlm import SIDE, llava, made, picture, set_right, smolvlm
from tests.training.tiny_recipe import RECIPE

USED_HERE = (set_right,)  # a fixture of every test
SQUARE = (SIDE, SIDE)  # the same pixels cropped and squashed


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return made(llava, tmp_path_factory.mktemp("llava") / "model").folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(30):
        picture(SIDE + number, SIDE).save(folder / f"{number}.png")
    return folder


def convert(teacher, out, *options):
    himix.main(["convert", str(teacher), "--to", "himix", *map(str, options), "--out", str(out)], standalone_mode=False)


def test_what_is_solved_for_is_what_the_model_reads(teacher):
    """Keys and values of a picture's tokens behind the words that stand before it, as the session keeps them."""
    source = open_source(teacher)
    model, before = assemble(source.config, source.weights, source.where), source.words_before_a_picture()
    assert before
    kept = open_checkpoint(teacher).encode_image(picture(*SQUARE))
    pixels = torch.from_numpy(load_tiles(picture(*SQUARE), SIDE, source.config.images).pixels.copy())
    with torch.inference_mode():
        rows = teacher_rows(model, model.connect(model.encode_image(pixels)), before)
    slots = slice(len(before), len(before) + source.config.tile_tokens)
    tables = rope_tables(source.config.decoder, torch.arange(slots.start, slots.stop))
    for layer, (key, value) in enumerate(rows):
        np.testing.assert_allclose(value[0], kept.value[layer][:, slots], atol=2e-5)
        np.testing.assert_allclose(rotate(key, *tables)[0], kept.key[layer][:, slots], atol=2e-5)


def test_converted_it_is_exported_and_answers_about_a_picture_in_front(teacher, photos, tmp_path, capsys):
    out = tmp_path / "student"
    convert(teacher, out, "--images", photos, "--json")
    assert json.loads(capsys.readouterr().out)["solved_on"]["images"] == 30
    source = open_source(out)
    assert (source.config.architecture, source.config.images) == ("himix", None)
    assert source.config.tile_tokens == open_source(teacher).config.tile_tokens
    assert source.load_text().template.image is None
    made = export(plan(ExportRequest(str(out), "onnx", "none", tmp_path / "bundle", probe_questions=1)))
    session, reference, theirs = open_bundle(made.folder), open_checkpoint(out), open_checkpoint(teacher)
    image, expected = (one.encode_image(picture(40, 30)) for one in (session, reference))
    np.testing.assert_allclose(image.value, expected.value, atol=1e-4)
    assert session.answer("What is it?", image, 8) == reference.answer("What is it?", expected, 8)
    without = [one.answer("What is it?", max_new_tokens=8) for one in (reference, theirs)]
    assert without[0] == without[1]


def test_layers_that_mix_are_copied(teacher, tmp_path):
    """Without images: the first layer's values depend on each token alone, so they are the teacher's own."""
    out = tmp_path / "student"
    convert(teacher, out, "--mixing", 1)
    image, kept = (open_checkpoint(one).encode_image(picture(*SQUARE)) for one in (out, teacher))
    before = len(open_source(teacher).words_before_a_picture())
    np.testing.assert_allclose(image.value[0], kept.value[0][:, before : before + image.tokens], atol=2e-5)


def test_as_a_teacher_it_reads_its_own_words(teacher, photos, tmp_path):
    """Its logits for the answers are those of the whole conversation, with the picture where it stands in it."""
    convert(teacher, tmp_path / "student", "--fresh")
    answers = [("What is it?", "a cat"), ("Where is the red thing?", "behind the small blue one")]
    talks = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in answers]
    records = [{"image": f"{number}.png", "conversations": talks[number % 2]} for number in range(12)]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    stage = Stage("injection", ("injection",), 2, 1e-2, warmup_steps=1, answer_loss=0.0, teacher_loss=1.0)
    recipe = dataclasses.replace(
        RECIPE, model=str(tmp_path / "student"), teacher=str(teacher), stages=(stage,), evaluate_every=9,
        data=(DataPart(str(tmp_path / "talks.json")),),
    )  # fmt: skip
    run = Run(tmp_path / "run", recipe, image_folder=photos)
    trainer = Trainer(run, resume=False)
    trainer._begin(stage, restore=False)
    batch, known = trainer._maker(stage).batch(0), trainer.objective.teacher
    assert (len(batch.theirs.input_ids), batch.theirs.labels.tolist()) == (4, batch.labels.tolist())
    with torch.no_grad():
        said = known.say(batch, encode(trainer.objective.model, batch), attention=False)
    model = load_checkpoint(teacher)
    ahead = known.text.encode_pictures([Slots(0, 0, model.config.tile_tokens)])
    longest = batch.theirs.input_ids.shape[1]
    for row, image in enumerate(batch.image_of_row.tolist()):
        ids = torch.tensor([[*ahead, *batch.theirs.input_ids[row].tolist()]])
        with torch.no_grad():
            whole = model(ids, pixel_values=batch.pixels[image : image + 1])[0, len(ahead) :]
        of = batch.theirs.row_of_target == row
        expected = whole[batch.theirs.positions[of] - row * longest]
        torch.testing.assert_close(said.logits[of], expected, rtol=0, atol=5e-5)
    train(dataclasses.replace(run, folder=tmp_path / "whole"))
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        assert all(float(row["divergence"]) > 0 for row in csv.DictReader(file))


def test_what_it_bears_is_measured_on_its_own_answers(teacher, photos, tmp_path, capsys):
    """The losses with its own keys and values in front: by layers, pooled, and checked, they are one number."""
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]
    records = [{"image": f"{number}.png", "conversations": talk} for number in range(30)]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    data = ("--images", tmp_path / "talks.json", "--image-folder", photos)
    convert(
        teacher, tmp_path / "a", *data, "--injection-layers", "auto:2", "--pooling", "auto", "--check", 30, "--json"
    )
    result = json.loads(capsys.readouterr().out)
    assert result["injection"]["layers"] == [0, 1]
    source, samples = open_source(teacher), one_question_each(load_llava(tmp_path / "talks.json", photos).samples)
    known = teacher_of(source)
    load = ImageLoader(source.config.picture_in_front("").vision)
    more = (samples, load), {"watch": list, "before": known.before}
    use = image_use(known.model, known.text, *more[0], **more[1])
    pooled = pooling_use(known.model, known.text, *more[0], positions="sequence", layers=None, **more[1])
    assert use.loss == pytest.approx(pooled.losses[1], abs=1e-5)
    assert use.blind == pytest.approx(pooled.blind, abs=1e-5)
    assert result["losses"]["exact"] == pytest.approx(pooled.losses[result["pooling"]], abs=1e-4)
    logits = [known.say(batch, encode(known.model, batch), attention=False).logits for _, batch in question_batches(
        samples, known.text, load, images_per_batch=7, theirs=known.text)]  # fmt: skip
    labels = torch.cat([batch.labels for _, batch in question_batches(samples, known.text, load, images_per_batch=7)])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), labels)
    assert result["losses"]["teacher"] == pytest.approx(float(expected), abs=1e-5)


def test_several_tiles_are_refused(tmp_path):
    folder = made(smolvlm, tmp_path / "smolvlm").folder
    with pytest.raises(InputError, match=r"up to 17 tiles \(rows\); HiMix takes one"):
        convert(folder, tmp_path / "x", "--mixing", 0)
