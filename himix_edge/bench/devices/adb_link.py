"""Android's platform tool `adb` as a `Link`. $HIMIX_ADB names the command to use in its place."""

import re
from typing import IO

from himix_edge.bench.devices.link import ANSWER_S, LinkLost, Result, call, feed, tool
from himix_edge.errors import InputError, last_line, one_line

SERIAL = re.compile(r"[!-~]{1,256}")  # a number of its maker's, an address with a port, a name of mDNS
GONE = ("not found", "offline", "no devices", "closed", "disconnected", "connection reset", "broken pipe")
EXPLAINED = {
    "no devices/emulators found": "no device is connected; plug it in and turn on USB debugging",
    "more than one device": "several devices are connected; name one: --device adb:SERIAL (himix devices lists them)",
    "unauthorized": "the device has not allowed this computer; unlock it and confirm the question on its screen",
    "no permissions": "this user may not use the USB device; add a udev rule for it",
    "offline": "the device is offline; unplug it and plug it in again",
}  # fmt: skip


def adb_command() -> list[str]:
    """The client, as words. Raises InputError for a variable that names none."""
    return tool("HIMIX_ADB", "adb")


class AdbLink:
    """See `Link`. Exit codes and binary input need Android 7 or newer (adb's shell protocol 2)."""

    def __init__(self, serial: str | None):
        if serial is not None and not SERIAL.fullmatch(serial):
            raise InputError(f"--device adb:{one_line(serial)}: not a serial number as `adb devices` shows them")
        self.name = f"adb:{serial}" if serial else "adb"
        self._adb = [*adb_command(), *(["-s", serial] if serial else [])]

    def run(self, command: str, timeout: float = ANSWER_S) -> Result:
        try:
            result = call([*self._adb, "shell", "-T", command], timeout)
        except InputError as error:
            raise type(error)(f"{self.name}: {error}") from None
        self._check(result)
        return result

    def send(self, command: str, source: IO[bytes]) -> None:
        result = feed([*self._adb, "shell", "-T", command], source)
        self._check(result)
        if result.code:
            said = last_line(result.errors)  # a command there that fails says why; a cut link says nothing
            raise InputError(f"{self.name}: {said}") if said else LinkLost(f"{self.name}: the link was lost")

    def _check(self, result: Result) -> None:
        """adb's own failures look like those of the command there: exit code 1, but a line that adb wrote."""
        lines = result.errors.splitlines()
        said = one_line(next((line for line in lines if line.startswith(("error: ", "adb: "))), ""))
        lost = result.code == 255 and not result.output.strip()
        if result.code and (said or lost):
            for pattern, advice in EXPLAINED.items():
                if pattern in said:
                    kind = LinkLost if pattern in ("offline", "no devices/emulators found") else InputError
                    raise kind(f"{self.name}: {advice}")
            gone = lost or any(word in said for word in GONE)
            said = said or last_line(result.errors, "the link was lost")
            raise (LinkLost if gone else InputError)(f"{self.name}: {said}")
