"""A benchmark record: the JSON that every harness writes, the Python one and those of the apps alike.

A file holds one record (an object) or several (an array of objects). Field names are snake_case, times are in
milliseconds, sizes in bytes, temperatures in degrees Celsius. What a platform cannot tell is left out or null; a field
that is not in this schema is an error, so that a misspelt one is noticed. `himix report FILE` reads them all.

Version 2 adds what a device does over time: `sustained`, `energy`, `unplugged`, clocks by core, memory's share (PSS).
Records of version 1 are read as they are.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from himix_edge.errors import InputError, one_line
from himix_edge.files import staged_file
from himix_edge.reading import read_json, validated

SCHEMA_VERSION = 2
VERSIONS = (1, 2)
MAX_RECORD_BYTES = 16 << 20
MAX_RECORDS = 1000  # of a file; a report draws a bar for each

Text = Annotated[str, Field(max_length=1000)]  # a name or a version
Words = Annotated[str, Field(max_length=100_000)]  # a command line, a question, an answer
Bytes = Annotated[int, Field(ge=0, le=1 << 53)]  # what every language's numbers hold exactly
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Size = Annotated[int, Field(ge=0, le=1 << 31)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Celsius = Annotated[float, Field(ge=-274, le=10_000)]
Milliseconds = list[Annotated[float, Field(ge=0, le=1e9)]]  # eleven days


class Part(BaseModel):
    """Base of the record's parts. Numbers are finite: JSON has neither NaN nor infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Core(Part):
    """A logical processor. Cores of one kind have one capacity, or one highest clock where that is not told."""

    number: Size
    min_mhz: Amount | None = None
    max_mhz: Amount | None = None
    capacity: Count | None = None  # the kernel's: 1024 is the largest core's at its highest clock
    governor: Text | None = None  # "schedutil", "performance": who chooses the clock


class Device(Part):
    """Where it ran. Everything that the platform does not tell is left out."""

    name: Text = Field(min_length=1)  # what people call it: a host name, "Pixel 8", "iPhone 15"
    kind: Literal["computer", "board", "phone", "tablet", "browser", "emulator", "other"] = "other"
    os: Text | None = None  # "Linux 6.1", "Android 14", "iOS 18.1"
    cpu: Text | None = None  # model name of the processor or SoC
    architecture: Text | None = None  # "x86_64", "arm64"
    cores: Count | None = None  # physical
    threads: Count | None = None  # logical processors
    memory_bytes: Bytes | None = None  # RAM
    read_bandwidth_gb_s: Amount | None = None  # measured memory-read bandwidth, 1e9 bytes a second
    browser: Text | None = None  # user agent, of a record made in a browser
    cpus: tuple[Core, ...] = ()  # version 2


class BundleFacts(Part):
    """What ran, from its manifest.json."""

    name: Text = Field(min_length=1)
    target: Text = Field(min_length=1)  # a target of the registry, or a peer's name
    precision: Text = Field(min_length=1)  # "none", "int8", "int4"
    activations: Text | None = None  # "float", "float16", "int8"
    architecture: Text | None = None  # "himix" or "vanilla"
    manifest_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # of the file manifest.json
    bytes: Bytes | None = None  # all files of the bundle, without the manifest
    decoder_bytes: Bytes | None = None  # the decoder role's files
    # what one generated token has to read: the decoder's matrices and its head, scales included, at their stored width
    weight_bytes_per_token: Bytes | None = None
    kv_bytes_per_token: Bytes | None = None  # keys and values of one cache slot, all layers
    context_capacity: Count | None = None  # cache slots
    accuracy: float | None = Field(default=None, ge=0, le=1)  # of the bundle, if it was measured (`himix eval`)
    gate_asked: Size | None = None  # questions that the export's gate asked the bundle
    gate_equal: Size | None = None  # of them, those it answered token for token as the PyTorch reference

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.gate_asked is None) != (self.gate_equal is None) or (self.gate_equal or 0) > (self.gate_asked or 0):
            raise ValueError(f"gate_equal {self.gate_equal} of gate_asked {self.gate_asked}")
        return self


