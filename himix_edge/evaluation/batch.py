"""Many questions from a file, answered in any order by several processes, and gone on with after a kill.

Each answer is a line of a file that only grows; questions about one picture go to one process, which reads it once.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from himix_edge.data.image_files import image_inside, is_file
from himix_edge.errors import HimixError, InputError, one_line
from himix_edge.evaluation.cluster import SentImage, results
from himix_edge.image_files import MAX_FILE_BYTES
from himix_edge.manifest import MANIFEST, MAX_MANIFEST_BYTES
from himix_edge.reading import JsonObject, open_regular, parse_json, read_bytes, read_text, validated
from himix_edge.runtimes import ImageKV, Session, Stats, Structure, open_bundle, open_checkpoint
from himix_edge.runtimes.packed import FLOAT_BITS
from himix_edge.staging import Staging

MAX_BYTES = 1 << 30  # of a file of questions
DONE, RUN = "answers.jsonl", "run.json"
Word = Annotated[str, Field(max_length=1024)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    id: Word | int | None = None
    image: Word | list[Word] | None = None
    system: str | None = None


@dataclass(frozen=True)
class BatchQuestion:
    """A line of the file; `id` is its number, from 1, where it has none."""

    id: str | int
    prompt: str
    images: tuple[Path | SentImage, ...] = ()
    system: str | None = None


@dataclass(frozen=True)
class BatchSettings:
    """What is the same for all questions, see `Session.generate`."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    structure: Structure | None = None
    image_bits: int = FLOAT_BITS  # see `ImageKV.in_bits`


@dataclass(frozen=True)
class Opening:
    """What each worker opens: a bundle, or a checkpoint in PyTorch."""

    bundle: Path | None
    model: str = ""
    threads: int | None = None
    device: str | None = None
    adapter: Path | None = None

    def __call__(self) -> Session:
        """Open it; errors as `open_bundle` and `open_checkpoint`."""
        if self.bundle is None:
            return open_checkpoint(self.model)
        return open_bundle(self.bundle, self.threads, self.device, self.adapter)

    @property
    def identity(self) -> str:
        """Names the model's files. Raises InputError for a folder that is no bundle."""
        if self.bundle is None:
            files = sorted(path for path in Path(self.model).glob("*") if path.is_file())
            return json.dumps([self.model, *map(_state, files)])
        digest = hashlib.sha256(read_bytes(self.bundle / MANIFEST, MAX_MANIFEST_BYTES))
        if self.adapter is not None:
            with open_regular(self.adapter) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def read_questions(path: Path, image_folder: Path | None = None) -> list[BatchQuestion]:
    """Read JSON lines: `prompt`, and if wanted `id`, `image` (a name, or a list of them) and `system`.

    Args:
        path: the file.
        image_folder: where images' names start, and which they do not leave; by default the file's folder.

    Raises:
        InputError: naming the line: not JSON, another field, an id that stands twice, a picture that is not there.
    """
    folder = image_folder or path.absolute().parent
    found: dict[str, BatchQuestion] = {}
    for number, line in enumerate(read_text(path, MAX_BYTES).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        given = validated(_Line, parse_json(line, where), where)
        names = [given.image] if isinstance(given.image, str) else given.image or []
        images = tuple(image_inside(folder, name, where) for name in names)
        for image in images:
            if not is_file(image):
                raise InputError(f"{where}: {image}: no such image; --image-folder names another folder")
        question = BatchQuestion(number if given.id is None else given.id, given.prompt, images, given.system)
        if _key(question.id) in found:
            raise InputError(f"{where}: id {question.id!r} stands there twice")
        found[_key(question.id)] = question
    if not found:
        raise InputError(f"{path}: holds no questions")
    return list(found.values())


def answer_batch(
    questions: Sequence[BatchQuestion],
    settings: BatchSettings,
    opening: Opening,
    place: Staging,
    out: Path,
    workers: int,
    track: Callable[[Iterator[None], int], Iterable[None]],
    scheduler: str | None = None,
) -> list[JsonObject]:
    """Answer what a run before this one has not, and write all answers in the order of the questions.

    Args:
        questions: all of them.
        settings: for each.
        opening: opens the model in each worker.
        place: the held staging folder of `out`, resumable.
        out: what the answers' file is called in messages.
        workers: processes; 1: this one.
        track: is given an iterator with an item for each answer, and their number.
        scheduler: of dask, whose workers answer in place of `workers`; see `cluster.results` for its errors.

    Returns:
        each question's line: `id`, `answer`, `finish_reason`, `probability`, `new_tokens`, or `id` and `error`.

    Raises:
        InputError: the model cannot be opened, or a worker died.
    """
    place.new.mkdir(exist_ok=True)
    lines = _earlier(place.new, _digest(questions, settings, opening.identity))
    left = [question for question in questions if _key(question.id) not in lines]
    with (place.new / DONE).open("ab") as file:

        def keep(line: JsonObject) -> None:
            lines[_key(line["id"])] = line
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()

        def answered() -> Iterator[None]:
            for line in _made(left, settings, opening, workers, scheduler):
                keep(line)
                yield

        for _ in track(answered(), len(left)):
            pass
    ordered = [lines[_key(question.id)] for question in questions]
    made = place.new / out.name
    content = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in ordered)
    made.write_text(content, encoding="utf-8")
    place.publish(made, lambda: None)
    for name in (DONE, RUN):
        (place.new / name).unlink()
    return ordered


