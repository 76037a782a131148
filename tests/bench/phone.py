"""A stand-in for an Android phone's shell: /sdcard is a folder here, and what Android adds to a shell are scripts.

It is no phone. `pidof` matches as toybox's does: the whole last part of the process's own name. The app is a process of
that name, which writes its record after a while. Files in `state` say what the phone is like; tests write them.
"""

import json
import os
import shutil
import sys
from pathlib import Path

APP = "dev.himix.edge.demo"
MEDIA = f"Android/media/{APP}"
STATE = {
    "wakefulness": "Awake", "showing": "false", "secure": "no", "front": APP, "temperature": "312", "thermal": "0",
    "installed": "yes", "makes_folder": "yes", "run_s": "0.4", "writes": "record", "changes": "{}", "powered": "false",
    "rail_mws": "1000", "app_mah": "10.0",
}  # fmt: skip

PIDOF = """
import os, sys
wanted = os.path.basename(sys.argv[1])
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/cmdline").read().partition(chr(0))[0]
    except OSError:
        continue
    if name and os.path.basename(name) == wanted:
        found.append(pid)
print(*found)
sys.exit(not found)
"""

AM = f"""
import hashlib, json, os, signal, subprocess, sys
here = os.path.dirname(os.path.realpath(sys.argv[0]))
state = lambda name: open(os.path.join(here, "state", name)).read()
home = os.path.join(os.environ["SDCARD"], "{MEDIA}")
open(os.path.join(here, "log"), "a").write(" ".join(sys.argv[1:]) + chr(10))
pid = os.path.join(here, "pid")
if sys.argv[1] == "force-stop":
    if os.path.exists(pid):
        try:
            os.killpg(int(open(pid).read()), signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.remove(pid)
    sys.exit()
words = sys.argv[2:]
extras = {{words[i + 1]: words[i + 2] for i, word in enumerate(words) if word in ("--es", "--ei", "--ez")}}
if "prepare" in extras:
    if state("makes_folder") == "yes":
        os.makedirs(home)
    sys.exit()
out = os.path.join(home, extras["out"])
if "load_only" in extras:
    content = {{"load": 7.5}}
else:
    manifest = open(os.path.join(home, "bundles", extras["bundle"], "manifest.json"), "rb").read()
    content = json.load(open(os.path.join(here, "record.json")))
    content["bundle"]["manifest_sha256"] = hashlib.sha256(manifest).hexdigest()
    content["settings"] |= {{"warm_up": int(extras["warm_up"]), "timed": int(extras["timed"]),
        "new_tokens": int(extras["new_tokens"]), "ignore_stop": extras["natural"] == "false",
        "sustained_s": int(extras["sustained_s"]) if "sustained_s" in extras else None,
        "threads": int(extras.get("threads", 4))}} | json.loads(state("changes"))
    content["samples"]["ttft"] = [12.5] * int(extras["timed"])
writes = {{"record": "mv {{0}}.new {{0}}", "error": "echo tiny: no such bundle > {{0}}.error", "nothing": "true"}}
open(out + ".new", "w").write(json.dumps(content))
line = "sleep " + state("run_s") + "; " + writes[state("writes")].format(out)
done = subprocess.Popen(["{APP}:bench", "-c", line], executable="/bin/sh", start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
open(pid, "w").write(str(done.pid))
"""

DUMPSYS = """
case "$*" in
power) echo "POWER MANAGER"; echo "  mWakefulness=$(cat $S/wakefulness)"; echo "  mWakefulnessChanging=false";;
"window policy") printf '  KeyguardServiceDelegate\\n    showing=%s\\n' $(cat $S/showing);;
trust) echo ' User "Work" (id=10, flags=0x30): trusted=0, deviceLocked=1'
    locked=0; [ "$(cat $S/secure) $(cat $S/showing)" = "yes true" ] && locked=1
    echo " User \\"Owner\\" (id=0, flags=0x4c13) (current): trusted=0, trustManaged=0, deviceLocked=$locked";;
"activity activities") echo "  topResumedActivity=ActivityRecord{b2c3 u0 $(cat $S/front)/.BenchActivity t12}";;
battery) printf '  AC powered: false\\n  USB powered: %s\\n  level: 81\\n  voltage: 4000\\n  temperature: %s\\n' \
    $(cat $S/powered) $(cat $S/temperature);;
android.hardware.power.stats*) echo "============= PowerStats HAL 2.0 energy meter =============="
    echo "   Channel   Cumulative Energy"; echo "  [VSYS_PWR_CPU_BIG]:S2M  $(cat $S/rail_mws).00 mWs"
    echo "========== End of PowerStats HAL 2.0 energy meter =========="; echo "  [later]:  9.00 mWs"
    echo 5000 > $S/rail_mws;;
"batterystats --charged") echo "    UID u0a231: $(cat $S/app_mah) ( cpu=0.5 )"; echo 12.5 > $S/app_mah;;
meminfo*) printf '   Unknown:  12\n  TOTAL PSS:   2048            TOTAL RSS:   9999\n';;
thermalservice) printf 'IsStatusOverride: false\\nThermal Status: %s\\n' $(cat $S/thermal);;
esac
"""

