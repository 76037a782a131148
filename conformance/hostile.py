"""Hostile bundles, tokenizers, images and saved ImageKVs, made once and read by the tests of every client.

    python conformance/hostile.py BUNDLE OUT

Writes OUT/hostile.json: for each kind a list of cases {name, file or folder, expect, word}. `expect` is

    refused   the client says no, in one line that has `word` in it
    same      it does what it does with the good one: what was changed must not matter
    either    one of the two; in any case no crash and no endless wait

See conformance/README.md for how a client uses them.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hostile_images
import hostile_manifests
import hostile_tokenizers

from himix_edge.runtimes import open_bundle
from himix_edge.text import Message

TEXT = "What shape is this? It's a circle, isn't it?\n " + "a" * 40 + "b"


def main(bundle: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    session = open_bundle(bundle)
    session.encode_image(bundle / session_image(bundle)).save(out / "good.image_kv")
    manifest = json.loads((bundle / "manifest.json").read_text())
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    rows = manifest["model"]["vocab_size"]
    content = {
        "text": TEXT,
        "ids": session.text.tokenizer.encode(TEXT, add_special_tokens=False).ids,
        "chat": session.text.encode_chat([Message("user", TEXT)]),
        "manifests": stored(out, "manifests", hostile_manifests.manifests(manifest)),
        "folders": list(hostile_manifests.folders(bundle, out / "folders")),
        "tokenizers": stored(out, "tokenizers", hostile_tokenizers.tokenizers(tokenizer, rows)),
        "image_kvs": stored(out, "image_kvs", hostile_images.image_kvs((out / "good.image_kv").read_bytes())),
        "images": stored(out, "images", hostile_images.images()),
    }  # fmt: skip
    (out / "hostile.json").write_text(json.dumps(content))


def session_image(bundle: Path) -> str:
    image: str = json.loads((bundle / "manifest.json").read_text())["selftest"]["image"]
    return image


def stored(out: Path, kind: str, cases: Iterable[tuple[str, bytes, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Write each case's bytes to a file of its own."""
    (out / kind).mkdir()
    rows = []
    for number, (name, content, facts) in enumerate(cases):
        path = out / kind / str(number)
        path.write_bytes(content)
        rows.append({"name": name, "file": f"{kind}/{number}", **facts})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.bundle, arguments.out)
