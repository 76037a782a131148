"""The emoji drawings of EmojiScenes, in five styles: fetched from npm packages, checked by hash, kept in the cache.

noto     Google's Noto Emoji, Apache-2.0 (emoji-datasource-google)
twemoji  Twitter's Twemoji, graphics CC-BY-4.0, Copyright Twitter, Inc and other contributors (emoji-datasource-twitter)
blob     Google's Noto Emoji as it was until 2017, Apache-2.0 (emoji-datasource-google, an old one)
emojione EmojiOne 2, artwork CC-BY-4.0, provided free by EmojiOne (emojione)
fluent   Microsoft's Fluent Emoji 3D, MIT (@lobehub/fluent-emoji-3d)

The two old ones lack a quarter of the drawings, of newer emoji; those of noto stand in for them.
"""

import io
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from himix_edge.cache import cache_folder, say
from himix_edge.data.emoji_concepts import code_points
from himix_edge.errors import InputError
from himix_edge.files import refuse_foreign_file, sha256
from himix_edge.staging import staging

SIZE = 72  # pixels, the side of a kept drawing
MEMBER_BYTES = 1 << 20  # no drawing is larger


@dataclass(frozen=True)
class Archive:
    """An npm package, its archive's hash, and where in it a drawing is.

    Attributes:
        stand_in: style that has the drawings which this one lacks. Its file names have no variation selector.
    """

    package: str
    sha256: str
    pattern: str
    stand_in: str | None = None

    def member(self, code: str) -> str:
        """The file of these code points."""
        code = code.lower()
        return self.pattern.format(code.removesuffix("-fe0f") if self.stand_in else code)


STYLES = {
    "noto": Archive(
        "emoji-datasource-google@16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "package/img/google/64/{}.png",
    ),
    "twemoji": Archive(
        "emoji-datasource-twitter@16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "package/img/twitter/64/{}.png",
    ),
    "blob": Archive(
        "emoji-datasource-google@3.0.0", "3247dd55dee7954d6d1d3d84b05759e49daf71cab5cccb4566940209679af66f",
        "package/img/google/64/{}.png", "noto",
    ),
    "emojione": Archive(
        "emojione@2.2.7", "5fe002738e6e276f49ac37783799d2feab99a6131fdedccfa56569d745449ae5",
        "package/assets/png/{}.png", "noto",
    ),
    "fluent": Archive(
        "@lobehub/fluent-emoji-3d@1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "package/assets/{}.webp",
    ),
}  # fmt: skip


@lru_cache(maxsize=len(STYLES))
def drawings(style: str) -> dict[str, Image.Image]:
    """Name -> drawing, RGBA, SIZE x SIZE.

    Raises:
        InputError: the drawings are not in the cache, and npm is not installed or cannot fetch the package, or the
            package is not the one that is known.
    """
    kept = cache_folder() / f"emoji-{style}-{SIZE}.zip"
    names = code_points()
    if not _holds(kept, names):
        with staging(kept, wait=True) as place:
            if not _holds(kept, names):  # still: the process that was waited for may have fetched it
                place.scratch.mkdir()
                place.new.mkdir()
                made = place.new / kept.name
                _extract(STYLES[style], _fetch(STYLES[style], place.scratch), made)
                place.publish(made, lambda: refuse_foreign_file(kept, None))
    with zipfile.ZipFile(kept) as archive:
        return {name: Image.open(io.BytesIO(archive.read(f"{name}.png"))).convert("RGBA") for name in names}


def _holds(kept: Path, names: dict[str, str]) -> bool:
    try:
        with zipfile.ZipFile(kept) as archive:
            return {f"{name}.png" for name in names} <= set(archive.namelist()) and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError):  # damaged
        return False


def _fetch(archive: Archive, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"{archive.package}: npm fetches it and is not installed; install Node.js with npm")
    command = [npm, "pack", "--silent", "--ignore-scripts", archive.package]
    say(f"fetching {archive.package} with npm, once")
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.tgz"))
    if result.returncode or len(files) != 1:
        raise InputError(
            f"{archive.package}: npm cannot fetch it: {(result.stderr or 'no file came').splitlines()[-1]}"
        )
    if sha256(files[0]) != archive.sha256:
        raise InputError(f"{archive.package}: not the archive that is known; its hash differs")
    return files[0]


def _extract(archive: Archive, path: Path, out: Path) -> None:
    """The drawings that are used, at one size, as a zip of PNGs."""
    wanted = {archive.member(code): name for name, code in code_points().items()}
    with tarfile.open(path) as tar, zipfile.ZipFile(out, "w") as made:
        for member in tar:
            name = wanted.pop(member.name, None)
            if name is None:
                continue
            file = tar.extractfile(member)
            if file is None or member.size > MEMBER_BYTES:
                raise InputError(f"{archive.package}: {member.name} is not a drawing")
            image = Image.open(file, formats=("PNG", "WEBP")).convert("RGBA")
            _keep(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS), name, made)
        if wanted and archive.stand_in is None:
            raise InputError(f"{archive.package}: lacks {', '.join(sorted(wanted)[:3])}")
        if archive.stand_in is not None:
            for name in wanted.values():
                _keep(drawings(archive.stand_in)[name], name, made)


def _keep(image: Image.Image, name: str, made: zipfile.ZipFile) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    made.writestr(zipfile.ZipInfo(f"{name}.png"), buffer.getvalue())
