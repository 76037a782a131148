"""A benchmark record: the JSON that every harness writes, the Python one and those of the apps alike.

A file holds one record (an object) or several (an array of objects). Field names are snake_case, times are in
milliseconds, sizes in bytes, temperatures in degrees Celsius. What a platform cannot tell is left out or null; a field
that is not in this schema is an error, so that a misspelt one is noticed. `himix report FILE` reads them all.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from himix_edge.errors import InputError
from himix_edge.files import staged_file
from himix_edge.reading import first_problem, read_json

SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 64 << 20


class Part(BaseModel):
    """Base of the record's parts. Numbers are finite: JSON has neither NaN nor infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Device(Part):
    """Where it ran. Everything that the platform does not tell is left out."""

    name: str = Field(min_length=1)  # what people call it: a host name, "Pixel 8", "iPhone 15"
    kind: Literal["computer", "board", "phone", "tablet", "browser", "emulator", "other"] = "other"
    os: str | None = None  # "Linux 6.1", "Android 14", "iOS 18.1"
    cpu: str | None = None  # model name of the processor or SoC
    architecture: str | None = None  # "x86_64", "arm64"
    cores: int | None = Field(default=None, ge=1)  # physical
    threads: int | None = Field(default=None, ge=1)  # logical processors
    memory_bytes: int | None = Field(default=None, ge=0)  # RAM
    read_bandwidth_gb_s: float | None = Field(default=None, gt=0)  # measured memory-read bandwidth, 1e9 bytes a second
    browser: str | None = None  # user agent, of a record made in a browser


class BundleFacts(Part):
    """What ran, from its manifest.json."""

    name: str = Field(min_length=1)
    target: str = Field(min_length=1)  # "onnx", "onnx_portable", "openvino", "executorch", "coreml", or a peer's name
    precision: str = Field(min_length=1)  # "none", "int8", "int4"
    activations: str | None = None  # "float", "float16", "int8"
    architecture: str | None = None  # "himix" or "vanilla"
    manifest_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # of the file manifest.json
    bytes: int | None = Field(default=None, ge=0)  # all files of the bundle, without the manifest
    decoder_bytes: int | None = Field(default=None, ge=0)  # the decoder role's files
    # what one generated token has to read: the decoder's matrices and its head, scales included, at their stored width
    weight_bytes_per_token: int | None = Field(default=None, ge=0)
    kv_bytes_per_token: int | None = Field(default=None, ge=0)  # keys and values of one cache slot, all layers
    context_capacity: int | None = Field(default=None, ge=1)  # cache slots
    accuracy: float | None = Field(default=None, ge=0, le=1)  # of the bundle, if it was measured (`himix eval`)


class Settings(Part):
    """How it was measured."""

    warm_up: int = Field(ge=0)  # iterations that are not counted
    timed: int = Field(ge=1)  # iterations that are
    mode: Literal["cold-image", "warm-image", "text-only"] = "cold-image"  # cold: the image is encoded every time
    threads: int | None = Field(default=None, ge=1)  # that were asked for; null: the runtime's choice
    images: int = Field(default=1, ge=0)  # joined in front of each prompt
    vision_tokens: int | None = Field(default=None, ge=0)  # N: cache slots of all images together
    prompt_tokens: int | None = Field(default=None, ge=1)  # of every prompt, if it was fixed; null: they vary
    new_tokens: int | None = Field(default=None, ge=1)  # most tokens of an answer
    depth: int = Field(default=0, ge=0)  # tokens put into the cache behind the image before the prompt
    questions_per_image: int = Field(default=1, ge=1)  # asked of each image before the next one is encoded
    provider: str | None = None  # what computes: "cpu", "nnapi", "core-ml", "webgpu", "wasm", "interpreter"
    ignore_stop: bool = False  # answers go on past a stop token, to new_tokens


