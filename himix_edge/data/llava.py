"""LLaVA-format JSON: a list of {"image": path, "conversations": [{"from": "human"|"gpt", "value": text}, ...]}.

`<image>` marks where the image stood in the human's text; HiMix does not put it there, so the mark is removed. Other
fields, `id` among them, are not read. Images lie in one folder: a path or a link that leads out of it is refused.
"""

from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from himix_edge.data.dataset import Dataset, Sample, Turn
from himix_edge.data.image_files import image_inside
from himix_edge.errors import InputError
from himix_edge.reading import first_problem, read_json

MAX_BYTES = 2 << 30  # LLaVA-1.5's mix of 665k conversations has 1 GB


def load_llava(path: Path, image_folder: Path | None = None) -> Dataset:
    """Read a LLaVA-format file; records without an image become text-only samples.

    Args:
        path: the JSON file.
        image_folder: where the records' relative image paths start; by default the file's folder.

    Raises:
        InputError: unreadable file, a record that breaks the format or whose image path leaves the folder.
            Images are opened only when used, so a missing image is reported then.
    """
    folder = image_folder or path.parent
    records = read_json(path, MAX_BYTES)
    try:
        parsed = _RECORDS.validate_python(records, strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: record {first_problem(error)}") from None
    samples = tuple(_sample(record, folder, f"{path}: record {i}") for i, record in enumerate(parsed))
    if not samples:
        raise InputError(f"{path}: holds no records")
    return Dataset(path.stem, samples, str(path), "the user's own")


class _Message(BaseModel):
    speaker: str = Field(alias="from")
    value: str


class _Record(BaseModel):
    image: str | None = None
    conversations: list[_Message]


_RECORDS = TypeAdapter(list[_Record])


def _sample(record: _Record, folder: Path, where: str) -> Sample:
    messages = record.conversations
    if [message.speaker for message in messages] != ["human", "gpt"] * (len(messages) // 2) or not messages:
        raise InputError(f"{where}: conversations must alternate human and gpt, human first, gpt last")
    turns = tuple(
        Turn(human.value.replace("<image>", "").strip(), gpt.value.strip())
        for human, gpt in zip(messages[::2], messages[1::2], strict=True)
    )
    image = None if record.image is None else image_inside(folder, record.image, where)
    return Sample(image, (turns,), where)
