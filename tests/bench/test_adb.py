"""Benchmarks in the Android app: how it is started, watched and believed. A stand-in takes the phone's place."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from himix_edge.bench.devices import adb_app, open_device, phone, phone_power
from himix_edge.bench.plan import Plan
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.presets import SHIPPED
from tests.bench.phone import APP, Phone

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
QUICK = Plan(warm_up=1, timed=5, new_tokens=4, threads=2, loads=1)


@pytest.fixture
def android(tmp_path, monkeypatch) -> Phone:
    phone = Phone(tmp_path)
    monkeypatch.setenv("HIMIX_ADB", phone.adb())
    monkeypatch.setattr(adb_app, "POLL_S", 0.05)
    return phone


def measure(bundle, plan=QUICK, dataset=PROBE):
    with open_device("adb") as device:
        return device.measure(bundle, plan, dataset, "himix bench", lambda *at: None)


@pytest.mark.parametrize("toybox", [False, True] if shutil.which("toybox") else [False])
def test_a_run_longer_than_two_looks_is_not_called_dead(toybox, tmp_path, tiny_bundle, monkeypatch):
    """Also with the real toybox, where it is installed."""
    android = Phone(tmp_path, toybox)
    monkeypatch.setenv("HIMIX_ADB", android.adb())
    monkeypatch.setattr(adb_app, "POLL_S", 0.05)
    android.set(run_s="1")
    assert measure(tiny_bundle).samples.ttft == [12.5] * 5
    android.set(writes="nothing", run_s="0.1")
    with pytest.raises(InputError, match="ended without a record"):
        measure(tiny_bundle)


def test_every_setting_reaches_the_app(android, tiny_bundle):
    record = measure(tiny_bundle, Plan(warm_up=2, timed=6, new_tokens=7, natural=True, threads=3, loads=3))
    started = [line for line in android.log if line.startswith("start")]
    assert [("prepare" in line, "load_only" in line) for line in started] == [
        (True, False), (False, True), (False, True), (False, False)
    ]  # fmt: skip
    for line in started[1:]:
        assert "--ei warm_up 2 --ei timed 6 --ei new_tokens 7 --ez natural true --ei threads 3" in line
    assert android.log.count(f"force-stop {APP}") == 5  # each start has a fresh process, and none is left
    # three times opened, of files that the shell cannot make Android forget
    assert (record.samples.load, record.samples.load_warm) == ([], [7.5, 7.5, 9.0])
    assert record.settings.new_tokens == 7
    assert not record.settings.ignore_stop


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--image", "warm"], "--image"),
        (["--images", "2", "--prompt-tokens", "9"], "--images, --prompt-tokens"),
        (["--questions-per-image", "2"], "--questions-per-image"),
        (["--image", "warm", "--depth", "3"], "--image, --depth"),
        (["--provider", "cpu"], "--provider"),
    ],
)
def test_what_the_app_cannot_do_is_refused_by_name(android, tiny_bundle, options, named):
    failure = CliRunner().invoke(himix, ["bench", str(tiny_bundle), "--device", "adb", *options]).exception
    assert f"leave out {named}" in str(failure)
    assert not (android.tools / "log").exists()


def test_other_questions_than_the_app_s_are_refused(android, tiny_bundle, tmp_path):
    shutil.copytree(SHIPPED / "probe", tmp_path / "mine")
    with pytest.raises(InputError, match="leave out --questions"):
        measure(tiny_bundle, dataset=load_dataset(str(tmp_path / "mine" / "probe.json")))


@pytest.mark.parametrize("changes", ['{"new_tokens": 64}', '{"ignore_stop": false}', '{"threads": 4}', '{"timed": 4}'])
def test_a_record_of_other_settings_is_not_taken(android, tiny_bundle, changes):
    android.set(changes=changes)
    with pytest.raises(InputError, match=r"other settings \(\w+\) than was asked; it is another version"):
        measure(tiny_bundle)


def test_a_phone_that_sleeps_is_woken(android, tiny_bundle):
    android.set(wakefulness="Dozing", showing="true")
    assert measure(tiny_bundle).verdict == "valid"
    assert (android.tools / "state" / "wakefulness").read_text() == "Awake\n"


@pytest.mark.parametrize("state", [{"showing": "true", "secure": "yes"}, {"wakefulness": "Asleep"}])
def test_a_screen_that_stays_locked_or_off_is_refused(android, tiny_bundle, state):
    android.set(**state)
    (android.tools / "input").write_text("#!/bin/sh\n")
    with pytest.raises(InputError, match=f"its screen is {'locked' if 'secure' in state else 'off'}, and .* unlock it"):
        measure(tiny_bundle)
    assert not (android.tools / "log").exists()


def test_an_app_that_is_no_longer_shown_is_refused(android, tiny_bundle, monkeypatch):
    monkeypatch.setattr(adb_app, "LOOK_AT_SCREEN", 2)
    android.set(run_s="9", front="com.example.launcher")
    with pytest.raises(InputError, match="no longer shown, and Android freezes what is not"):
        measure(tiny_bundle)
    assert android.log[-1] == f"force-stop {APP}"  # nothing of it goes on


def test_files_lie_where_shell_and_app_may_read(android, tiny_bundle, monkeypatch):
    """The stand-in's shell makes files that only it may read, as older Androids' does."""
    seen = {}
    pull = adb_app.AppBench._pull

    def look(self):
        files = [path for path in android.media.rglob("*") if path.is_file() and "bundles" in path.parts]
        seen.update({path.name: path.stat().st_mode & 0o777 for path in files})
        return pull(self)

    monkeypatch.setattr(adb_app.AppBench, "_pull", look)
    measure(tiny_bundle)
    assert "manifest.json" in seen
    assert {mode & 0o444 for mode in seen.values()} == {0o444}
    assert [path for path in android.sdcard.rglob("*") if path.is_file() and path.suffix != ".new"] == []
    assert "--ez prepare true" in android.log[1]  # the app made the folder, before anything was sent


def test_an_app_that_makes_no_folder_is_one_line(android, tiny_bundle, monkeypatch):
    monkeypatch.setattr(adb_app, "FOLDER_S", 0.1)
    android.set(makes_folder="no")
    with pytest.raises(InputError, match=f"makes no /sdcard/Android/media/{APP}; start it once by hand"):
        measure(tiny_bundle)


def test_a_phone_that_does_not_cool_down_marks_the_record(android, tiny_bundle, monkeypatch):
    monkeypatch.setattr(adb_app, "COOLING_S", 0.1)
    monkeypatch.setattr(adb_app, "COOLING_POLL_S", 0.05)
    gated = Plan(**{**vars(QUICK), "max_temperature": 30.0})
    record = measure(tiny_bundle, gated)
    assert record.verdict == "semi-valid"
    assert record.reasons == [
        "the battery did not cool down to 30 C within 0 minutes (it has 31 C): not comparable with a cool run"
    ]
    android.set(temperature="unknown")
    assert "does not tell its battery's" in measure(tiny_bundle, gated).reasons[0]
    android.set(temperature="299", thermal="3")
    assert measure(tiny_bundle, gated).reasons == [
        "the phone throttled itself before the run began (thermal state: severe)"
    ]
    android.set(thermal="1")
    assert measure(tiny_bundle, gated).verdict == "valid"


@pytest.mark.parametrize(
    ("policy", "trust", "locked"),
    [
        ("  showing=true\n", "", True),
        ("  showingAndNotOccluded=true\n  showing=false\n", "", False),
        ("", ' User "Owner" (id=0) (current): deviceLocked=1\n', True),
        ("    mIsShowing=false\n", ' User "W" (id=10): deviceLocked=1\n User "O" (current): deviceLocked=0\n', False),
        ("", "", None),
        ("\x1b[31m" * 10_000, "(current)" * 10_000, None),
    ],
)
def test_the_lock_as_androids_tell_it(policy, trust, locked):
    assert phone.screen("  mWakefulness=Awake\n", policy, trust) == phone.Screen(True, locked)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"  topResumedActivity=ActivityRecord{{b2 u0 {APP}/.BenchActivity t12}}", True),
        (f"    mResumedActivity: ActivityRecord{{b2 u0 {APP}/.BenchActivity t12}}", True),
        (f"  ResumedActivity: ActivityRecord{{b2 u0 com.example.{APP}/.Main t9}}", False),
        ("", None),
    ],
)
def test_what_is_in_front(said, shown):
    assert phone.in_front(said, APP) is shown


def test_odd_words_of_a_phone_say_nothing():
    """What a device says may be made to be slow to read."""
    hostile = "  User " + "(current) " * 30_000 + "ActivityRecord{ " * 30_000 + "level: 9999999999\n" * 1000
    assert phone.screen(hostile, hostile, hostile) == phone.Screen(None, None)
    assert phone.in_front(hostile, APP) is None
    assert phone.battery(hostile) == {}
    assert phone.plugged_in(hostile) is None
    assert phone.thermal_state("Thermal Status: 99") is None


def test_a_sustained_run_tells_energy_by_android_s_counters(android, tiny_bundle):
    long = Plan(**{**vars(QUICK), "sustained_s": 600.0})
    record = measure(tiny_bundle, long)
    assert "--ei sustained_s 600" in android.log[-2]
    assert record.schema_version == 2
    assert record.unplugged is True
    rail, app = record.energy
    assert (rail.source, rail.what, rail.joules) == ("odpm", "[VSYS_PWR_CPU_BIG]:S2M", 4.0)
    assert app.joules == pytest.approx(2.5 * 3.6 * 4.0)  # mAh at 4 V
    assert rail.tokens == app.tokens == 2 * 6 * 4
    android.set(powered="true")
    record = measure(tiny_bundle, long)
    assert record.unplugged is False
    assert record.energy[1].joules is None
    assert "nothing charges the phone (use adb over Wi-Fi)" in record.energy[1].reason


def test_an_older_android_s_share_of_memory_is_asked_of_the_shell(android, tiny_bundle, monkeypatch):
    monkeypatch.setattr(adb_app, "LOOK_AT_SCREEN", 1)
    monkeypatch.setattr(adb_app, "OWN_SHARE", "/nowhere")
    memory = measure(tiny_bundle).memory
    assert (memory.pss_bytes, memory.pss_source) == (2048 * 1024, "dumpsys meminfo")


@pytest.mark.parametrize(
    ("said", "rails"),
    [("", {}), ("energy meter\nA 1.5 mWs\n\n B\t2 mWs\nC x mWs\n== End of\nD 3 mWs", {"A": 1.5, "B": 2.0})],
)
def test_rails(said, rails):
    assert phone_power.odpm_rails(said) == rails


RUNNER = """#!{python} -IS
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert os.path.getsize(given["--pixels"]) == 32 * 32 * 3 and os.path.exists(given["--model"])
many = int(given["--max-new-tokens"])
for run in range(int(given["--runs"])):
    print(json.dumps(dict(load=1.0, vision_encoder=2.0, vision_injector=3.0, start=0.5, prefill=4.0, vision_tokens=16,
        inter_token=[1.0] * (many - 1), token_ids=[int(given["--prompt"].split(",")[0])] * many, peak_rss=1000)))
