"""Hostile bundles, tokenizers, images and saved ImageKVs: what hostile.json says of each, and their files.

`expect` of a case is

    refused   the client says no, in one line that has each of `words` in it
    same      it does what it does with the good one: what was changed must not matter
    either    one of the two, an image with these pixels; in any case no crash and no endless wait
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conformance import hostile_folders, hostile_images, hostile_manifests, hostile_tiles, hostile_tokenizers
from himix_edge.bundle import read_manifest
from himix_edge.runtimes import Session
from himix_edge.text import Message

TEXT = "What shape is this? It's a circle, isn't it?\n " + "a" * 40 + "b"
FOLDER = "hostile"


def cases(session: Session, bundle: Path, out: Path) -> dict[str, Any]:
    """Write the files into `out/hostile`; returns the contents of hostile.json."""
    good_kv = out / FOLDER / "good.image_kv"
    good_kv.parent.mkdir()
    session.encode_image(bundle / read_manifest(bundle).selftest.image).save(good_kv)
    manifest = json.loads((bundle / "manifest.json").read_text())
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    rows = manifest["model"]["vocab_size"]
    return {
        "bundle": bundle.name,
        "text": TEXT,
        "ids": session.text.encode_text(TEXT),
        "chat": session.text.encode_chat([Message("user", TEXT)]),
        "manifests": _stored(out, "manifests", hostile_manifests.manifests(manifest)),
        "tile_manifests": _stored(out, "tile_manifests", hostile_tiles.manifests(manifest)),
        "bundles": _listed(out, hostile_folders.bundles(bundle, out / FOLDER / "bundles")),
        "folders": _listed(out, hostile_folders.folders(bundle, out / FOLDER / "folders")),
        "tokenizers": _stored(out, "tokenizers", hostile_tokenizers.tokenizers(tokenizer, rows)),
        "image_kvs": _stored(out, "image_kvs", hostile_images.image_kvs(good_kv.read_bytes())),
        "images": _stored(out, "images", hostile_images.images()),
    }


def _stored(out: Path, kind: str, cases: Iterable[tuple[str, bytes, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Write each case's bytes to a file of its own."""
    (out / FOLDER / kind).mkdir()
    rows = []
    for number, (name, content, facts) in enumerate(cases):
        file = f"{FOLDER}/{kind}/{number}"
        (out / file).write_bytes(content)
        rows.append({"name": name, "file": file, **facts, "words": _words(facts)})
    return rows


def _listed(out: Path, cases: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**case, "folder": str(case["folder"].relative_to(out)), "words": _words(case)} for case in cases]


def _words(facts: dict[str, Any]) -> list[str]:
    return [word for word in facts["words"] if word]
