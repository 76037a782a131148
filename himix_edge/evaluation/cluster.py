"""Tasks on the workers of a dask scheduler, on any number of machines; those of a worker that dies go to another."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from himix_edge import extras
from himix_edge.errors import InputError, last_line

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECTS_WITHIN = 10  # seconds
WORKERS_WITHIN = 60  # seconds without any worker
LOOKS = 5  # seconds between two looks at the workers
AHEAD = 2  # tasks for each thread of the workers that are sent before they are needed
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SentImage:
    """A picture's file, read where the questions are; see `himix_edge.preprocess.Stored`."""

    content: bytes
    name: str

    def stored(self) -> tuple[bytes, str]:
        """Its content, and what to call it."""
        return self.content, self.name


def results(scheduler: str, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """What `work` makes of each task, as it is made.

    Args:
        scheduler: its address, such as tcp://10.0.0.1:8786.
        work: is called on a worker, perhaps in several threads, and for a task of a worker that died once more.
        tasks: a few are sent ahead of what the workers can do at a time.

    Raises:
        BackendMissing: dask's distributed is not installed.
        InputError: no scheduler answers there, it is gone, or has no workers for a minute; a task ended several.
    """
    with extras.needed("distributed", extras.CLUSTER):
        from distributed import Client
    with _quiet():
        try:
            client = Client(scheduler, timeout=CONNECTS_WITHIN)
        except (OSError, ValueError, TypeError, ImportError) as error:
            said = last_line(str(error), type(error).__name__)
            raise InputError(
                f"--scheduler {scheduler}: no dask scheduler answers there; start one with: dask scheduler ({said})"
            ) from None
        with client:
            yield from _results(client, scheduler, work, iter(tasks))


def _results(
    client: "Client", scheduler: str, work: Callable[[Task], Result], left: Iterator[Task]
) -> Iterator[Result]:
    from distributed import KilledWorker, wait

    running: set[Future[Result]] = set()
    seen = time.monotonic()
    try:
        while True:
            threads = sum(client.nthreads().values())
            seen = time.monotonic() if threads else seen
            if time.monotonic() - seen > WORKERS_WITHIN:
                raise InputError(
                    f"--scheduler {scheduler}: has no workers; start some (dask worker {scheduler}), and the same "
                    "command goes on"
                )
            room = max(AHEAD * threads, 1) - len(running)
            running |= {client.submit(work, task, pure=False) for task in islice(left, max(room, 0))}
            if not running:
                return
            with contextlib.suppress(TimeoutError):
                wait(list(running), timeout=LOOKS, return_when="FIRST_COMPLETED")
            for done in [each for each in running if each.done()]:
                running.remove(done)
                yield done.result()
    except KilledWorker:
        raise InputError(
            f"--scheduler {scheduler}: several workers ended over the same questions, perhaps for want of memory; the "
            "same command goes on"
        ) from None
    except (OSError, CancelledError) as error:
        said = last_line(str(error), type(error).__name__)
        raise InputError(f"--scheduler {scheduler}: is gone ({said}); the same command goes on") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What dask has to say of connections that are lost is said by the errors above."""
    logger = logging.getLogger("distributed")
    usual = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(usual)