"""


def test_an_executorch_bundle_runs_from_the_shell_without_the_app(android, tiny_bundle, tmp_path, monkeypatch):
    """A scripted runner: what is sent, where, and that nothing stays."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"target": "executorch"}
    for records in manifest["roles"].values():  # by their names ExecuTorch's; nothing here opens them
        for record in records:
            renamed = str(Path(record["path"]).with_suffix(".pte"))
            (folder / record["path"]).rename(folder / renamed)
            record["path"] = renamed
    (folder / "manifest.json").write_text(json.dumps(manifest))
    runner = tmp_path / "himix_executorch"
    monkeypatch.setenv("HIMIX_BOARD_EXECUTORCH", str(runner))
    android.set(installed="no")
    plan = Plan(warm_up=1, timed=5, new_tokens=3)
    with pytest.raises(InputError, match=r"no .*himix_executorch there"):
        measure(folder, plan)
    runner.write_text(RUNNER.format(python=sys.executable))
    runner.chmod(0o755)
    record = measure(folder, plan)
    assert record.samples.ttft == [9.5] * 5
    assert record.samples.inter_token == [1.0] * 10
    assert {answer.equal_runs - answer.runs for answer in record.answers} == {0}
    assert list(android.shell.iterdir()) == []
    with pytest.raises(InputError, match="only --iterations, --warm-up, --threads"):
        measure(folder, Plan(sustained_s=600.0))
