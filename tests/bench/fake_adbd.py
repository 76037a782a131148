"""A scripted Android device: enough of adb's wire protocol that the real `adb` client works with it over TCP.

It is no phone. /sdcard is a folder here, a shell is this machine's, and `am`, `pm`, `getprop`, `dumpsys` and `pidof`
are scripts in a folder that comes first on its PATH. It proves this project's side of the cable only.
"""

import contextlib
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

CNXN, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(word, "little") for word in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
VERSION, MAX_DATA = 0x01000001, 256 << 10
BANNER = b"device::ro.product.name=scripted;ro.product.model=Scripted;ro.product.device=scripted;features=shell_v2,cmd"


class FakeDevice:
    """Listens on 127.0.0.1; `cut_after` closes the connection once, when so many bytes have come in."""

    def __init__(self, sdcard: Path, tools: Path):
        self.sdcard, self.tools = sdcard, tools
        self.cut_after: int | None = None
        self.received = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=_Connection(self, connection).serve, daemon=True).start()


class _Connection:
    def __init__(self, device: FakeDevice, connection: socket.socket):
        self._device, self._socket = device, connection
        self._writing = threading.Lock()
        self._shells: dict[int, _Shell] = {}

    def serve(self) -> None:
        try:
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self._read(24))
                self._handle(command, first, second, self._read(length))
        except (OSError, ConnectionError):
            for shell in self._shells.values():
                shell.end()
            self._socket.close()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(data), 0, command ^ 0xFFFFFFFF)
        with self._writing:
            self._socket.sendall(header + data)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            block = self._socket.recv(count - len(data))
            if not block:
                raise ConnectionError
            data += block
        device = self._device
        device.received += count
        if device.cut_after is not None and device.received > device.cut_after:
            device.cut_after = None
            self._socket.shutdown(socket.SHUT_RDWR)
            raise ConnectionError
        return data

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN:
            self.send(CNXN, VERSION, MAX_DATA, BANNER)
        elif command == OPEN:
            service = data.rstrip(b"\0").decode()
            kind, _, line = service.partition(":")
            if not kind.startswith("shell,v2"):
                self.send(CLSE, 0, first)
                return
            shell = _Shell(self, len(self._shells) + 1, first, line)
            self._shells[shell.number] = shell
            self.send(OKAY, shell.number, first)
            shell.start()
        elif command == WRTE and second in self._shells:
            self._shells[second].take(data)
            self.send(OKAY, second, first)
        elif command == OKAY and second in self._shells:
            self._shells[second].allowed.release()
        elif command == CLSE and second in self._shells:
            self._shells[second].end()

    def run(self, line: str) -> "subprocess.Popen[bytes]":
        line = line.replace("/sdcard", str(self._device.sdcard))
        path = f"{self._device.tools}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "SDCARD": str(self._device.sdcard)}
        pipe = subprocess.PIPE
        return subprocess.Popen(["/bin/sh", "-c", line], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


class _Shell:
    """One shell command of the client; its packets are a byte of kind, four of length, and data."""

    def __init__(self, connection: _Connection, number: int, peer: int, line: str):
        self._connection, self.number, self._peer = connection, number, peer
        self._process = connection.run(line)
        self._pending = b""
        self.allowed = threading.Semaphore(0)
        self._order = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def take(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._pending += data
        while len(self._pending) >= 5:
            kind, length = struct.unpack("<BI", self._pending[:5])
            if len(self._pending) < 5 + length:
                return
            content, self._pending = self._pending[5 : 5 + length], self._pending[5 + length :]
            try:
                if kind == STDIN:
                    self._process.stdin.write(content)
                    self._process.stdin.flush()
                elif kind == CLOSE_STDIN:
                    self._process.stdin.close()
            except (BrokenPipeError, ValueError):
                pass

    def end(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self.allowed.release()

    def _watch(self) -> None:
        outputs = [threading.Thread(target=self._copy, args=pair, daemon=True)
                   for pair in ((STDOUT, self._process.stdout), (STDERR, self._process.stderr))]  # fmt: skip
        for thread in outputs:
            thread.start()
        for thread in outputs:
            thread.join()
        try:
            self._packet(EXIT, bytes([self._process.wait() & 0xFF]))
            self._connection.send(CLSE, self.number, self._peer)
        except OSError:
            pass

    def _copy(self, kind: int, stream) -> None:
        try:
            while block := stream.read1(64 << 10):
                self._packet(kind, block)
        except OSError:
            pass

    def _packet(self, kind: int, content: bytes) -> None:
        with self._order:
            self._connection.send(WRTE, self.number, self._peer, struct.pack("<BI", kind, len(content)) + content)
            self.allowed.acquire(timeout=10)