class Settings(Part):
    """How it was measured."""

    warm_up: Size  # iterations that are not counted
    timed: Count  # iterations that are
    mode: Literal["cold-image", "warm-image", "text-only"] = "cold-image"  # cold: the image is encoded every time
    threads: Count | None = None  # that were asked for; null: the runtime's choice
    images: Size = 1  # joined in front of each prompt
    vision_tokens: Size | None = None  # N: cache slots of all images together
    prompt_tokens: Count | None = None  # of every prompt, if it was fixed; null: they vary
    new_tokens: Count | None = None  # most tokens of an answer
    depth: Size = 0  # tokens put into the cache behind the image before the prompt
    questions_per_image: Count = 1  # asked of each image before the next one is encoded
    provider: Text | None = None  # what computes: "cpu", "nnapi", "core-ml", "webgpu", "wasm", "interpreter"
    ignore_stop: bool = False  # answers go on past a stop token, to new_tokens
    # version 2
    sustained_s: Amount | None = None  # how long questions went on without a pause behind the timed iterations
    cores: Literal["big", "little"] | None = None  # the kind of cores that it was bound to; null: all
    files_dropped: Text | None = None  # how the kernel was made to forget the files before `load`: "posix_fadvise"


class Samples(Part):
    """Every counted measurement, in milliseconds, in the order it was taken. A stage that did not run has none.

    preprocess, vision_encoder, vision_injector, prefill, ttft and warm_ttft have one entry for each timed iteration;
    load one for each time the bundle was opened; inter_token one for each token behind an answer's first.
    """

    load: Milliseconds = []  # a fresh process opens the bundle, hashes checked, ready for the first question
    load_warm: Milliseconds = []  # the same with the files in the page cache, where it cannot be emptied
    preprocess: Milliseconds = []  # image file -> S x S pixels
    vision_encoder: Milliseconds = []
    vision_injector: Milliseconds = []
    prefill: Milliseconds = []
    ttft: Milliseconds = []  # image file and prompt in -> first non-empty text out
    warm_ttft: Milliseconds = []  # the same with the image's keys and values (ImageKV) given
    inter_token: Milliseconds = []


class Memory(Part):
    """Of the process that ran the model, in bytes."""

    baseline_bytes: Bytes | None = None  # resident before the bundle was opened, runtime imported
    peak_bytes: Bytes | None = None  # highest resident size up to the end
    kv_cache_bytes: Bytes | None = None  # at full capacity, computed from the model's shape
    # version 2
    pss_bytes: Bytes | None = None  # at the end; pages that processes share are divided among them
    pss_source: Text | None = None  # "smaps_rollup", "dumpsys meminfo"


class Reading(Part):
    """One look at the device during the run."""

    at_s: Amount  # seconds since the run began
    cpu_temperature_c: Celsius | None = None
    cpu_clock_mhz: Amount | None = None
    cpu_clock_max_mhz: Amount | None = None
    battery_percent: float | None = Field(default=None, ge=0, le=100)
    battery_temperature_c: Celsius | None = None
    charging: bool | None = None
    other_load: Amount | None = None  # processors kept busy by other processes, e.g. 0.3 of one
    thermal_state: Text | None = None  # the platform's own word: "nominal", "fair", "serious", "critical"
    # version 2
    thermal_headroom: Amount | None = None  # Android's: at 1 it throttles severely
    core_clocks_mhz: list[Amount] = []  # in the order of the device's cpus
    power_w: dict[Text, Amount] = {}  # by sensor or rail: "battery", "VDD_IN"


class Answer(Part):
    """One distinct question of the run and whether it was answered the same every time."""

    prompt: Words
    images: list[Text] = []  # file names
    text: Words | None = None
    # of the first run's token ids, stop token left out: in decimal, joined by commas, in ASCII ("5,17")
    token_ids_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    runs: Count
    equal_runs: Size  # of them, those with the same digest

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.equal_runs > self.runs:
            raise ValueError(f"{self.equal_runs} equal runs of {self.runs}")
        return self