def _made(
    questions: Sequence[BatchQuestion], settings: BatchSettings, opening: Opening, workers: int, scheduler: str | None
) -> Iterator[JsonObject]:
    """The lines of questions, as they are made."""
    groups: dict[tuple[tuple[Path | SentImage, ...], str | None], list[BatchQuestion]] = {}
    for question in questions:
        groups.setdefault((question.images, question.system), []).append(question)
    if not groups:
        return
    if scheduler is not None:
        work = partial(_answer_there, opening, opening.identity, settings)
        for lines in results(scheduler, work, map(_sent, groups.values())):
            yield from lines
        return
    if workers == 1:
        with opening() as session:
            for group in groups.values():
                yield from answer_group(session, group, settings)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(groups)), context, _open_here, (opening,))
    try:
        jobs: list[Future[list[JsonObject]]] = [pool.submit(_answer_here, g, settings) for g in groups.values()]
        for job in as_completed(jobs):
            yield from job.result()
    except BrokenProcessPool:
        raise InputError("a worker ended, perhaps for want of memory; the same command goes on, try fewer") from None
    finally:
        pool.shutdown(cancel_futures=True)


def answer_group(session: Session, group: Sequence[BatchQuestion], settings: BatchSettings) -> Iterator[JsonObject]:
    """The lines of questions about the same pictures behind the same system message."""
    seen: ImageKV | None = None
    for question in group:
        try:
            if seen is None and question.images:
                seen = session.vision(question.images, Stats(), question.system).in_bits(settings.image_bits)
            chat = session.chat(seen, question.system)
            answer = chat.send(
                question.prompt, settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed,
                settings.stop, structure=settings.structure,
            )  # fmt: skip
            text = "".join(piece.text for piece in answer).strip()
            stats = answer.stats
            yield {
                "id": question.id, "answer": text, "finish_reason": stats.finish_reason,
                "probability": stats.probability, "new_tokens": stats.new_tokens,
            }  # fmt: skip
        except InputError as error:
            yield {"id": question.id, "error": one_line(str(error))}


_opened: Session | HimixError | None = None  # of a worker process


def _open_here(opening: Opening) -> None:
    global _opened  # noqa: PLW0603 a pool's initializer has no other place
    try:
        _opened = opening()
    except HimixError as error:
        _opened = error


def _answer_here(group: Sequence[BatchQuestion], settings: BatchSettings) -> list[JsonObject]:
    if isinstance(_opened, HimixError):
        raise _opened
    assert _opened is not None
    return list(answer_group(_opened, group, settings))


def _sent(group: Sequence[BatchQuestion]) -> list[BatchQuestion]:
    """Questions with their pictures' content in place of their names, for a machine that may not have them."""
    paths = [image for image in group[0].images if isinstance(image, Path)]
    images = tuple(SentImage(read_bytes(path, MAX_FILE_BYTES), str(path)) for path in paths)
    return [dataclasses.replace(question, images=images) for question in group]


_elsewhere = threading.Lock()  # a session answers one question at a time, whatever threads a worker has
_kept: dict[tuple[Opening, str], Session] = {}  # of a worker of a cluster: the last that it was asked with


def _answer_there(
    opening: Opening, identity: str, settings: BatchSettings, group: Sequence[BatchQuestion]
) -> list[JsonObject]:
    """A group's lines, on a machine that has the bundle called `identity`."""
    with _elsewhere:
        if (opening, identity) not in _kept:
            if opening.identity != identity:
                raise InputError(f"{opening.bundle}: is another bundle on a worker's machine than on this one")
            for session in _kept.values():
                session.close()
            _kept.clear()
            _kept[opening, identity] = opening()
        return list(answer_group(_kept[opening, identity], group, settings))


def _earlier(folder: Path, digest: str) -> dict[str, JsonObject]:
    """The answers of an earlier run of the very same, by id; those that failed are asked again."""
    done, run = folder / DONE, folder / RUN
    found: dict[str, JsonObject] = {}
    if run.is_file() and run.read_text() == digest and done.is_file():
        content = done.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut off
        for line in whole.decode().splitlines():
            each = json.loads(line)
            if "error" not in each:
                found[_key(each["id"])] = each
    done.write_bytes(b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in found.values()))
    run.write_text(digest)
    return found


def _digest(questions: Sequence[BatchQuestion], settings: BatchSettings, model: str) -> str:
    """Names a run: other questions, settings or models begin anew."""
    told = [
        [repr(q.id), q.prompt, [_state(path) for path in q.images if isinstance(path, Path)], q.system]
        for q in questions
    ]
    return hashlib.sha256(json.dumps([told, dataclasses.asdict(settings), model]).encode()).hexdigest()


def _state(path: Path) -> list[str | int]:
    info = path.stat()
    return [str(path), info.st_size, info.st_mtime_ns]


def _key(name: object) -> str:
    """An id as JSON has it: 1 and "1" are two."""
    return json.dumps(name)
