"""The demo app on a phone: a bundle is pushed where the app may read, the app measures it, its record is read back."""

import contextlib
import shlex
import time
from pathlib import Path

from himix_edge.bench.devices import phone_power
from himix_edge.bench.devices.link import Link, LinkLost
from himix_edge.bench.devices.phone import THERMAL, battery, in_front, plugged_in, require_screen, thermal_state
from himix_edge.bench.devices.pushing import push, quoted, refuse_tiles
from himix_edge.bench.outcome import BoardLoad
from himix_edge.bench.plan import Plan
from himix_edge.bench.record import SCHEMA_VERSION, Energy, Record, as_records
from himix_edge.bench.running import Progress
from himix_edge.bundle import MANIFEST, all_files, read_manifest
from himix_edge.data import Dataset
from himix_edge.errors import InputError, last_line, one_line
from himix_edge.files import sha256
from himix_edge.presets import SHIPPED
from himix_edge.reading import parse_json, validated
from himix_edge.runtimes.registry import all_runtimes
from himix_edge.runtimes.verifying import open_verified

APP = "dev.himix.edge.demo"
PROCESS = f"{APP}:bench"  # the benchmark's own, as the app's manifest names it
ACTIVITY = f"{APP}/.BenchActivity"
FOLDER = f"/sdcard/Android/media/{APP}"  # where, from Android 11 on, both the shell and the app may read and write
OUT = "himix-bench.json"
PREFIX = "himix-bench-"  # of our bundles' folders there
QUESTIONS = SHIPPED / "probe" / "probe.json"  # that the app ships with
SILENCE_S = 90.0
PATIENCE_S = 3600.0
POLL_S = 3.0
LOOK_AT_SCREEN = 10  # polls: what dumpsys asks costs the phone some time
FOLDER_S = 20.0
COOLING_S = 300.0
COOLING_POLL_S = 10.0
OWN_SHARE = "/proc/self/smaps_rollup"  # of memory, that an app reads itself where the kernel has it
OBEYED = ("timed", "warm_up", "threads", "new_tokens", "natural", "loads", "max_temperature", "sustained_s")
OPTIONS = {
    "mode": "--image", "images": "--images", "questions_per_image": "--questions-per-image", "depth": "--depth",
    "prompt_tokens": "--prompt-tokens", "vision_tokens": "--sweep-vision-tokens", "provider": "--provider",
    "cores": "--cores",
}  # fmt: skip


