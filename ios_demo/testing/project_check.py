"""Reads the Xcode project: its syntax, that nothing refers to an object that is not there, that its files exist, and
that Run is optimised, as a benchmark has to be.

Usage: python ios_demo/testing/project_check.py
"""

import json
import plistlib
import re
import struct
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

FOLDER = Path(__file__).parents[1]
SCHEME = FOLDER / "HimixDemo.xcodeproj/xcshareddata/xcschemes/HimixDemo.xcscheme"
MEMORY = "com.apple.developer.kernel.increased-memory-limit"
TOKEN = re.compile(r'\s+|//[^\n]*|/\*.*?\*/|(?P<sign>[{}();=,])|(?P<text>"(?:[^"\\]|\\.)*"|[\w./$-]+)', re.DOTALL)
NEEDED = {
    "INFOPLIST_KEY_NSCameraUsageDescription", "INFOPLIST_KEY_NSPhotoLibraryUsageDescription",
    "INFOPLIST_KEY_UIFileSharingEnabled", "PRODUCT_BUNDLE_IDENTIFIER", "SWIFT_VERSION",
    "ASSETCATALOG_COMPILER_APPICON_NAME", "CODE_SIGN_ENTITLEMENTS",
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
        settings = objects[name]["buildSettings"]
        found += [f"{name}: no {key}" for key in sorted(NEEDED - settings.keys())]
        found += entitlement_problems(settings.get("CODE_SIGN_ENTITLEMENTS", ""))
        found += icon_problems(settings.get("ASSETCATALOG_COMPILER_APPICON_NAME", ""))
    return found + scheme_problems(objects)


def entitlement_problems(name: str) -> list[str]:
    path = FOLDER / name
    if not path.is_file():
        return [f"{name} does not exist"]
    granted = plistlib.loads(path.read_bytes()).get(MEMORY)
    return [] if granted is True else [f"{name}: no {MEMORY}"]


def icon_problems(name: str) -> list[str]:
    """An icon is 1024 x 1024 and has no transparency: color type 2 of PNG."""
    folder = FOLDER / f"HimixDemo/Assets.xcassets/{name}.appiconset"
    images = json.loads((folder / "Contents.json").read_text())["images"]
    found = []
    for image in images:
        width, height, _, color = struct.unpack(">IIBB", (folder / image["filename"]).read_bytes()[16:26])
        if (width, height, color) != (1024, 1024, 2):
            found.append(f"{image['filename']}: {width} x {height}, color type {color}")
    return found if images else [f"{name}: no image"]


def scheme_problems(objects: dict[str, Any]) -> list[str]:
    root = ElementTree.parse(SCHEME).getroot()
    found = []
    for action in ("LaunchAction", "ProfileAction", "ArchiveAction"):
        element = root.find(action)
        if element is None or element.get("buildConfiguration") != "Release":
            found.append(f"{SCHEME.name}: {action} is not optimised")
    targets = {reference.get("BlueprintIdentifier", "") for reference in root.iter("BuildableReference")}
    found += [f"{SCHEME.name}: no target {name}" for name in sorted(targets - objects.keys())]
    return found if targets else [*found, f"{SCHEME.name}: builds nothing"]


def main() -> int:
    stream = tokens((FOLDER / "HimixDemo.xcodeproj/project.pbxproj").read_text())
    project = value(stream)
    found = problems(project) + (["text behind its end"] if stream else [])
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
