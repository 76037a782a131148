"""Reads the Xcode project: its syntax, that nothing refers to an object that is not there, and that its files exist.

Usage: python ios_demo/testing/project_check.py
"""

import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]
TOKEN = re.compile(r'\s+|//[^\n]*|/\*.*?\*/|(?P<sign>[{}();=,])|(?P<text>"(?:[^"\\]|\\.)*"|[\w./$-]+)', re.DOTALL)
NEEDED = {
    "INFOPLIST_KEY_NSCameraUsageDescription", "INFOPLIST_KEY_NSPhotoLibraryUsageDescription",
    "INFOPLIST_KEY_UIFileSharingEnabled", "PRODUCT_BUNDLE_IDENTIFIER", "SWIFT_VERSION",
}  # fmt: skip


def tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1}: cannot be read")
        at = match.end()
        if match["sign"] or match["text"]:
            found.append(match["sign"] or match["text"].strip('"'))
    return found


def value(stream: list[str]) -> Any:
    """An old-style property list: {key = value;}, (value, ...) or a text."""
    first = stream.pop(0)
    if first == "{":
        fields: dict[str, Any] = {}
        while stream[0] != "}":
            key, sign = stream.pop(0), stream.pop(0)
            if sign != "=" or key in fields:
                raise ValueError(f"{key}: not a field, or there twice")
            fields[key] = value(stream)
            if stream.pop(0) != ";":
                raise ValueError(f"{key}: no semicolon behind it")
        stream.pop(0)
        return fields
    if first == "(":
        items = []
        while stream[0] != ")":
            items.append(value(stream))
            if stream[0] == ",":
                stream.pop(0)
        stream.pop(0)
        return items
    if first in tuple("});=,"):
        raise ValueError(f"{first!r} where a value belongs")
    return first


def references(item: Any) -> set[str]:
    if isinstance(item, dict):
        return {name for part in item.values() for name in references(part)}
    if isinstance(item, list):
        return {name for part in item for name in references(part)}
    return {item} if re.fullmatch("A1[0-9]{22}", item) else set()


def problems(project: dict[str, Any]) -> list[str]:
    objects = project["objects"]
    found = [f"{name} is not defined" for name in sorted(references(project) - objects.keys())]
    unused = objects.keys() - references(objects) - {project["rootObject"]}
    found += [f"{name} is not used" for name in sorted(unused)]
    for item in objects.values():
        path = item.get("relativePath") or (item.get("path") if item.get("sourceTree") == "<group>" else None)
        if path and not (FOLDER / path).is_dir():
            found.append(f"{path} does not exist")
    target = next(item for item in objects.values() if item["isa"] == "PBXNativeTarget")
    for name in objects[target["buildConfigurationList"]]["buildConfigurations"]:
        found += [f"{name}: no {key}" for key in sorted(NEEDED - objects[name]["buildSettings"].keys())]
    return found


def main() -> int:
    stream = tokens((FOLDER / "HimixDemo.xcodeproj/project.pbxproj").read_text())
    project = value(stream)
    found = problems(project) + (["text behind its end"] if stream else [])
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
