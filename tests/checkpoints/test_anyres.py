"""LLaVA-NeXT's and LLaVA-OneVision's pictures of any shape, beside transformers' own functions for many of them."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from himix_edge.checkpoints import open_source
from himix_edge.config import ImageLayout
from himix_edge.errors import InputError
from himix_edge.picture_tokens import arrange, slots
from himix_edge.runtimes import open_checkpoint
from himix_edge.tiles import Tiles, fullest_grid, load_tiles
from tests.checkpoints.test_vlm import SIDE, change, llava_next, llava_onevision, made, picture, set_right  # noqa: F401

transformers = pytest.importorskip("transformers")

NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
ONEVISION = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))
SIZES = [(1, 1), (1, 300), (300, 1), (640, 480), (336, 336), (1024, 899), (100, 3000), (3000, 100), (2304, 2304)]


def sizes() -> list[tuple[int, int]]:
    """Widths and heights of pictures."""
    drawn = random.Random(0)
    return SIZES + [(int(2 ** drawn.uniform(0, 12)), int(2 ** drawn.uniform(0, 12))) for _ in range(300)]


@pytest.mark.parametrize(("grids", "size"), [(NEXT, 336), (ONEVISION, 384)])
def test_the_grid_is_theirs(grids, size):
    from transformers.image_processing_utils import select_best_resolution

    pinpoints = [[rows * size, columns * size] for rows, columns in grids]
    for width, height in sizes():
        rows, columns = fullest_grid(width, height, size, grids)
        assert (rows * size, columns * size) == select_best_resolution((height, width), pinpoints)


@pytest.mark.parametrize(("grids", "most", "side"), [(NEXT, 0, 4), (NEXT, 0, 5), (ONEVISION, 9, 4), (ONEVISION, 4, 3)])
def test_the_tokens_of_a_picture_are_theirs(grids, most, side):
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    size = 14 * side
    model = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(image_size=size, patch_size=14),
            image_grid_pinpoints=[[rows * size, columns * size] for rows, columns in grids],
        )
    )
    layout = ImageLayout(slot_id=0, strategy="anyres", grids=grids, anyres_max=most)
    generator = torch.Generator().manual_seed(0)
    for width, height in sizes():
        grid = fullest_grid(width, height, size, grids)
        count = grid[0] * grid[1] + 1
        tiles = Tiles(np.zeros((count, 1, 1, 3), np.uint8), *grid, width, height)
        embeddings = torch.randn(count, side**2, 3, generator=generator)
        newline = torch.randn(3, generator=generator)
        shape = torch.tensor([[height, width]])
        if most:
            packed, _ = LlavaOnevisionModel.pack_image_features(
                model, [embeddings], shape, newline, vision_aspect_ratio=f"anyres_max_{most}"
            )
        else:
            packed, _ = LlavaNextModel.pack_image_features(model, [embeddings], shape, "full", newline)
        given = torch.cat([embeddings, newline.expand(count, 1, 3)], 1).numpy()
        ours = arrange(tiles, layout, given)
        assert ours.dtype == np.float32
        assert slots(tiles, layout, side**2 + 1) == (0, 0, len(ours))
        np.testing.assert_allclose(ours, packed[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("family", [llava_next, llava_onevision])
def test_pixels_of_many_shapes_are_theirs(family, tmp_path):
    theirs = made(family, tmp_path)
    config = open_source(theirs.folder).config
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    for shape in [(33, 21), (64, 64), (65, 190), (31, 500), (500, 31), (300, 299), (3, 2), (97, 64), (1, 40)]:
        ours = load_tiles(picture(*shape), SIDE, config.images)
        expected = np.asarray(theirs.processor.image_processor(picture(*shape))["pixel_values"])[0]
        assert (ours.width, ours.height) == shape
        normed = ((ours.pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(normed, expected, atol=1e-5)


def test_several_pictures_are_one_padded_tile_each(tmp_path):
    theirs = made(llava_onevision, tmp_path)
    config = open_source(theirs.folder).config
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    pictures = [picture(90, 40), picture(20, 31)]
    expected = theirs.processor.image_processor([pictures])["pixel_values"]
    for one, pixels in zip(pictures, expected, strict=True):
        ours = load_tiles(one, SIDE, config.images, alone=False)
        assert (ours.rows, len(ours.pixels)) == (0, 1)
        np.testing.assert_allclose((ours.pixels / 255 - mean) / std, pixels.transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "file", "changes", "says"),
    [
        (llava_onevision, "config.json", {"vision_aspect_ratio": "pad"}, "vision_aspect_ratio 'pad'"),
        (llava_onevision, "config.json", {"vision_aspect_ratio": "anyres_max_0"}, "anyres_max_N is"),
        (llava_onevision, "config.json", {"image_grid_pinpoints": [[32, 64]]}, "not those of .*config.json"),
        (llava_onevision, "config.json", {"vision_feature_select_strategy": "default"}, "square grid of features"),
        (llava_onevision, "preprocessor_config.json", {"size": {"height": 32, "width": 48}}, r"tiles of \[32, 48\]"),
        (llava_next, "config.json", {"vision_feature_select_strategy": "full"}, "square grid of features, not 17 of 4"),
        (llava_next, "preprocessor_config.json", {"size": {"shortest_edge": 48}}, "a tower of 32"),
        (
            llava_next,
            "preprocessor_config.json",
            {"crop_size": {"height": 24, "width": 32}},
            r"tiles of \[32, 24, 32\]",
        ),
        (llava_next, "preprocessor_config.json", {"image_mean": "grey"}, "image_mean"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(family, file, changes, says, tmp_path):
    folder = made(family, tmp_path).folder
    change(folder, file, **changes)
    with pytest.raises(InputError, match=says) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "grids", [[[32, 48]], [[32]], [[32, 10**9]], [[-32, 32]], {"32": 64}, "anyres", [[32, 64]] * 999]
)
def test_grids_that_are_not_of_whole_tiles_are_refused(grids, tmp_path):
    folder = made(llava_next, tmp_path).folder
    for file in ("config.json", "preprocessor_config.json"):
        change(folder, file, image_grid_pinpoints=grids)
    with pytest.raises(InputError, match=r"grids|image_grid_pinpoints"):
        open_source(folder)


def test_a_grid_of_which_nothing_would_be_left_is_refused():
    layout = ImageLayout(slot_id=0, strategy="anyres", grids=((1, 20),), anyres_max=1)
    with pytest.raises(InputError, match="too long and thin"):
        slots(Tiles(np.zeros((21, 1, 1, 3), np.uint8), 1, 20, 640, 10), layout, 17)


def test_a_missing_newline_is_named(tmp_path):
    folder = made(llava_next, tmp_path).folder
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if "image_newline" in name]
    assert len(names) == 1
    del tensors[names[0]]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing connector\.3\.token"):
        open_source(folder)


def test_the_whole_model_wants_the_pictures_arranged(tmp_path):
    model = open_checkpoint(made(llava_next, tmp_path).folder).engine.model
    with pytest.raises(ValueError, match="arrange"):
        model(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8))
