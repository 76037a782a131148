"""Before a run starts, every image and record is looked at; while it runs, a bad one is named."""

import dataclasses
import json
import os

import pytest
from PIL import Image

from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.training import checking
from himix_edge.training.batches import BatchMaker, shares
from himix_edge.training.checking import check_images
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.recipe import DataPart
from himix_edge.training.run import Run
from himix_edge.training.trainer import train
from tests.conftest import TINY
from tests.training.tiny_recipe import RECIPE

TURNS = [{"from": "human", "value": "<image> What is it?"}, {"from": "gpt", "value": "a dot"}]


def records(folder, count=6):
    """A LLaVA-format file of small images."""
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    path = folder / "data.json"
    path.write_text(json.dumps([{"image": f"{number}.png", "conversations": TURNS} for number in range(count)]))
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("decoded", [1000, 0])
@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(b"no image"), pipe, cut])
def test_a_bad_image_is_named_with_its_record(tmp_path, monkeypatch, harm, decoded):
    monkeypatch.setattr(checking, "DECODED", decoded)
    dataset = load_dataset(str(records(tmp_path)))
    check_images([dataset])
    harm(tmp_path / "3.png")
    if harm is cut and not decoded:
        check_images([dataset])  # its head is right
        return
    with pytest.raises(InputError, match=r"data.json: record 3: .*3.png: "):
        check_images([dataset])


def test_a_run_with_bad_or_missing_data_does_not_start(tmp_path, tiny_checkpoint):
    path = records(tmp_path)
    recipe = dataclasses.replace(RECIPE, model=str(tiny_checkpoint), data=(DataPart(str(path)),))
    (tmp_path / "5.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="record 5: "):
        train(Run(tmp_path / "run", recipe))
    missing = dataclasses.replace(recipe, tests=(DataPart(str(tmp_path / "none.json")),), blind=True)
    with pytest.raises(InputError, match=r"none.json: no such file"):
        train(Run(tmp_path / "run", missing))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_bad_while_a_run_goes_on_is_named(tmp_path, text, workers):
    samples = load_dataset(str(records(tmp_path))).samples
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    maker = BatchMaker([samples], text, RECIPE, ImageLoader(TINY.vision), (0,))
    with pytest.raises(InputError, match=r"^[^\n]*data.json: record \d: [^\n]*not an image[^\n]*$"):
        list(shares(maker, range(1), 0, 1, workers))