class AppBench:
    """Measures in the app, and leaves the phone as it was."""

    def __init__(self, link: Link):
        self.link = link
        self._brought: list[str] = []

    def measure(self, folder: Path, plan: Plan, dataset: Dataset, command: str, progress: Progress) -> Record:
        """The app asks the questions that it ships with, which are the default ones here.

        The bundle goes into a folder of a name of ours, so that one that the user has put there stays as it is.

        Raises:
            InputError: what the app cannot do, no app there, a screen that is off or locked, an app that fails.
            LinkLost: the phone is out of reach.
        """
        self._check(plan, dataset)
        targets = [runtime.name for runtime in all_runtimes() if runtime.app]
        if (target := read_manifest(folder).target) not in targets:
            raise InputError(
                f"{folder}: the app runs {' and '.join(targets)} bundles, not {one_line(target)}; "
                f"export it with --target {targets[0]}"
            )
        refuse_tiles(folder)
        bundle = open_verified(folder)
        name = f"{PREFIX}{sha256(folder / MANIFEST)[:16]}"
        if not app_installed(self.link):
            raise InputError(f"{self.link.name}: the demo app is not installed; make apk, then adb install the .apk")
        require_screen(self.link)
        self._make_folder()
        there = f"{FOLDER}/bundles/{name}"
        files = {record.path: folder / record.path for record in all_files(bundle.manifest)}
        if there not in self._brought:
            self._brought.append(there)
        push(self.link, files | {MANIFEST: folder / MANIFEST}, there, lambda done, of: progress("sending", done, of))
        self.link.run(f"chmod -R a+rX {quoted(there)}")  # on older Androids the shell's files are its own
        doubts = self._cool_down(plan.max_temperature, progress)
        require_screen(self.link)
        doubts += self._throttling()
        loads = [self._load(name, plan, progress) for _ in range(plan.loads - 1)]
        before = phone_power.look(self.link, APP) if plan.sustained_s else None
        self._start(_extras(name, plan))
        share = self._wait(progress, PATIENCE_S + (plan.sustained_s or 0))
        record = self._finished(self._pull(), folder, plan, loads, doubts, command)
        return self._with_shell_s_facts(record, before, share)

    def close(self) -> None:
        with contextlib.suppress(InputError):  # out of reach: the parts that arrived stay for the next time
            for there in list(self._brought):
                if not self.link.run(f"find {quoted(there)} -name '*.part'").output.strip():
                    self._remove(there)

    def _check(self, plan: Plan, dataset: Dataset) -> None:
        usual = Plan(**{name: getattr(plan, name) for name in OBEYED})
        refused = [option for name, option in OPTIONS.items() if getattr(plan, name) != getattr(usual, name)]
        if Path(dataset.source) != QUESTIONS:
            refused.append("--questions")
        if refused:
            raise InputError(
                f"{self.link.name}: the app asks its own questions, one to an image, which is encoded each time; "
                f"leave out {', '.join(refused)}"
            )
        assert plan == usual  # a new setting is either obeyed or refused by name

    def _make_folder(self) -> None:
        """The app makes its folder when it runs; one that the shell made would not be the app's."""
        ours = quoted(FOLDER)
        if not self.link.run(f"[ -d {ours} ]").code:
            return
        self._start("--ez prepare true")
        until = time.monotonic() + FOLDER_S
        while self.link.run(f"[ -d {ours} ]").code:
            if time.monotonic() > until:
                raise InputError(
                    f"{self.link.name}: the app makes no {FOLDER}; start it once by hand, and install the newest .apk"
                )
            time.sleep(min(1.0, POLL_S))

    def _cool_down(self, limit: float | None, progress: Progress) -> list[str]:
        """Wait until the battery is below the limit; after five minutes, why the times may not be comparable."""
        if limit is None:
            return []
        until = time.monotonic() + COOLING_S
        while True:
            now = battery(self.link.run("dumpsys battery").output).get("battery_temperature_c")
            if now is None:
                return ["the temperature gate was asked for, but the phone does not tell its battery's"]
            if now <= limit:
                return []
            if time.monotonic() > until:
                return [
                    f"the battery did not cool down to {limit:.0f} C within {COOLING_S / 60:.0f} minutes "
                    f"(it has {now:.0f} C): not comparable with a cool run"
                ]
            progress("cooling down", 0, 1)
            time.sleep(COOLING_POLL_S)

    def _throttling(self) -> list[str]:
        state = thermal_state(self.link.run("dumpsys thermalservice").output)
        hot = state in THERMAL[2:]
        return [f"the phone throttled itself before the run began (thermal state: {state})"] if hot else []

    def _load(self, name: str, plan: Plan, progress: Progress) -> float:
        """Milliseconds of opening the bundle in a process that does only that."""
        self._start(f"{_extras(name, plan)} --ez load_only true")
        self._wait(progress, PATIENCE_S)
        where = f"{self.link.name}: the app's time of opening"
        return validated(BoardLoad, parse_json(self.link.run(f"cat {quoted(FOLDER, OUT)}").output, where), where).load

    def _start(self, extras: str) -> None:
        """In a fresh process: one that still runs is stopped first."""
        out = quoted(FOLDER, OUT)
        started = self.link.run(
            f"am force-stop {APP}; rm -f {out} {out}.error; am start -n {ACTIVITY} --es out {OUT} {extras}"
        )
        said = started.output + started.errors
        if started.code or "Error" in said:
            raise InputError(f"{self.link.name}: the app did not start: {last_line(said, f'exit code {started.code}')}")

    def _wait(self, progress: Progress, patience: float) -> int | None:
        """Until the app has written its file; its share of memory meanwhile, on Androids whose apps cannot read it.

        Raises InputError if it fails, ends, or is no longer shown.
        """
        out = quoted(FOLDER, OUT)
        look = f"if [ -f {out}.error ]; then echo failed; cat {out}.error; elif [ -f {out} ]; then echo done; " \
               f"elif pidof {PROCESS} >/dev/null; then echo running; else echo gone; fi"  # fmt: skip
        ask_share = bool(self.link.run(f"[ -e {OWN_SHARE} ]").code)
        share = None
        began = heard = time.monotonic()
        gone = hidden = polls = 0
        while time.monotonic() - began < patience:
            time.sleep(POLL_S)
            try:
                said = self.link.run(look).output.strip().splitlines() or [""]
                polls += 1
                if said[0] == "running" and (hidden or polls % LOOK_AT_SCREEN == 0):
                    shown = in_front(self.link.run("dumpsys activity activities | grep ResumedActivity").output, APP)
                    hidden = hidden + 1 if shown is False else 0
                    if ask_share:
                        found = phone_power.pss_bytes(self.link.run(f"dumpsys meminfo $(pidof {PROCESS})").output)
                        share = max(share or 0, found or 0) or None
            except LinkLost:
                if time.monotonic() - heard > SILENCE_S:
                    raise
                continue
            heard = time.monotonic()
            gone = gone + 1 if said[0] == "gone" else 0
            if said[0] == "failed":
                raise InputError(f"{self.link.name}: the app says: {one_line(' '.join(said[1:])) or 'nothing'}")
            if gone > 1:
                raise InputError(
                    f"{self.link.name}: the app ended without a record (out of memory?); adb logcat -s HimixBench tells"
                )
            if hidden > 1:
                raise InputError(
                    f"{self.link.name}: the app is no longer shown, and Android freezes what is not; keep its screen "
                    "in front until the run is over"
                )
            if said[0] == "done":
                return share
            progress("measuring", int(heard - began), int(patience))
        raise InputError(f"{self.link.name}: no record after {patience / 60:.0f} minutes")

    def _pull(self) -> Record:
        where = f"{self.link.name}: the app's record"
        return as_records(parse_json(self.link.run(f"cat {quoted(FOLDER, OUT)}").output, where), where)[0]

    def _finished(
        self, record: Record, folder: Path, plan: Plan, loads: list[float], doubts: list[str], command: str
    ) -> Record:
        """The record as the harness's own: what was asked was done, how it was loaded, whether it can be trusted.

        Raises InputError for a record of another bundle, or of other settings, as an older app writes it.
        """
        settings = plan.settings(record.settings.vision_tokens or 0, None)
        names = ("timed", "warm_up", "threads", "new_tokens", "ignore_stop", "mode", "sustained_s")
        other = [name for name in names if getattr(record.settings, name) != getattr(settings, name)
                 and not (name == "threads" and plan.threads is None)]  # fmt: skip
        if other or record.bundle.manifest_sha256 != sha256(folder / MANIFEST):
            what = f"other settings ({', '.join(other)})" if other else "another bundle"
            raise InputError(
                f"{self.link.name}: the app measured {what} than was asked; it is another version: make apk, then adb "
                "install -r the .apk"
            )
        samples = record.samples
        # pushed just now, or opened before: the files are in memory, and the shell cannot make Android forget them
        samples = samples.model_copy(update={"load": [], "load_warm": [*loads, *samples.load, *samples.load_warm]})
        verdict = "semi-valid" if doubts and record.verdict == "valid" else record.verdict
        return record.model_copy(update={
            "samples": samples, "verdict": verdict, "reasons": [*record.reasons, *doubts],
            "command": f"{command}  # on the device: {record.command}",
        })  # fmt: skip

    def _with_shell_s_facts(self, record: Record, before: phone_power.Told | None, share: int | None) -> Record:
        """The record with what only a shell can tell: energy by Android's counters, whether it is unplugged, PSS."""
        plugged = plugged_in(self.link.run("dumpsys battery").output)
        changes: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "unplugged": None if plugged is None else not plugged,
        }
        if before is not None:
            after = phone_power.look(self.link, APP)
            changes["energy"] = [
                *record.energy,
                *map(Energy.model_validate, phone_power.energy(before, after, made(record))),
            ]
        if share is not None and record.memory.pss_bytes is None:
            changes["memory"] = record.memory.model_copy(update={"pss_bytes": share, "pss_source": "dumpsys meminfo"})
        return record.model_copy(update=changes)

    def _remove(self, there: str) -> None:
        out = quoted(FOLDER, OUT)
        # of runs that were killed
        old = f"find {quoted(FOLDER)}/bundles -maxdepth 1 -name '{PREFIX}*' -mtime +0 -exec rm -rf {{}} +"
        self.link.run(f"am force-stop {APP}; rm -rf {quoted(there)} {out} {out}.error; {old}")
        self._brought.remove(there)


def app_installed(link: Link) -> bool:
    """Whether the demo app is on the phone."""
    return "package:" in link.run(f"pm path {APP}").output


def made(record: Record) -> int:
    """Tokens of a whole run of the app: each iteration asks twice, and the sustained part has its own count."""
    settings = record.settings
    iterations = 2 * (settings.warm_up + settings.timed) * (settings.new_tokens or 0)
    return iterations + sum(window.tokens for window in (record.sustained.windows if record.sustained else ()))


def _extras(name: str, plan: Plan) -> str:
    """What `am start` tells the app; it obeys all of it."""
    words = ["--es", "bundle", name, "--ei", "warm_up", str(plan.warm_up), "--ei", "timed", str(plan.timed),
             "--ei", "new_tokens", str(plan.new_tokens), "--ez", "natural", str(plan.natural).lower()]  # fmt: skip
    words += ["--ei", "threads", str(plan.threads)] if plan.threads else []
    return shlex.join([*words, *(["--ei", "sustained_s", str(round(plan.sustained_s))] if plan.sustained_s else [])])
