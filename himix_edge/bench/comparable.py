"""Several devices side by side: which records may stand in one table, and why others may not.

Records are compared within a model: the bundle's name without its target and precision. Of each model the settings and
questions that most devices have are those that count. Threads, warm-ups and the number of timed iterations may differ.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from himix_edge.bench.record import Device, Record
from himix_edge.errors import one_line

SAME = ("mode", "images", "vision_tokens", "prompt_tokens", "new_tokens", "ignore_stop", "depth", "questions_per_image")

T = TypeVar("T")
Asked = frozenset[tuple[str, tuple[str, ...]]]  # prompts, each with its images' file names


@dataclass(frozen=True)
class Comparison:
    """One model on several devices.

    Attributes:
        model: its name.
        devices: rows, as they are called.
        targets: columns: target, precision, and what else tells two records of one device apart.
        cells: (device, target) -> the record there.
    """

    model: str
    devices: tuple[str, ...]
    targets: tuple[str, ...]
    cells: dict[tuple[str, str], Record]


@dataclass(frozen=True)
class Refused:
    """A record that no table of several devices shows, and why not."""

    record: Record
    device: str
    reason: str


def across_devices(records: Sequence[Record]) -> tuple[list[Comparison], list[Refused]]:
    """The comparisons between devices, and every record that is in none; two empty lists of a single device."""
    names = device_names(records)
    if len(set(names.values())) < 2:
        return [], []
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(model_of(record), []).append(record)
    found, refused = [], []
    for model, its in models.items():
        if len({names[key_of(record.device)] for record in its}) < 2:
            refused += [Refused(r, names[key_of(r.device)], f"no other device ran {model}") for r in its]
            continue
        comparison, out = _compared(model, its, names)
        found += [comparison] if comparison.cells else []
        refused += out
    return found, refused


def model_of(record: Record) -> str:
    """The bundle's name without its target and precision: `nano` of `nano-onnx-int8`."""
    name, ending = one_line(record.bundle.name), f"-{record.bundle.target}-{record.bundle.precision}"
    return name.removesuffix(one_line(ending)) or name


def target_of(record: Record) -> str:
    """A column's name: `onnx int8`, with provider and threads where they were chosen."""
    words = [record.bundle.target, record.bundle.precision]
    if record.settings.provider not in (None, "cpu"):
        words.append(record.settings.provider or "")
    threads = record.settings.threads
    return one_line(" ".join(words)) + ("" if threads is None else f", {threads} threads")


def device_names(records: Sequence[Record]) -> dict[tuple[str | None, ...], str]:
    """Each device's row; two that are called the same are told apart by a number."""
    found: dict[tuple[str | None, ...], str] = {}
    for record in records:
        key = key_of(record.device)
        if key not in found:
            name = one_line(record.device.name)
            same = sum(one_line(other[0] or "") == name for other in found)
            found[key] = f"{name} ({same + 1})" if same else name
    return found


def key_of(device: Device) -> tuple[str | None, ...]:
    """What makes two records be of one device; measured facts (bandwidth) may differ between them."""
    return device.name, device.os, device.cpu, device.architecture, device.browser


def named_by_device(records: Sequence[Record]) -> list[Record]:
    """Copies to be shown: where there are several devices, a bundle's name says its own too."""
    names = device_names(records)
    if len(names) < 2:
        return list(records)
    bundles = [r.bundle.model_copy(update={"name": f"{r.bundle.name} · {names[key_of(r.device)]}"}) for r in records]
    return [r.model_copy(update={"bundle": bundle}) for r, bundle in zip(records, bundles, strict=True)]


def asked(record: Record) -> Asked:
    """The questions of a record."""
    return frozenset((answer.prompt, tuple(answer.images)) for answer in record.answers)


def _compared(
    model: str, records: Sequence[Record], names: dict[tuple[str | None, ...], str]
) -> tuple[Comparison, list[Refused]]:
    usable = [record for record in records if _unusable(record) is None]
    settings = _most_common([(r, _settings(r)) for r in usable])
    questions = _most_common([(r, asked(r)) for r in usable if _settings(r) == settings])
    cells: dict[tuple[str, str], Record] = {}
    refused = []
    for record in records:
        device = names[key_of(record.device)]
        reason = _unusable(record) or _differs(record, settings, questions)
        place = device, target_of(record)
        if reason is None and place in cells:
            older, newer = sorted((cells[place], record), key=lambda r: r.started)
            cells[place] = newer
            refused.append(Refused(older, device, f"measured again {one_line(newer.started)}, which is shown"))
        elif reason is None:
            cells[place] = record
        else:
            refused.append(Refused(record, device, reason))
    devices, targets = (tuple(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    return Comparison(model, devices, targets, cells), refused


def _unusable(record: Record) -> str | None:
    if record.verdict == "invalid":
        return "invalid: its answers are wrong"
    if not record.answers:
        return "it does not say what was asked"
    return None


def _settings(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record.settings, name) for name in SAME)


def _most_common(found: Sequence[tuple[Record, T]]) -> T | None:
    """What most devices have; then most records; then the first."""
    devices: dict[T, set[tuple[str | None, ...]]] = {}
    for record, value in found:
        devices.setdefault(value, set()).add(key_of(record.device))
    counts = Counter(value for _, value in found)
    return max(devices, key=lambda value: (len(devices[value]), counts[value]), default=None)


def _differs(record: Record, settings: tuple[object, ...] | None, questions: Asked | None) -> str | None:
    for name, own, other in zip(SAME, _settings(record), settings or (), strict=False):
        if own != other:
            return f"{name} is {_word(own)}, elsewhere {_word(other)}"
    strange = sorted(asked(record) - (questions or frozenset()))
    if strange:
        prompt, images = strange[0]
        about = f" about {one_line(', '.join(images))}" if images else ""
        return f"other questions, e.g. {one_line(prompt)!r}{about}"
    if questions is not None and asked(record) != questions:
        return f"only {len(asked(record))} of the {len(questions)} questions"
    return None


def _word(value: object) -> str:
    return "not fixed" if value is None else str(value)
