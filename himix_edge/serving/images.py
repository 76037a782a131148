"""Images' keys and values, kept by the hash of their content: in memory, and on disk for the next start.

Both places have a limit; what was not used for longest goes first. A file that is damaged, or cannot be written, is a
miss and nothing else.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from himix_edge.errors import HimixError, InputError
from himix_edge.runtimes import ImageKV, Session
from himix_edge.runtimes.packed import FLOAT_BITS
from himix_edge.serving.metrics import Metrics

ENDING = ".kv"
NAME = re.compile(r"[0-9a-f]{64}\.kv")
MOST_UNWRITTEN = 8  # images on their way to the disk; they are in memory until then


class ImageStore:
    """May be used by several threads at once.

    Attributes:
        bits: of the numbers that are kept, see `ImageKV.in_bits`.
    """

    def __init__(
        self, folder: Path | None, memory_bytes: int, disk_bytes: int, metrics: Metrics, bits: int = FLOAT_BITS
    ):
        """`folder` is made if it is not there; None: nothing is kept on disk. Raises InputError if it cannot be."""
        self.bits = bits
        self._memory_bytes, self._disk_bytes, self._metrics = memory_bytes, disk_bytes, metrics
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, ImageKV] = OrderedDict()
        self._folder = folder if disk_bytes else None
        self._on_disk: OrderedDict[str, int] = OrderedDict()
        self._writer = ThreadPoolExecutor(1, "images")
        self._unwritten: set[Future[None]] = set()
        if self._folder is not None:
            self._on_disk = _files(self._folder)
            self._trim_disk(self._folder)
        self._report()

    def get(self, key: str, session: Session) -> ImageKV | None:
        """The image of that key, if it is kept and of the session's model."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                self._metrics.images.labels("memory").inc()
                return found
        found = self._read(key, session)
        self._metrics.images.labels("nowhere" if found is None else "disk").inc()
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, image: ImageKV) -> None:
        """Keep it. It is written to disk in the background."""
        self._keep(key, image)
        with self._lock:
            if self._folder is None or len(self._unwritten) >= MOST_UNWRITTEN:
                return
            job = self._writer.submit(self._write, self._folder, key, image)
            self._unwritten.add(job)
        job.add_done_callback(self._written)

    def close(self) -> None:
        """Wait until what was put is written."""
        self._writer.shutdown()

    def _written(self, job: Future[None]) -> None:
        with self._lock:
            self._unwritten.discard(job)

    def _keep(self, key: str, image: ImageKV) -> None:
        with self._lock:
            self._kept[key] = image
            self._kept.move_to_end(key)
            size = sum(image.nbytes for image in self._kept.values())
            while size > self._memory_bytes and self._kept:
                size -= self._kept.popitem(last=False)[1].nbytes
        self._report()

    def _read(self, key: str, session: Session) -> ImageKV | None:
        with self._lock:
            if self._folder is None or key not in self._on_disk:
                return None
            path = self._folder / f"{key}{ENDING}"
        try:
            image = ImageKV.load(path, session.max_image_kv_bytes)
            os.utime(path)  # the next start knows what was used last
        except (InputError, OSError):
            self._forget(key, path)
            return None
        with self._lock:
            if key in self._on_disk:
                self._on_disk.move_to_end(key)
        return image

    def _write(self, folder: Path, key: str, image: ImageKV) -> None:
        path = folder / f"{key}{ENDING}"
        with contextlib.suppress(HimixError, OSError):  # a full disk, another server that writes the same
            image.save(path)
            size = path.stat().st_size
            with self._lock:
                self._on_disk[key] = size
                self._on_disk.move_to_end(key)
            self._trim_disk(folder)
            self._report()

    def _trim_disk(self, folder: Path) -> None:
        with self._lock:
            size, gone = sum(self._on_disk.values()), []
            while size > self._disk_bytes and self._on_disk:
                key, less = self._on_disk.popitem(last=False)
                size -= less
                gone.append(folder / f"{key}{ENDING}")
        for path in gone:
            with contextlib.suppress(OSError):
                path.unlink()

    def _forget(self, key: str, path: Path) -> None:
        with self._lock:
            self._on_disk.pop(key, None)
        with contextlib.suppress(OSError):
            path.unlink()

    def _report(self) -> None:
        with self._lock:
            sizes = {"memory": sum(image.nbytes for image in self._kept.values()), "disk": sum(self._on_disk.values())}
        for where, size in sizes.items():
            self._metrics.image_bytes.labels(where).set(size)


def image_key(model_id: str, contents: Iterable[bytes], bits: int = FLOAT_BITS) -> str:
    """Names what a model makes of pictures' files, whatever they are called, and keeps in so many bits."""
    digest = hashlib.sha256((model_id if bits == FLOAT_BITS else f"{model_id}/{bits}").encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _files(folder: Path) -> OrderedDict[str, int]:
    """Key -> bytes of what an earlier start kept, the least recently used first."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # they tell of what people showed
        own = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink()]
        found = [(path.stat(), path) for path in own if path.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: images cannot be kept here: {error.strerror or error}") from None
    found.sort(key=lambda each: (each[0].st_mtime_ns, each[1].name))
    return OrderedDict((path.name.removesuffix(ENDING), state.st_size) for state, path in found)
