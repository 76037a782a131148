"""Several sessions on one model, each lent to one user at a time."""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from himix_edge.bundle import MANIFEST
from himix_edge.errors import InputError
from himix_edge.files import as_path
from himix_edge.runtimes.engine import CannotFork
from himix_edge.runtimes.hub import repository
from himix_edge.runtimes.opening import open_bundle, open_checkpoint
from himix_edge.runtimes.sampling import whole_number
from himix_edge.runtimes.session import Session

MOST_SESSIONS = 256


class SessionPool:
    """Sessions that threads borrow; the one that was given back last is lent first, its cache may still be of use.

    Attributes:
        sessions: all of them.
    """

    def __init__(self, sessions: Sequence[Session]):
        self.sessions = tuple(sessions)
        self._free: queue.LifoQueue[Session] = queue.LifoQueue()
        for session in self.sessions:
            self._free.put(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.sessions)

    @contextlib.contextmanager
    def session(self, timeout: float | None = None) -> Iterator[Session]:
        """Borrow a session for a `with` block.

        Args:
            timeout: seconds to wait for one; None: as long as it takes.

        Raises:
            InputError: none came free in that time.
        """
        try:
            session = self._free.get(timeout=timeout)
        except queue.Empty:
            raise InputError(f"all {len(self)} sessions are in use; wait longer, or open more") from None
        try:
            yield session
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Close all sessions; see `Session.close`."""
        for session in self.sessions:
            session.close()


def open_pool(
    model: str | Path,
    sessions: int = 2,
    threads: int | None = None,
    device: str | None = None,
    adapter: str | Path | None = None,
) -> SessionPool:
    """Open a bundle, or a checkpoint in PyTorch, in several sessions.

    They share one copy of the weights in ONNX Runtime, OpenVINO and PyTorch; elsewhere each has its own. In OpenVINO
    they take turns, a token at a time.

    Args:
        model: a bundle's folder or its address on the hub, a checkpoint's folder, or the name of a model that ships
            with the package.
        sessions: how many.
        threads: CPU threads of each copy of the weights, of a bundle only; None leaves the choice to the runtime.
        device: what computes a bundle, see `open_bundle`.
        adapter: what all sessions use a bundle with, see `Session.use_adapter`.

    Raises:
        InputError, GateRefused, BackendMissing: as `open_bundle` and `open_checkpoint`; also a number of sessions that
            is none.
    """
    if not 1 <= whole_number("sessions", sessions, least=1) <= MOST_SESSIONS:
        raise InputError(f"sessions is {sessions}; {MOST_SESSIONS} are the most")
    first = _open(model, threads, device, adapter)
    opened = [first]
    try:
        while len(opened) < sessions:
            try:
                opened.append(first.fork())
            except CannotFork:
                opened.append(_open(model, threads, device, adapter))
    except BaseException:
        SessionPool(opened).close()
        raise
    return SessionPool(opened)


def adapted_pool(pool: SessionPool, adapter: str | Path, again: Callable[[], Session]) -> SessionPool:
    """As many sessions of their own on a pool's weights, with another adapter.

    Args:
        pool: whose weights are shared where the runtime can.
        adapter: see `Session.use_adapter`; errors are its.
        again: opens the model once more, where the runtime cannot share.
    """
    opened: list[Session] = []
    try:
        for session in pool.sessions:
            try:
                opened.append(session.fork())
            except CannotFork:
                opened.append(again())
            opened[-1].use_adapter(adapter)
    except BaseException:
        SessionPool(opened).close()
        raise
    return SessionPool(opened)


def is_bundle(model: str | Path) -> bool:
    """Whether a model is a bundle, here or on the hub, and no checkpoint."""
    return repository(model) is not None or (as_path(model) / MANIFEST).is_file()


def _open(model: str | Path, threads: int | None, device: str | None, adapter: str | Path | None = None) -> Session:
    if is_bundle(model):
        return open_bundle(model, threads, device, adapter)
    if adapter is not None:
        raise InputError(f"{model}: an adapter is of an exported bundle; a checkpoint is used as it is")
    if device is not None:
        raise InputError(f"{model}: a device is of an exported bundle; a checkpoint is computed by PyTorch on the CPU")
    if threads is not None:
        raise InputError("threads are of an exported bundle; of PyTorch's, OMP_NUM_THREADS is")
    return open_checkpoint(model)
