"""Reading configuration files that nobody vouches for: bounded, and with one clear line for what is wrong."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from himix_edge.errors import InputError

MAX_VALUE = 1 << 24  # no field of a real model is larger; a config that says so is refused before any allocation
MAX_LAYERS = 1024
MAX_CONFIG_BYTES = 1 << 20


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as `field: what is wrong`, in one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> Any:
    """Parse a small JSON file. Raises InputError if it is missing, over `max_bytes` (1 MiB), or not JSON."""
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path}: larger than {max_bytes} bytes; this is not a configuration file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def refuse_absurd(value: Any, where: str, name: str = "") -> None:
    """Raises InputError for a size that no model has. Below a field called `config`, 0 and negatives may stand."""
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_absurd(item, where, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_absurd(item, where, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        most = MAX_LAYERS if name.endswith("num_hidden_layers") else MAX_VALUE
        free = ".config." in name or "feature_layer" in name
        if value > most or (value < 1 and not free):
            raise InputError(f"{where}: {name} = {value} is out of range")