RECORD = {
    "schema_version": 1, "started": "2026-01-31T12:00:00Z", "command": "am start", "harness": "scripted",
    "device": {"name": "Scripted", "kind": "phone"}, "settings": {"mode": "cold-image", "vision_tokens": 16},
    "bundle": {"name": "tiny", "target": "onnx", "precision": "int8"}, "verdict": "valid",
    "samples": {"load": [9.0]},
}  # fmt: skip

PYTHON = f"#!{os.path.realpath(sys.executable)} -IS\n"
SHELL = "#!/bin/sh\nS=$(dirname $(readlink -f $0))/state\n"
SCRIPTS = {
    "pidof": PYTHON + PIDOF,
    "am": PYTHON + AM,
    "dumpsys": SHELL + DUMPSYS,
    "pm": SHELL
    + f"""
[ "$1" = list ] && echo package:{APP} uid:10231 && exit
[ "$(cat $S/installed)" = yes ] && echo package:/data/app/{APP}/base.apk""",
    "getprop": SHELL + 'case "$1" in *model) echo Scripted;; *release) echo 14;; *abi) echo arm64;; *) echo;; esac',
    "input": SHELL + '[ "$*" = "keyevent KEYCODE_WAKEUP" ] && echo Awake > $S/wakefulness',
    "wm": SHELL + '[ "$*" = dismiss-keyguard ] && [ "$(cat $S/secure)" = no ] && echo false > $S/showing',
}


class Phone:
    """`sdcard` is /sdcard, `shell` /data/local/tmp, `tools` comes first on its PATH; `log` has what `am` was told."""

    def __init__(self, folder: Path, toybox: bool = False):
        self.sdcard, self.shell, self.tools = folder / "sdcard", folder / "shell", folder / "tools"
        (self.tools / "state").mkdir(parents=True)
        self.sdcard.mkdir()
        self.shell.mkdir()
        for name, text in SCRIPTS.items():
            (self.tools / name).write_text(text + "\n")
            (self.tools / name).chmod(0o755)
        if toybox:
            (self.tools / "pidof").unlink()
            (self.tools / "pidof").symlink_to(str(shutil.which("toybox")))
        (self.tools / "record.json").write_text(json.dumps(RECORD))
        self.set(**STATE)

    def set(self, **state: str) -> None:
        for name, value in state.items():
            (self.tools / "state" / name).write_text(value)

    @property
    def media(self) -> Path:
        return self.sdcard / MEDIA

    @property
    def log(self) -> list[str]:
        return (self.tools / "log").read_text().splitlines()

    def adb(self) -> str:
        """A stand-in for the adb client, for HIMIX_ADB."""
        client = self.tools / "adb-client"
        client.write_text(
            f"#!{sys.executable}\nimport os, subprocess, sys\nos.umask(0o077)\n"
            f"line = sys.argv[-1].replace('/sdcard', {str(self.sdcard)!r})\n"
            f"line = line.replace('/data/local/tmp', {str(self.shell)!r})\n"
            f"path = {str(self.tools)!r} + ':' + os.environ['PATH']\n"
            f"environment = dict(os.environ, PATH=path, SDCARD={str(self.sdcard)!r})\n"
            "sys.exit(subprocess.call(['sh', '-c', line], env=environment))\n"
        )
        client.chmod(0o755)
        return str(client)
