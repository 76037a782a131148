"""What configurations of others say, and what they leave open."""

from himix_edge.errors import InputError
from himix_edge.reading import JsonObject

NONE_MEANT = ("sliding_window",)  # where null is a value of its own: attention without a window


def said(settings: JsonObject) -> JsonObject:
    """Without the nulls that leave a setting to its default."""
    return {name: value for name, value in settings.items() if value is not None or name in NONE_MEANT}


def part_of_config(raw: JsonObject, name: str, where: str) -> JsonObject:
    """What an object inside of config.json says. Raises InputError if it is none."""
    part = raw.get(name)
    if not isinstance(part, dict):
        raise InputError(f"{where}: {name} is not a JSON object")
    return said(part)
