"""A converted vision-language model beside transformers' own: pixels, token ids, logits and greedy tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from himix_edge.checkpoints.source import Source
from himix_edge.config import ModelConfig
from himix_edge.config.images import SLOT
from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.evaluation.theirs import TheirAnswer
from himix_edge.export.preflight import BASE_MEMORY, float_bytes
from himix_edge.export.tolerance import FLOAT32, Tolerance
from himix_edge.preprocess import open_upright
from himix_edge.presets import SHIPPED
from himix_edge.runtimes.pictures import picture_ids
from himix_edge.runtimes.session import Session
from himix_edge.text import Message
from himix_edge.tiles import Tiles, load_tiles

TOKENS = 32
PIXELS = 1e-5  # normalized; a level of 8 bits is several hundred times as much
NOT_THERE = 1e30  # in place of a difference between things of different shapes


@dataclass(frozen=True)
class Row:
    """One comparison. `limit` is what `value` may be at most; None: it is told, and judged by nothing."""

    what: str
    metric: str
    value: float
    limit: float | None

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; a NaN is not."""
        return self.limit is None or bool(self.value <= self.limit)


@dataclass(frozen=True)
class Case:
    """Pictures and a question about them."""

    name: str
    pictures: tuple[Image.Image, ...]
    question: str


def shipped_cases() -> list[Case]:
    """No picture, one, and two of which one is wide and one tall: parts of the probe's."""
    samples = load_llava(SHIPPED / "probe" / "probe.json").samples[:3]
    pictures = [open_upright(sample.image)[0] for sample in samples if sample.image is not None]
    question = samples[0].conversations[0][0].question
    square, wide, tall = pictures
    width, height = wide.size
    wide = wide.crop((0, height // 3, width, height // 3 + height * 2 // 5))
    tall = tall.crop((width // 4, 0, width // 4 + width // 3, height))
    return [
        Case("no picture", (), "Say hello."), Case("a picture", (square,), question),
        Case("two pictures, wide and tall", (wide, tall), question),
    ]  # fmt: skip


def refuse_without_memory(config: ModelConfig, where: str) -> None:
    """Raises InputError if a model's float32 weights and what is computed on them do not fit in free memory."""
    need, free = BASE_MEMORY + float_bytes(config) * 5 // 4, psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{where}: comparing it in float32 needs about {need >> 20} MiB of memory and {free >> 20} MiB are free; "
            "close other programs or use a larger machine"
        )


def compare(session: Session, cases: Sequence[tuple[Case, TheirAnswer]], show: Callable[[str], None]) -> Iterator[Row]:
    """What a session on the converted checkpoint makes of the cases, beside transformers' answers to them.

    Args:
        session: see `himix_edge.runtimes.opening.session_of`.
        cases: each with what transformers answered.
        show: called with the name of each case when it begins.
    """
    for case, theirs in cases:
        show(f"comparing: {case.name}")
        tiles = _tiles(session.config, case.pictures)
        if theirs.pixels is not None:
            yield Row(f"{case.name}: pixels of {len(theirs.pixels)} tiles", "max diff",
                      _difference(_normalized(session.config, tiles), theirs.pixels), PIXELS)  # fmt: skip
        ids = _ids(session, case, tiles)
        yield Row(f"{case.name}: {len(theirs.ids)} token ids", "differing", float(_differing(ids, theirs.ids)), 0.0)
        logits = answer_along(session, case, theirs.tokens)
        spread = float(theirs.logits.std(dtype=np.float64))
        yield Row(f"{case.name}: logits at {len(theirs.tokens)} positions", FLOAT32.metric,
                  _difference(logits, theirs.logits) / spread, FLOAT32.limit)  # fmt: skip
        yield tokens_row(f"{case.name}: greedy tokens", logits, theirs, FLOAT32)


def tokens_row(what: str, logits: NDArray[np.float32], theirs: TheirAnswer, allowed: Tolerance) -> Row:
    """How many greedy tokens differ where transformers' best two logits are further apart than `allowed.margin`."""
    best = np.partition(theirs.logits, -2, axis=1)[:, -2:]
    sure = best[:, 1] - best[:, 0] > allowed.margin * theirs.logits.std(dtype=np.float64)
    differing = int((sure & (logits.argmax(1) != np.array(theirs.tokens))).sum())
    return Row(f"{what}, {int(sure.sum())} of {len(sure)} decisive", "differing", float(differing), 0.0)


def equal_share(what: str, logits: NDArray[np.float32], theirs: TheirAnswer) -> Row:
    """The share of greedy tokens that are transformers', as information: quantized weights are others."""
    return Row(f"{what}, of {len(theirs.tokens)}", "share", float((logits.argmax(1) == theirs.tokens).mean()), None)


def answer_along(session: Session, case: Case, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits (t, V) of an answer that says `tokens` (t of them), its pictures kept as an ImageKV.

    Raises:
        InputError: it does not fit into the cache.
    """
    if case.pictures:
        vision, ids = session.encode_images(case.pictures), session.text.encode_behind_pictures(case.question)
    else:
        vision, ids = session.no_image(), session.text.encode_chat([Message("user", case.question)])
    needed = vision.tokens + len(ids) + len(tokens)
    if needed > session.capacity:
        raise InputError(f"{case.name}: needs {needed} cache slots, the capacity is {session.capacity}")
    session.engine.start(vision.key, vision.value, vision.next_position)
    said = [session.engine.step(np.array(ids, np.int64))]
    said += [session.engine.step(np.array([token], np.int64)) for token in tokens[:-1]]
    return np.stack(said)


def _tiles(config: ModelConfig, pictures: Sequence[Image.Image]) -> list[Tiles]:
    assert config.images is not None
    assert config.vision is not None
    alone = len(pictures) == 1
    return [load_tiles(picture, config.vision.image_size, config.images, alone) for picture in pictures]


def _normalized(config: ModelConfig, pictures: Sequence[Tiles]) -> NDArray[np.float32]:
    """As the tower's first layer has them: (n, 3, S, S)."""
    assert config.vision is not None
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    pixels = np.concatenate([tiles.pixels for tiles in pictures])
    return ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


def _ids(session: Session, case: Case, tiles: Sequence[Tiles]) -> list[int]:
    """The whole prompt, the model's own token in place of pictures' features."""
    text, images = session.text, session.config.images
    assert images is not None
    if not tiles:
        return text.encode_chat([Message("user", case.question)])
    ahead = picture_ids(text, session.config, tiles, None, session.capacity)
    return [*np.where(ahead == SLOT, images.slot_id, ahead).tolist(), *text.encode_behind_pictures(case.question)]


def _difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    if ours.shape != theirs.shape:
        return NOT_THERE
    found = float(np.abs(ours - theirs).max())
    return found if np.isfinite(found) else NOT_THERE


def _differing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))


def source_row(source: Source) -> Row:
    """That a folder's tensors were all accounted for, or it would not have been opened."""
    return Row(f"{len(source.weights)} tensors of the folder", "missing or left over", 0.0, 0.0)


def folder_of(model: str) -> Path:
    """The local folder of a path or a hub id. Raises InputError if there is neither; see `hub.download`."""
    from himix_edge.checkpoints.hub import download, is_hub_id

    folder = download(model) if is_hub_id(model) else Path(model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{model}: neither a Hugging Face folder with config.json nor a hub id OWNER/NAME")
    return folder
