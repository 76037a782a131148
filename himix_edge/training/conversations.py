"""Conversations about pictures that have none: a teacher writes them, for its student to learn from."""

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from himix_edge.checkpoints.source import open_source
from himix_edge.data import load_images
from himix_edge.errors import InputError
from himix_edge.files import staged_file
from himix_edge.runtimes.opening import session_of
from himix_edge.runtimes.session import Session
from himix_edge.training.folder import CONVERSATIONS
from himix_edge.training.recipe import MANY, DataPart
from himix_edge.training.run import Run

ANSWER_TOKENS = 64  # of an answer, at most


def write_conversations(run: Run) -> None:
    """The teacher's greedy answers about the pictures of the folder that the run learns from, if it is one.

    They are written once, as LLaVA-format JSON into the run's folder, a record for each prompt about a picture.

    Raises:
        InputError: several folders, or no teacher or prompts for one; a folder without pictures, or with one that
            cannot be read.
    """
    folder = _folder(run)
    path = run.folder / CONVERSATIONS
    if folder is None or path.is_file():
        return
    recipe, found = run.recipe, load_images(folder.name, folder.samples or MANY)
    pictures = [picture for picture in found if isinstance(picture, Path)]
    with session_of(open_source(recipe.teacher)) as session:
        records = [
            {"image": picture.relative_to(folder.name).as_posix(),
             "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": said}]}
            for picture, prompt, said in _answers(session, pictures, recipe.prompts, recipe.conversations_per_image)
        ]  # fmt: skip
    with staged_file(path) as staged:
        staged.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _folder(run: Run) -> DataPart | None:
    """What of the run's data is a folder of pictures."""
    recipe = run.recipe
    parts = dict.fromkeys(part for stage in recipe.stages for part in stage.data or recipe.data)
    folders = [part for part in parts if Path(part.name).is_dir()]
    if not folders:
        return None
    where = folders[0].name
    if len(folders) > 1:
        raise InputError(f"{where} and {folders[1].name}: give one folder of pictures")
    if not recipe.teacher:
        raise InputError(f"{where}: pictures alone; himix distill asks a teacher about them, or give a .json file")
    if not recipe.prompts:
        raise InputError(f"{where}: nothing to ask about the pictures; add prompts to the recipe, or --prompts FILE")
    return folders[0]


def _answers(
    session: Session, pictures: list[Path], prompts: tuple[str, ...], each: int
) -> Iterator[tuple[Path, str, str]]:
    """Picture, prompt and answer; `each` prompts a picture, in turn."""
    each = min(each, len(prompts))
    bar = track(pictures, "the teacher answers", console=Console(stderr=True))
    for number, picture in enumerate(bar):
        image = session.encode_image(picture)
        for place in range(number * each, (number + 1) * each):
            prompt = prompts[place % len(prompts)]
            yield picture, prompt, session.answer(prompt, image, ANSWER_TOKENS)