class Window(Part):
    """Some seconds of questions without a pause, up to the end of an answer."""

    at_s: Amount  # since the first of them began
    seconds: Amount
    answers: Size
    tokens: Size  # of all those answers
    tokens_per_s: Amount | None = None  # behind each answer's first token
    ttft_ms: Amount | None = None  # the median
    reading: Reading | None = None  # at its end


class Sustained(Part):
    """Questions without a pause, each with its image as a file, behind the timed iterations. Version 2."""

    windows: list[Window]


class Energy(Part):
    """What one source tells of the energy of the sustained part, or else of the timed iterations. Version 2."""

    source: Text  # "rapl", "ina", "battery", "odpm", "batterystats"
    what: Text  # "package-0", "VDD_IN", "the whole device"
    joules: Amount | None = None  # null: not readable
    seconds: Amount | None = None
    tokens: Size | None = None  # of the answers in that time
    reason: Words | None = None  # why it is not readable

    @property
    def joules_per_token(self) -> float | None:
        """Energy of a token, all that belongs to its answer included: image, prompt, waiting."""
        return self.joules / self.tokens if self.joules is not None and self.tokens else None


LATER = ("sustained", "energy", "unplugged")  # fields of a record of version 2 only


class Record(Part):
    """One bundle on one device with one set of settings."""

    schema_version: Literal[1, 2]
    started: Text  # ISO 8601 in UTC: "2026-01-31T12:00:00Z"
    command: Words  # exactly what was run: the command line, or the intent or page with its parameters
    harness: Text  # who measured: "himix-edge 0.1.0", "himix Android demo 0.1.0"
    device: Device
    bundle: BundleFacts
    settings: Settings
    samples: Samples
    memory: Memory = Memory()
    readings: list[Reading] = []
    energy_j: Amount | None = None  # of the timed iterations, whole processor package
    harness_overhead: Amount | None = None  # share of the timed iterations spent on measuring
    self_test_passed: bool | None = None  # the bundle's self-test, on this device, before the run
    answers: list[Answer] = []
    verdict: Literal["valid", "semi-valid", "invalid"]
    reasons: list[Words] = []  # why it is not valid, one sentence each
    versions: dict[Text, Text] = {}  # of the runtime and its libraries, by package name
    sustained: Sustained | None = None
    energy: list[Energy] = []
    unplugged: bool | None = None  # ran from its battery, with nothing that charges it

    @model_validator(mode="after")
    def _check(self) -> Self:
        later = [name for name in LATER if self.schema_version == 1 and getattr(self, name)]
        if later:
            raise ValueError(f"{', '.join(later)}: not in schema version 1")
        return self


def read_records(path: str | Path) -> list[Record]:
    """The records of a file. Raises InputError naming the file and the field that is wrong."""
    return as_records(read_json(Path(path), MAX_RECORD_BYTES), str(path))


def as_records(raw: object, where: str) -> list[Record]:
    """The records of a parsed file: one object, or an array of them. Raises InputError as `read_records`."""
    items = raw if isinstance(raw, list) else [raw]
    for item in items:
        version = item.get("schema_version") if isinstance(item, dict) else None
        if version not in VERSIONS or isinstance(version, bool):
            raise InputError(
                f"{where}: not a benchmark record of schema version {' or '.join(map(str, VERSIONS))} "
                f"(schema_version is {one_line(repr(version))})"
            )
    if not items:
        raise InputError(f"{where}: no benchmark records in it")
    if len(items) > MAX_RECORDS:
        raise InputError(f"{where}: {len(items)} records; {MAX_RECORDS} are the most")
    return validated(TypeAdapter(list[Record]), items, where)


def is_records(path: Path) -> bool:
    """Whether a file holds records, and so may be replaced by others."""
    try:
        return bool(read_records(path))
    except InputError:
        return False


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write an array of records, atomically; earlier records there are replaced.

    Raises:
        InputError: the file holds something else, or cannot be written.
    """
    content = json.dumps([record.model_dump(mode="json", exclude_none=True) for record in records], indent=1)
    with staged_file(Path(path), is_records) as staged:
        staged.write_text(content + "\n", encoding="utf-8")
