"""Where requests wait for a session: first come, first served, and no more than a few of them."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from himix_edge.runtimes import Session, SessionPool
from himix_edge.serving.answering import Event
from himix_edge.serving.refusals import busy

Emit = Callable[[Event], None]
Work = Callable[[Session, threading.Event, Emit], None]


class Left(Exception):
    """Nobody waits for this answer any more."""


class Job:
    """A request at work: its events, and how it is ended early.

    Attributes:
        stop: tells the thread that nobody waits any more.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._at_work = False

    async def next_event(self) -> Event | None:
        """What happened next; None at the end. Raises what went wrong, and Left behind `cancel`."""
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Leave the queue, or end after the token that is being computed."""
        self.stop.set()
        self._events.put_nowait(Left())
        if not self._at_work and self._task is not None:
            self._task.cancel()


class Desk:
    """The sessions of one model.

    Attributes:
        waiting: how many requests wait.
        running: how many are being answered.
    """

    def __init__(self, pool: SessionPool, most_waiting: int, changed: Callable[["Desk"], None]):
        self.waiting = self.running = 0
        self._most, self._changed = most_waiting, changed
        self._free = list(reversed(pool.sessions))  # the last one given back is lent first
        self._turns = asyncio.Semaphore(len(self._free))
        self._threads = ThreadPoolExecutor(len(self._free), "answers")
        self._jobs: dict[asyncio.Task[None], Job] = {}

    def start(self, work: Work, deadline: float) -> Job:
        """Let a thread do `work` with the next free session.

        Args:
            work: is given the session, the event that ends it early, and what to call with each event.
            deadline: of `time.monotonic`, until which the job waits for its turn.

        Raises:
            Refused: too many wait already. At its end, from `Job.next_event`: no session came free in time.
        """
        if self.waiting >= self._most and self._turns.locked():
            raise busy(f"all sessions are in use, and {self.waiting} requests wait already; try again later")
        job = Job()
        job._task = task = asyncio.get_running_loop().create_task(self._do(job, work, deadline))
        self._jobs[task] = job  # the loop itself would forget it
        task.add_done_callback(self._jobs.pop)
        return job

    def close(self) -> None:
        """End what is being answered after its token, and the threads."""
        for job in list(self._jobs.values()):
            job.cancel()
        self._threads.shutdown()

    async def _do(self, job: Job, work: Work, deadline: float) -> None:
        loop, events = asyncio.get_running_loop(), job._events

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            async with self._lent(job, deadline) as session:
                await loop.run_in_executor(self._threads, work, session, job.stop, emit)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            events.put_nowait(error)
        else:
            events.put_nowait(None)

    @contextlib.asynccontextmanager
    async def _lent(self, job: Job, deadline: float) -> AsyncIterator[Session]:
        """A session, in turn. It is given back when its thread has ended, as nobody cancels a job at work."""
        self._count(waiting=1)
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                await self._turns.acquire()
        except TimeoutError:
            raise busy("no session came free in time; try again later", 503) from None
        finally:
            self._count(waiting=-1)
        session = self._free.pop()
        job._at_work = True
        self._count(running=1)
        try:
            yield session
        finally:
            self._free.append(session)
            self._turns.release()
            self._count(running=-1)

    def _count(self, waiting: int = 0, running: int = 0) -> None:
        self.waiting += waiting
        self.running += running
        self._changed(self)
