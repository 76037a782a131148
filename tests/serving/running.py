"""The server in a thread of the test's process, on a port of its own."""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from himix_edge.runtimes import SessionPool
from himix_edge.serving.access import Access
from himix_edge.serving.app import Limits, Server
from himix_edge.serving.images import ImageStore
from himix_edge.serving.metrics import Metrics
from himix_edge.serving.running import listen, serve


@dataclass
class Running:
    """Where it answers, what it counted, and errors that nobody expected."""

    address: str
    port: int
    metrics: Metrics
    errors: list[BaseException] = field(default_factory=list)

    def count(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.metrics.text().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def until(self, name: str, value: float) -> None:
        """Wait for a metric; ten seconds at most."""
        end = time.monotonic() + 10
        while self.count(name) != value:
            assert time.monotonic() < end, (name, self.count(name), value)
            time.sleep(0.005)


@contextlib.contextmanager
def running(
    models: dict[str, SessionPool],
    folder: Path | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
    memory_bytes: int = 1 << 24,
    disk_bytes: int = 1 << 24,
):
    metrics, errors = Metrics(), []
    images = ImageStore(folder, memory_bytes, disk_bytes, metrics)
    app = Server(models, images, metrics, limits or Limits(), access or Access(), errors.append).app()
    place = listen("127.0.0.1", 0)
    port, servers = place.getsockname()[1], []
    thread = threading.Thread(target=serve, args=(app, place, 100, servers.append))
    thread.start()
    while not (servers and servers[0].started):
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Running(f"http://127.0.0.1:{port}", port, metrics, errors)
    finally:
        servers[0].should_exit = True
        thread.join()
    assert errors == []
