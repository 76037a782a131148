"""How a vision-language model's processor in a Hugging Face folder cuts pictures: preprocessor_config.json."""

import re
from pathlib import Path

from himix_edge.checkpoints.config_parts import said
from himix_edge.config import VisionConfig
from himix_edge.errors import InputError
from himix_edge.reading import JsonObject, read_json
from himix_edge.tower_presets import CLIP_MEAN, CLIP_STD

PROCESSOR = "preprocessor_config.json"
CLIP_NORMALIZATION: JsonObject = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
GRIDS = {  # heights and widths in pixels: transformers' defaults where image_grid_pinpoints is left out
    "llava_next": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "llava_onevision": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
}
ANYRES_MAX = re.compile(r"anyres_max_([1-9]\d?)")


def processor_of(folder: Path, kind: str) -> JsonObject:
    """preprocessor_config.json of a folder with model_type `kind`. Raises InputError if it is missing."""
    path = folder / PROCESSOR
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    settings = said(settings)
    for name, value in settings.items():
        if name.startswith("do_") and not isinstance(value, bool):
            raise InputError(f"{path}: {name[:40]} {value!r:.40} is neither true nor false")
    defaults = CLIP_NORMALIZATION if kind in GRIDS else {}
    return defaults | settings


def layout_of(raw: JsonObject, pixels: JsonObject, side: int, folder: Path) -> JsonObject:
    """The fields of an `ImageLayout`, but for the slot.

    Args:
        raw: config.json's content.
        pixels: preprocessor_config.json's.
        side: of the tower's image, in pixels.
        folder: of both, for messages.

    Raises:
        InputError: a setting that is not supported; named.
    """
    kind, where = str(raw["model_type"]), str(folder / PROCESSOR)
    known = pixels.get("resample", {"idefics3": 1, "smolvlm": 1}.get(kind, 3))
    if type(known) is not int or known not in FILTERS:
        raise InputError(
            f"{where}: resample {known!r:.40} is not supported; 1 (lanczos), 2 (bilinear), 3 (bicubic) are"
        )
    layout: JsonObject = {"filter": FILTERS[known]}
    if pixels.get("do_resize") is False:
        raise InputError(f"{where}: do_resize is false; not supported")
    if kind in ("idefics3", "smolvlm"):
        tile = _side(pixels.get("max_image_size", {"longest_edge": 364}), "longest_edge")
        if tile != side:
            raise InputError(
                f"{where}: max_image_size gives tiles of {tile!r:.40} pixels for a tower of {side}; only equal sides "
                "are supported"
            )
        longest = _side(pixels.get("size", {"longest_edge": 4 * 364}), "longest_edge")
        longest = whole(longest, "size.longest_edge", 4096, where)
        return {**layout, "strategy": "rows", "longest": longest, "split": pixels.get("do_image_splitting", True)}
    if kind == "internvl":
        size = pixels.get("size", {"height": side, "width": side})
        if (_side(size, "height"), _side(size, "width")) != (side, side):
            raise InputError(f"{where}: tiles of {size!r:.60} for a tower of {side}; only equal sides are supported")
        most = whole(pixels.get("max_patches", 12), "max_patches", 64, where)
        least = whole(pixels.get("min_patches", 1), "min_patches", most, where)
        return {**layout, "strategy": "grid", "least_tiles": least, "most_tiles": most}
    if kind in GRIDS:
        return {**layout, **_anyres(raw, pixels, side, str(folder / "config.json"), where)}
    return {**layout, **one_tile(pixels, side, where)}


def one_tile(pixels: JsonObject, side: int, where: str) -> dict[str, object]:
    """The strategy of CLIP's, SigLIP's and LLaVA's processors."""
    siglip = str(pixels.get("image_processor_type")).startswith("Siglip")  # it never crops
    size = pixels.get("size", {"height": 224, "width": 224} if siglip else {"shortest_edge": 224})
    cropped = pixels.get("do_center_crop", True) and not siglip
    crop = pixels.get("crop_size", {"height": 224, "width": 224}) if cropped else None
    both = isinstance(size, dict) and {"height", "width"} <= size.keys()
    wanted = (_side(size, "height"), _side(size, "width")) if both else (_side(size, "shortest_edge"),)
    middle = (side, side) if crop is None else (_side(crop, "height"), _side(crop, "width"))
    padded = bool(pixels.get("do_pad"))
    if any(number != side for number in (*wanted, *middle)) or (crop is None and not both and not padded):
        raise InputError(
            f"{where}: size {size!r:.60} and crop_size {crop!r:.60} do not give the {side} x {side} pixels of the tower"
        )
    if padded:
        return {"strategy": "pad", "color": _color(pixels, where)}
    return {"strategy": "squash" if both else "crop"}


