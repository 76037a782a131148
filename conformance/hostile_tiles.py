"""Manifests of a model whose pictures are tiles in its text: a good one, and with one thing wrong each."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from conformance.picture_texts import layout, processor, tiles_model
from himix_edge.config import ModelConfig

Case = tuple[str, bytes, dict[str, Any]]
_MISSING = object()
LAYOUT = {
    "slot_id": [-1, "0", 1.5, None, True, 2**31, 2**63], "strategy": ["stripes", "", 5, None, ["rows"]],
    "filter": ["nearest", "", 3, None], "longest": [0, -1, "256", 2.5, 2**31, None], "split": ["yes", 1, None],
    "least_tiles": [0, -1, 13, 65, "1"], "most_tiles": [0, 65, 1.5, 2**63], "thumbnail": ["no", 0],
    "color": [[0, 0], [0, 0, 256], [0, 0, -1], "black", [0, 0, 0, 0], None], "surprise": [1],
    "enlarge": ["yes"], "whole_first": [1], "grids": [[[2, 2]], [[0, 1]], [[65, 1]], "x", [[1]]],
    "anyres_max": [-1, 65], "pad_several": ["no"],
}  # fmt: skip
TEXT = {
    "slot": ["", 5, None, _MISSING, "x" * 201], "before": [5, None, _MISSING, "x" * 401], "between": [5, _MISSING],
    "after": [["a"], _MISSING], "alone": [5, "x" * 401], "start": [5], "tile": [None, 5], "row_end": [{}],
    "whole": [5], "whole_first": ["yes"], "numbered": [5], "surprise": ["x"],
}  # fmt: skip


def manifests(nano: dict[str, Any]) -> Iterator[Case]:
    """(name, manifest.json, {expect, words}), made from a bundle of the shipped nano."""
    good = tiles_manifest(nano)
    yield "good", _dumped(good), {"expect": "same", "words": []}
    for field, values in LAYOUT.items():
        for value in values:  # both places say the same
            yield _changed(good, field, [f"preprocessing.layout.{field}", f"model.images.{field}"], value)
    rows = good["model"]["vocab_size"]
    yield _changed(good, "slot_id", ["preprocessing.layout.slot_id", "model.images.slot_id"], rows)
    for field, values in TEXT.items():
        for value in values:
            yield _changed(good, field, [f"chat_template.image.{field}"], value)
    for value in (_MISSING, None, [], "rows", 5):
        yield _changed(good, "layout", ["preprocessing.layout"], value)
        yield _changed(good, "image", ["chat_template.image"], value)
        yield _changed(good, "image", ["model.images"], value)
    for field, value in (("strategy", "pad"), ("longest", 128), ("split", False), ("color", [1, 2, 3])):
        yield _changed(good, "layout", [f"preprocessing.layout.{field}"], value)
    for value in ("pillow-bilinear-squash", "pillow-bicubic-squash", "pillow-tiles-2", None):
        yield _changed(good, "method", ["preprocessing.method"], value)
    yield _changed(good, "image_size", ["preprocessing.image_size"], 2 * good["preprocessing"]["image_size"])
    for tokens in (1, 4 * good["vision_tokens"], 5 * good["vision_tokens"]):
        yield _changed(good, "vision_tokens", ["vision_tokens"], tokens)
    yield _changed(good, "images", ["model.architecture"], "himix")
    for value in (0, 3, 17, "2", None):
        yield _changed(good, "shuffle", ["model.connector.shuffle"], value)
    yield _changed(good, "newline", ["model.connector.newline"], True)
    ragged = copy.deepcopy(good)
    for images in (ragged["model"]["images"], ragged["preprocessing"]["layout"]):
        images.update(strategy="whole_tiles", longest=100)
    yield "tiles that are not whole", _dumped(ragged), {"expect": "refused", "words": ["longest"]}
    twice = copy.deepcopy(good)
    twice["chat_template"]["image"]["whole_first"] = True
    yield "the whole picture in two places", _dumped(twice), {"expect": "refused", "words": ["whole_first"]}
    gridless = copy.deepcopy(good)
    for images in (gridless["model"]["images"], gridless["preprocessing"]["layout"]):
        images.update(strategy="anyres")
    yield "anyres without grids", _dumped(gridless), {"expect": "refused", "words": ["grids"]}
    for part in ("chat_template", "preprocessing"):
        only = copy.deepcopy(nano)
        only[part] = good[part]
        yield f"a HiMix model with the {part} of another", _dumped(only), {"expect": "refused", "words": [part]}


def tiles_manifest(nano: dict[str, Any]) -> dict[str, Any]:
    """A good manifest, whose files are those of the bundle that it is made from: it is read, and nothing is run."""
    text = processor("rows")
    images = layout("rows", text)
    model = tiles_model(nano["model"], images)
    return {
        **nano, "model": model, "chat_template": text.template.stored(),
        "vision_tokens": ModelConfig.from_dict(model).tile_tokens,
        "preprocessing": {
            "image_size": nano["preprocessing"]["image_size"], "method": "pillow-tiles",
            "layout": dataclasses.asdict(images),
        },
    }  # fmt: skip


def _changed(good: dict[str, Any], word: str, fields: list[str], value: Any) -> Case:
    changed = copy.deepcopy(good)
    for field in fields:
        *parents, last = field.split(".")
        at = changed
        for step in parents:
            at = at[step]
        if value is _MISSING:
            del at[last]
        else:
            at[last] = value
    shown = "missing" if value is _MISSING else repr(value)[:40]
    return f"{' and '.join(fields)}: {shown}", _dumped(changed), {"expect": "refused", "words": [word]}


def _dumped(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest).encode()