class Samples(Part):
    """Every counted measurement, in milliseconds, in the order it was taken. A stage that did not run has none.

    preprocess, vision_encoder, vision_injector, prefill, ttft and warm_ttft have one entry for each timed iteration;
    load one for each time the bundle was opened; inter_token one for each token behind an answer's first.
    """

    load: list[float] = []  # a fresh process opens the bundle, hashes checked, ready for the first question
    load_warm: list[float] = []  # the same with the files in the page cache, where it cannot be emptied
    preprocess: list[float] = []  # image file -> S x S pixels
    vision_encoder: list[float] = []
    vision_injector: list[float] = []
    prefill: list[float] = []
    ttft: list[float] = []  # image file and prompt in -> first non-empty text out
    warm_ttft: list[float] = []  # the same with the image's keys and values (ImageKV) given
    inter_token: list[float] = []


class Memory(Part):
    """Of the process that ran the model, in bytes."""

    baseline_bytes: int | None = Field(default=None, ge=0)  # resident before the bundle was opened, runtime imported
    peak_bytes: int | None = Field(default=None, ge=0)  # highest resident size up to the end
    kv_cache_bytes: int | None = Field(default=None, ge=0)  # at full capacity, computed from the model's shape


class Reading(Part):
    """One look at the device during the run."""

    at_s: float = Field(ge=0)  # seconds since the run began
    cpu_temperature_c: float | None = None
    cpu_clock_mhz: float | None = Field(default=None, ge=0)
    cpu_clock_max_mhz: float | None = Field(default=None, ge=0)
    battery_percent: float | None = Field(default=None, ge=0, le=100)
    battery_temperature_c: float | None = None
    charging: bool | None = None
    other_load: float | None = Field(default=None, ge=0)  # processors kept busy by other processes, e.g. 0.3 of one
    thermal_state: str | None = None  # the platform's own word: "nominal", "fair", "serious", "critical"


class Answer(Part):
    """One distinct question of the run and whether it was answered the same every time."""

    prompt: str
    images: list[str] = []  # file names
    text: str | None = None
    # of the first run's token ids, stop token left out: in decimal, joined by commas, in ASCII ("5,17")
    token_ids_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    runs: int = Field(ge=1)
    equal_runs: int = Field(ge=0)  # of them, those with the same digest


class Record(Part):
    """One bundle on one device with one set of settings."""

    schema_version: Literal[1]
    started: str  # ISO 8601 in UTC: "2026-01-31T12:00:00Z"
    command: str  # exactly what was run: the command line, or the intent or page with its parameters
    harness: str  # who measured: "himix-edge 0.1.0", "himix Android demo 0.1.0"
    device: Device
    bundle: BundleFacts
    settings: Settings
    samples: Samples
    memory: Memory = Memory()
    readings: list[Reading] = []
    energy_j: float | None = Field(default=None, ge=0)  # of the timed iterations, whole processor package
    harness_overhead: float | None = Field(default=None, ge=0)  # share of the timed iterations spent on measuring
    self_test_passed: bool | None = None  # the bundle's self-test, on this device, before the run
    answers: list[Answer] = []
    verdict: Literal["valid", "semi-valid", "invalid"]
    reasons: list[str] = []  # why it is not valid, one sentence each
    versions: dict[str, str] = {}  # of the runtime and its libraries, by package name


def read_records(path: str | Path) -> list[Record]:
    """The records of a file. Raises InputError naming the file and the field that is wrong."""
    path = Path(path)
    raw = read_json(path, MAX_RECORD_BYTES)
    items = raw if isinstance(raw, list) else [raw]
    for item in items:
        version = item.get("schema_version") if isinstance(item, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: not a benchmark record of schema version {SCHEMA_VERSION} (schema_version is {version!r})"
            )
    if not items:
        raise InputError(f"{path}: no benchmark records in it")
    try:
        return TypeAdapter(list[Record]).validate_python(items)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write an array of records, atomically. Raises InputError if the place cannot be written."""
    content = json.dumps([record.model_dump(mode="json", exclude_none=True) for record in records], indent=1)
    with staged_file(Path(path)) as staged:
        staged.write_text(content + "\n", encoding="utf-8")
