"""OpenSSH's client as a `Link`: the keys, hosts and proxies that the user's own ssh knows."""

import os
import shlex
import subprocess
import tempfile
from typing import IO

from himix_edge.errors import InputError
from himix_edge.runtimes.devices.link import LinkLost, Result, call, feed

EXPLAINED = {
    "could not resolve hostname": "there is no such host; check the name",
    "connection refused": "nothing answers at that port; is sshd running there?",
    "permission denied": "it refused your key; put it there with ssh-copy-id",
    "host key verification failed": "its host key is not known here, or changed; connect once by hand: ssh HOST",
    "no route to host": "it cannot be reached; is it on, and on this network?",
    "timed out": "it does not answer; is it on, and on this network?",
}


class SshLink:
    """See `Link`. One connection is kept and shared; $HIMIX_SSH names the command to use in place of `ssh`."""

    def __init__(self, host: str, port: int | None):
        self.name = host
        self._scratch = tempfile.TemporaryDirectory(prefix="himix-ssh-")
        options = {
            "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3",
            "ControlMaster": "auto", "ControlPersist": "60", "ControlPath": f"{self._scratch.name}/%C",
        }  # fmt: skip
        self._ssh = shlex.split(os.environ.get("HIMIX_SSH", "ssh"))
        for name, value in options.items():
            self._ssh += ["-o", f"{name}={value}"]
        self._ssh += (["-p", str(port)] if port else []) + ["--", host]

    def run(self, command: str, timeout: float = 60) -> Result:
        result = call([*self._ssh, command], timeout)
        if result.code == 255:
            raise self._failure(result.errors)
        return result

    def send(self, command: str, source: IO[bytes]) -> None:
        result = feed([*self._ssh, command], source)
        if result.code == 255 or result.code < 0:
            raise self._failure(result.errors)
        if result.code:
            raise InputError(f"{self.name}: {(result.errors.strip() or 'cannot write there').splitlines()[-1]}")

    def close(self) -> None:
        """End the shared connection."""
        command = [*self._ssh[:-2], "-O", "exit", *self._ssh[-2:]]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        self._scratch.cleanup()

    def _failure(self, errors: str) -> InputError:
        lines = [line for line in errors.strip().splitlines() if line.strip()]
        said = lines[-1].strip() if lines else "the connection ended"
        for pattern, advice in EXPLAINED.items():
            if pattern in errors.lower():
                kind = LinkLost if pattern in ("timed out", "no route to host", "connection refused") else InputError
                return kind(f"{self.name}: {advice} ({said})")
        return LinkLost(f"{self.name}: the link was lost ({said})")