def one_square(pixels: JsonObject, kind: object, tower: VisionConfig, padded: bool, where: str) -> JsonObject:
    """The fields of an `ImageLayout` where LLaVA's own code, or a descendant, gives one picture to a processor.

    Args:
        pixels: the tower's preprocessor_config.json.
        kind: the tower's model_type.
        tower: its configuration.
        padded: whether the code makes a square of the picture first, in the color of the mean.
        where: the file, for messages.

    Raises:
        InputError: a setting that is not supported; named.
    """
    crops = not str(kind).startswith("siglip")
    pixels = {"do_center_crop": crops, **pixels} | ({"do_pad": True} if padded else {})
    resample = pixels.get("resample", 3)
    if type(resample) is not int or resample not in FILTERS:
        raise InputError(f"{where}: resample {resample!r:.40} is not supported")
    if padded and not pixels.get("image_mean"):
        pixels["image_mean"] = list(tower.image_mean)
    return {"filter": FILTERS[resample], **one_tile(pixels, tower.image_size, where)}


def _color(pixels: JsonObject, where: str) -> list[int]:
    """The mean of the normalization, in bytes."""
    mean = pixels.get("image_mean") or CLIP_MEAN
    if not isinstance(mean, list | tuple) or not all(isinstance(value, float) for value in mean):
        raise InputError(f"{where}: image_mean {mean!r:.60} is no color")
    return [int(value * 255) for value in mean]


def _anyres(raw: JsonObject, pixels: JsonObject, side: int, config: str, where: str) -> JsonObject:
    """LLaVA-NeXT's and LLaVA-OneVision's; `config` and `where` name the two files."""
    kind = str(raw["model_type"])
    size = pixels.get("size", {"shortest_edge": 224} if kind == "llava_next" else {"height": 384, "width": 384})
    both = isinstance(size, dict) and {"height", "width"} <= size.keys()
    sides = [_side(size, "height"), _side(size, "width")] if both else [_side(size, "shortest_edge")]
    if kind == "llava_next":
        crop = pixels.get("crop_size", 224)
        sides += [_side(crop, "height"), _side(crop, "width")]
    if any(number != side for number in sides):
        raise InputError(
            f"{where}: tiles of {sides!r:.60} pixels for a tower of {side}; only equal sides are supported"
        )
    grids = raw.get("image_grid_pinpoints") or GRIDS[kind]
    if (pixels.get("image_grid_pinpoints") or GRIDS[kind]) != grids:
        raise InputError(f"{where}: image_grid_pinpoints are not those of {config}")
    layout: JsonObject = {"strategy": "anyres", "grids": _grids(grids, side, config)}
    if kind == "llava_next":
        return layout
    aspect = raw.get("vision_aspect_ratio", "anyres_max_9")
    most = ANYRES_MAX.fullmatch(aspect) if isinstance(aspect, str) else None
    if most is None:
        raise InputError(f"{config}: vision_aspect_ratio {aspect!r:.40} is not supported; anyres_max_N is")
    return {**layout, "anyres_max": int(most[1]), "pad_several": True, "color": _color(pixels, where)}


def _grids(pinpoints: object, side: int, where: str) -> list[tuple[int, int]]:
    """Rows and columns of tiles."""
    found = []
    for pair in pinpoints if isinstance(pinpoints, list) else [pinpoints]:
        match pair:
            case [int(height), int(width)] if height >= side <= width and height % side == width % side == 0:
                found.append((height // side, width // side))
            case _:
                raise InputError(f"{where}: image_grid_pinpoints {pair!r:.40} is not in tiles of {side} pixels")
    return found


def whole(value: object, name: str, most: int, where: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{where}: {name} {value!r:.40} is no whole number from {least} to {most}")
    return value


def _side(size: object, name: str) -> object:
    return size.get(name) if isinstance(size, dict) else size
