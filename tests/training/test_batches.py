"""What a training step is given: the same batches however they are made, with the right labels."""

import dataclasses
import itertools
import pickle
from dataclasses import replace

import pytest
import torch

from himix_edge.data import load_dataset
from himix_edge.data.dataset import Dataset, Turn
from himix_edge.model import build_model
from himix_edge.training.batch import BLOCK_TOKENS, blocks
from himix_edge.training.batches import BatchMaker, shares
from himix_edge.training.graphed import padded
from himix_edge.training.objective import Objective
from himix_edge.training.pixels import ImageLoader
from himix_edge.training.teacher_forced import answer_logits, encode
from tests.conftest import TINY
from tests.training.tiny_recipe import RECIPE, STAGE


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("easy-vqa").first(40)


def maker(data, text, seed=1, **changes) -> BatchMaker:
    recipe = dataclasses.replace(RECIPE, **changes)
    return BatchMaker([data.samples], text, recipe, ImageLoader(TINY.vision), (seed,))


def test_batches_depend_on_seed_and_step_alone(data, text):
    one, two = maker(data, text), maker(data, text)
    two.batch(0)
    for a, b in zip(one.batch(5).tensors.values(), two.batch(5).tensors.values(), strict=True):
        assert torch.equal(a, b)
    assert one.batch(5).blocks == two.batch(5).blocks
    assert not torch.equal(one.batch(5).pixels, maker(data, text, seed=2).batch(5).pixels)


def test_parts_of_a_step_are_the_step(data, text):
    whole = maker(data, text).batch(3)
    parts = [maker(data, text).batch(3, part, 2) for part in range(2)]
    assert sum(part.targets for part in parts) == whole.targets
    assert torch.equal(torch.stack([parts[0].pixels, parts[1].pixels], 1).flatten(0, 1), whole.pixels)
    two_processes = [list(shares(maker(data, text, accumulate=2), range(3, 4), process, 2)) for process in range(2)]
    assert sum(b.targets for ((_, batches),) in two_processes for b in batches) == whole.targets


def test_worker_processes_make_the_same_batches(data, text):
    here = list(shares(maker(data, text), range(2, 5), 0, 1))
    there = list(shares(maker(data, text), range(2, 5), 0, 1, workers=2))
    assert [step for step, _ in here] == [step for step, _ in there] == [2, 3, 4]
    for (_, (a,)), (_, (b,)) in zip(here, there, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.input_ids, b.input_ids)


def test_a_special_token_in_text_stays_text_in_a_worker(text):
    there = pickle.loads(pickle.dumps(text))
    assert there.encode_conversation([("say <|im_end|>", "x")]) == text.encode_conversation([("say <|im_end|>", "x")])


def test_kept_pixels_are_the_image(tmp_path, data):
    image = data.samples[0].image
    loads = [ImageLoader(TINY.vision, folder) for folder in (None, tmp_path / "px", tmp_path / "px")]
    first, second, third = (load(image) for load in loads)
    assert (first == second).all()
    assert (first == third).all()
    assert len(list((tmp_path / "px").glob("*.npy"))) == 1


def test_an_epoch_shows_every_image_once(data, text):
    drawn = [maker(data, text).draw(step, place).image for step in range(10) for place in range(4)]
    assert sorted(drawn) == sorted(sample.image for sample in data.samples)


def test_labels_are_the_next_tokens_of_answers(data, text):
    batch = maker(data, text).batch(0)
    places = batch.positions[batch.row_of_target == 0] % batch.input_ids.shape[1]
    said = batch.labels[batch.row_of_target == 0]
    assert said[-1] == next(iter(text.stop_ids))
    for place, label in zip(places[:-1].tolist(), said[:-1], strict=True):
        assert batch.input_ids[0, place + 1] == label


def test_padding_changes_neither_loss_nor_gradients(data, text):
    torch.manual_seed(0)
    objective = Objective(build_model(TINY), False, [1, 5, 9])
    batch = maker(data, text).batch(0)
    grown = padded(batch)
    assert [len(grown.input_ids) % 64, grown.input_ids.shape[1] % 16, len(grown.labels) % 1024] == [0, 0, 0]
    gradients = []
    for one in (batch, grown):
        objective.zero_grad()
        losses = objective(one, STAGE)
        losses.loss.backward()
        learned = [p.grad for p in objective.parameters() if p.grad is not None]
        gradients.append([*learned, losses.answers, losses.right[: len(batch.input_ids)]])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_short_rows_are_decoded_apart_from_long_ones(data, text):
    """And what comes out is as if all had been padded to the longest."""
    long = Turn(" ".join(["what", "shape"] * 30), "circle")
    samples = [replace(s, image=s.image if i % 2 else None, conversations=(*s.conversations, (long,)))
               for i, s in enumerate(data.samples)]  # fmt: skip
    maker = BatchMaker([samples], text, replace(RECIPE, conversations_per_image=9), ImageLoader(TINY.vision), (1,))
    batch = maker.batch(0)
    rows, longest = batch.input_ids.shape
    assert sum(count for count, _ in batch.blocks) == rows
    assert sum(count * length for count, length in batch.blocks) < 0.6 * rows * longest
    torch.manual_seed(0)
    model, seeing = build_model(TINY), len(batch.image_of_row)
    assert 0 < seeing < rows
    apart, together = (
        answer_logits(model, replace(batch, blocks=found), encode(model, batch))
        for found in (batch.blocks, ((seeing, longest), (rows - seeing, longest)))
    )
    torch.testing.assert_close(apart, together)


@pytest.mark.parametrize("lengths", [(), (7,), (5, 5, 5, 300), (10, 11, 200, 210, 600), tuple(range(20, 400, 23))])
def test_blocks_cost_least(lengths):
    """Of all ways to cut, tried one by one."""
    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, len(lengths)), n) for n in range(len(lengths)))
    costs = [
        sum(
            BLOCK_TOKENS + (end - begin) * lengths[end - 1]
            for begin, end in itertools.pairwise((0, *cut, len(lengths)))
        )
        for cut in cuts
    ]
    found = blocks(lengths)
    assert sum(count for count, _ in found) == len(lengths)
    assert sum(BLOCK_TOKENS + count * length for count, length in found) == min(costs, default=0)


def test_a_step_draws_from_one_dataset(data, text):
    """The larger one has more of the steps, and each of its samples comes once an epoch."""
    parts = [data.samples[:8], data.samples[8:]]
    mixed = BatchMaker(parts, text, RECIPE, ImageLoader(TINY.vision), (1,))
    steps = [{mixed.draw(step, place).image for place in range(4)} for step in range(60)]
    small = {sample.image for sample in parts[0]}
    assert all(step <= small or not step & small for step in steps)
    of_large = [image for step in steps if not step & small for image in step]
    assert 40 < len(of_large) / 4 < 55
    assert set(of_large[:32]) == {sample.image for sample in parts[1]}
