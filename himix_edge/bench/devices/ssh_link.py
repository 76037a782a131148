"""OpenSSH's client as a `Link`: the keys, hosts and proxies that the user's own ssh knows."""

import contextlib
import ipaddress
import re
import secrets
import shlex
import tempfile
from typing import IO

from himix_edge.bench.devices.link import ANSWER_S, LinkLost, Result, call, feed, tool
from himix_edge.errors import InputError, last_line, one_line

CLOSING_S = 5.0
ADDRESS = re.compile(
    r"(?:(?P<user>\w[\w.+@\\$-]*)@)?"  # the last @ is the one before the host
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>\w[\w.-]*))"
    r"(?::(?P<port>[^:/]*))?/?"
)
EXPLAINED = {
    "could not resolve hostname": "there is no such host; check the name",
    "connection refused": "nothing answers at that port; is sshd running there?",
    "permission denied": "it refused your key; put it there with ssh-copy-id",
    "host key verification failed": "its host key is not known here, or changed; connect once by hand: ssh HOST",
    "no route to host": "it cannot be reached; is it on, and on this network?",
    "timed out": "it does not answer; is it on, and on this network?",
}


def parse_address(text: str) -> tuple[str, int | None]:
    """[USER@]HOST[:PORT] as ssh's destination and the port; an IPv6 HOST stands in brackets, as in any URL.

    Raises InputError for anything else.
    """

    def refused(why: str = "") -> InputError:
        return InputError(f"ssh://{one_line(text)}: {why}give ssh://user@host[:port]")

    found = ADDRESS.fullmatch(text)
    if found is None:
        raise refused()
    user, six, host, port = found["user"], found["six"], found["host"], found["port"]
    if six is not None:
        try:
            ipaddress.IPv6Address(six)
        except ValueError:
            raise refused(f"{six} is no IPv6 address; ") from None
    number = int(port) if port and re.fullmatch(r"[0-9]{1,5}", port) else None
    if port is not None and not (number and number < 1 << 16):
        raise refused("a port is a number from 1 to 65535; ")
    return f"{user}@{six or host}" if user else six or host, number


class SshLink:
    """See `Link`. One connection is kept and shared; $HIMIX_SSH names the command to use in place of `ssh`."""

    def __init__(self, host: str, port: int | None):
        self.name = host
        self._ssh = tool("HIMIX_SSH", "ssh")
        self._scratch = tempfile.TemporaryDirectory(prefix="himix-ssh-")
        options = {
            "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3",
            "ControlMaster": "auto", "ControlPersist": "60", "ControlPath": f"{self._scratch.name}/%C",
        }  # fmt: skip
        for name, value in options.items():
            self._ssh += ["-o", f"{name}={value}"]
        self._ssh += (["-p", str(port)] if port else []) + ["--", host]

    def run(self, command: str, timeout: float = ANSWER_S) -> Result:
        """What the shell there says before and after the command, a greeting for one, is not part of the result."""
        begin, end = (f"himix-{word}-{secrets.token_hex(8)}" for word in ("begin", "end"))
        script = f"printf '\\n%s\\n' {begin}; (\n{command}\n); code=$?; printf '\\n%s\\n' {end}; exit $code"
        # by sh, whatever shell the user has there
        try:
            result = call([*self._ssh, f"exec sh -c {shlex.quote(script)}"], timeout)
        except InputError as error:
            raise type(error)(f"{self.name}: {error}") from None
        _, begun, rest = result.output.partition(f"\n{begin}\n")
        output, ended, _ = rest.rpartition(f"\n{end}\n")
        if begun and ended:
            return Result(result.code, output, result.errors)
        if result.code == 255:
            raise self._failure(result.errors)
        if begun:
            raise LinkLost(f"{self.name}: the link was lost in the middle of an answer")
        said = last_line(result.output) or last_line(result.errors, f"exit code {result.code}")
        raise InputError(f"{self.name}: its shell runs no commands of ours; it says: {said}")

    def send(self, command: str, source: IO[bytes]) -> None:
        result = feed([*self._ssh, f"exec sh -c {shlex.quote(command)}"], source)
        if result.code == 255 or result.code < 0:
            raise self._failure(result.errors)
        if result.code:
            raise InputError(f"{self.name}: {last_line(result.errors, 'cannot write there')}")

    def close(self) -> None:
        """End the shared connection."""
        with contextlib.suppress(InputError):  # it is gone already, or there is no ssh
            call([*self._ssh[:-2], "-O", "exit", *self._ssh[-2:]], CLOSING_S)
        self._scratch.cleanup()

    def _failure(self, errors: str) -> InputError:
        said = last_line(errors, "the connection ended")
        for pattern, advice in EXPLAINED.items():
            if pattern in errors.lower():
                kind = LinkLost if pattern in ("timed out", "no route to host", "connection refused") else InputError
                return kind(f"{self.name}: {advice} ({said})")
        return LinkLost(f"{self.name}: the link was lost ({said})")
