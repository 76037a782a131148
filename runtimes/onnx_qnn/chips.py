"""Snapdragon chips, and opening what was compiled for one: on the chip, or in Qualcomm's emulation of it on x86-64.

It takes onnxruntime-qnn, which has Qualcomm's libraries under Qualcomm's own licence and is no part of this project.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from himix_edge.errors import InputError
from himix_edge.runtimes.onnx_qnn.context_files import binaries_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtEpDevice

PACKAGE = "onnxruntime_qnn"


@dataclass(frozen=True)
class Chip:
    """A chip in QNN's numbers: `soc_model`, and `htp_arch`, the version of its Hexagon NPU."""

    title: str
    soc_model: int
    htp_arch: int


CHIPS = {
    "sm8450": Chip("Snapdragon 8 Gen 1", 36, 69),
    "sm8550": Chip("Snapdragon 8 Gen 2", 43, 73),
    "sm8650": Chip("Snapdragon 8 Gen 3", 57, 75),
    "sm8750": Chip("Snapdragon 8 Elite", 69, 79),
    "sm8850": Chip("Snapdragon 8 Elite Gen 5", 87, 81),
}


def chips_here() -> tuple[str, ...]:
    """The names in CHIPS if onnxruntime-qnn is installed, else none."""
    return tuple(CHIPS) if importlib.util.find_spec(PACKAGE) else ()


def open_for(
    path: Path, chip: str, entries: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> "InferenceSession":
    """A graph on a chip's NPU in float16, with no node anywhere else.

    Args:
        path: an ONNX file, which is compiled now, or one with a compiled context.
        chip: a name in CHIPS.
        entries: more of the session's configuration.
        options: more of the execution provider's.

    Raises:
        InputError: it cannot be loaded, or not all of it runs there; or a context that is not beside its file.
        ImportError: onnxruntime-qnn is not installed.
    """
    for name in binaries_of(path):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InputError(f"{path}: has its context in {name[:80]!r}, which is not beside it; refused")
    import onnxruntime
    import onnxruntime_qnn

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    for key, value in {"session.disable_cpu_ep_fallback": "1", **(entries or {})}.items():
        settings.add_session_config_entry(key, value)
    known = CHIPS[chip]
    numbers = {"soc_model": known.soc_model, "htp_arch": known.htp_arch, "enable_htp_fp16_precision": 1}
    own = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **{key: str(n) for key, n in numbers.items()}}
    try:
        settings.add_provider_for_devices([_device()], {**own, **(options or {})})
        return onnxruntime.InferenceSession(path, settings)
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise InputError(f"{path}: not for {chip}: {[*str(error).splitlines(), ''][0]}") from None


@cache
def _device() -> "OrtEpDevice":
    import onnxruntime
    import onnxruntime_qnn

    name = onnxruntime_qnn.get_ep_name()
    onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not found:
        raise InputError("onnxruntime-qnn offers no device on this machine")
    return found[0]
