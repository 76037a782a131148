"""Speed over minutes, energy, memory's share, cores: a made-up /sys, both versions of records, the report."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from himix_edge.bench.compare import case_of
from himix_edge.bench.cores import cores_of
from himix_edge.bench.devices.local import LocalDevice
from himix_edge.bench.host import device_facts
from himix_edge.bench.page import html_page
from himix_edge.bench.plan import Plan
from himix_edge.bench.power import PowerMeter, battery_watts, ina_watts, unplugged
from himix_edge.bench.probes import Probe, pss_bytes
from himix_edge.bench.record import Device, Record, read_records, write_records
from himix_edge.bench.running import measure_here
from himix_edge.bench.sustained import onset
from himix_edge.cli import himix
from himix_edge.data import load_dataset
from himix_edge.errors import InputError
from himix_edge.presets import SHIPPED

PROBE = load_dataset(str(SHIPPED / "probe" / "probe.json"))
OLD = Path(__file__).with_name("record_v1.json")
CPU = "sys/devices/system/cpu"


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def warm(speeds: list[float], **changes) -> Record:
    windows = [{"at_s": 10.0 * i, "seconds": 10.0, "answers": 2, "tokens": 64, "tokens_per_s": speed, "ttft_ms": 9.0}
               for i, speed in enumerate(speeds)]  # fmt: skip
    content = json.loads(OLD.read_text())[0] | {"schema_version": 2, "sustained": {"windows": windows}}
    return Record.model_validate(content | changes)


def test_a_stored_record_of_version_1_is_read_reported_and_compared(tmp_path):
    old = read_records(OLD)
    assert old[0].schema_version == 1
    assert (old[0].samples.ttft, old[0].energy_j, old[0].sustained) == ([8.5, 8.75], 3.5, None)
    write_records(tmp_path / "again.json", old)
    assert read_records(tmp_path / "again.json") == old
    done = CliRunner().invoke(himix, ["report", str(OLD), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert "When it is warm" not in (tmp_path / "r.html").read_text()
    assert CliRunner().invoke(himix, ["bench", "compare", str(OLD), str(OLD)]).exit_code == 0


def test_version_1_has_none_of_the_later_fields():
    assert warm([5.0]).sustained is not None
    with pytest.raises(ValidationError, match="sustained: not in schema version 1"):
        warm([5.0], schema_version=1)


@pytest.mark.parametrize(
    ("speeds", "first"),
    [
        ([100] * 20, None),
        ([100, 100, 100, 100, 89, 88, 87, 86], 4),
        ([100, 100, 100, 80, 100, 80, 80, 100, 80], None),  # never three in a row
        ([50, 100, 100, 95, 92, 91], None),  # a slow start, then within a tenth
        ([100, 100, 100, 80, 80], None),
        ([], None),
    ],
)
def test_the_onset_of_throttling(speeds, first):
    assert onset(speeds) == first


def test_the_report_draws_speed_over_time_and_where_it_falls():
    throttled = warm([100.0] * 6 + [70.0] * 12)
    energy = [
        {"source": "rapl", "what": "package-0", "joules": 64.0, "seconds": 32.0, "tokens": 128},
        {"source": "ina", "what": "", "reason": "not readable: <none>"},
    ]
    page = html_page([throttled, warm([50.0] * 18, energy=energy)])
    assert page.count("<polyline") >= 2
    assert "100 tokens/s at first, 70 at the end: slower from minute 1.1 on" in page
    assert "slower from minute 1.1 on</title></circle>" in page
    assert "50 tokens/s at first, 50 at the end: no throttling" in page
    assert "0.5 J a token" in page
    assert "rapl, package-0: 64 J, 2 W" in page
    assert "<li>ina (not readable: &lt;none&gt;)</li>" in page
    only = html_page([warm([50.0] * 18, energy=energy[1:])])
    assert "J a token" not in only
    assert "<li>ina (not readable: &lt;none&gt;)</li>" in only


def big_little(root: Path) -> Path:
    kinds = {0: (1800, 400), 1: (1800, 400), 2: (2400, 800), 3: (2900, 1024)}
    files = {f"{CPU}/cpu{n}/cpufreq/cpuinfo_max_freq": mhz * 1000 for n, (mhz, _) in kinds.items()}
    files |= {f"{CPU}/cpu{n}/cpufreq/scaling_cur_freq": 1_000_000 + n for n in kinds}
    files |= {f"{CPU}/cpu{n}/cpufreq/scaling_governor": "schedutil" for n in kinds}
    files |= {f"{CPU}/cpu{n}/cpu_capacity": capacity for n, (_, capacity) in kinds.items()}
    return tree(root, files | {f"{CPU}/cpu4/online": 0, f"{CPU}/cpufreq/x": 1, f"{CPU}/cpu\u0663/x": 1})


def test_cores_clocks_and_governors_are_those_of_the_system(tmp_path):
    root = big_little(tmp_path)
    cpus = device_facts(root)["cpus"]
    assert [cpu["number"] for cpu in cpus] == [0, 1, 2, 3]
    assert cpus[3] == {"number": 3, "max_mhz": 2900, "capacity": 1024, "governor": "schedutil"}
    Device.model_validate({"name": "d", "cpus": cpus})
    assert Probe(root).reading()["core_clocks_mhz"] == [1000.0] * 4
    assert (cores_of("little", root), cores_of("big", root)) == ([0, 1], [2, 3])
    for number in range(4):
        (root / f"{CPU}/cpu{number}/cpu_capacity").unlink()
    assert cores_of("big", root) == [2, 3]  # by their highest clocks
    for number in range(4):
        (root / f"{CPU}/cpu{number}/cpufreq/cpuinfo_max_freq").write_text("1000000")
    with pytest.raises(InputError, match="--cores big: this machine's cores are all alike"):
        cores_of("big", root)


def test_a_process_stays_on_the_cores_that_were_asked_for(tmp_path):
    mine, other = min(os.sched_getaffinity(0)), 4000
    root = tree(tmp_path, {f"{CPU}/cpu{mine}/cpu_capacity": 1024, f"{CPU}/cpu{other}/cpu_capacity": 300})
    code = (
        "import os, sys; from pathlib import Path; from himix_edge.bench.cores import bind\n"
        "print(bind(sys.argv[1], Path(sys.argv[2])), os.sched_getaffinity(0))"
    )
    done = subprocess.run([sys.executable, "-c", code, "big", root], capture_output=True, text=True, check=True)
    assert done.stdout == f"1 {{{mine}}}\n"
    failed = subprocess.run([sys.executable, "-c", code, "little", root], capture_output=True, text=True, check=False)
    assert f"--cores little: cores [{other}] are not this process's to use" in failed.stderr


def jetson(root: Path) -> Path:
    chip = "sys/class/hwmon/hwmon3"
    return tree(root, {
        f"{chip}/name": "ina3221", f"{chip}/in1_label": "VDD_IN", f"{chip}/in1_input": 5000, f"{chip}/curr1_input": 400,
        f"{chip}/in2_label": "NC", f"{chip}/in2_input": 5000, f"{chip}/curr2_input": 1, f"{chip}/in3_input": "?",
        "sys/class/hwmon/hwmon4/name": "ina226", "sys/class/hwmon/hwmon4/power1_input": 1_500_000,
        "sys/class/hwmon/hwmon5/name": "coretemp", "sys/class/hwmon/hwmon5/power1_input": 1,
    })  # fmt: skip


def test_rails_of_ina_sensors_give_watts(tmp_path):
    assert ina_watts(jetson(tmp_path)) == {"VDD_IN": 2.0, "hwmon4 channel 1": 1.5}
    assert Probe(tmp_path).reading()["power_w"] == {"VDD_IN": 2.0, "hwmon4 channel 1": 1.5}


def test_a_battery_tells_its_power_and_whether_it_is_unplugged(tmp_path):
    supply = "sys/class/power_supply"
    battery = {f"{supply}/b/type": "Battery", f"{supply}/b/current_now": -500_000, f"{supply}/b/voltage_now": 4_000_000}
    root = tree(tmp_path, battery | {f"{supply}/b/status": "Discharging", f"{supply}/a/type": "Mains",
                                     f"{supply}/mouse/type": "Battery", f"{supply}/mouse/scope": "Device",
                                     f"{supply}/mouse/power_now": 9_000_000, f"{supply}/a/online": 0})  # fmt: skip
    assert (battery_watts(root), unplugged(root)) == (2.0, True)
    (root / supply / "a/online").write_text("1")
    assert unplugged(root) is False
    assert (battery_watts(tmp_path / "none"), unplugged(tmp_path / "none")) == (None, None)


def test_energy_is_added_up_and_a_source_that_is_not_there_says_so(tmp_path):
    rapl = "sys/class/powercap/intel-rapl:0"
    root = tree(jetson(tmp_path), {f"{rapl}/energy_uj": 900_000, f"{rapl}/max_energy_range_uj": 1_000_000})
    meter = PowerMeter(root, sample_s=0.01)
    meter.start()
    while len(meter._joules) < 2:
        time.sleep(0.01)
    (root / rapl / "energy_uj").write_text("400000")
    found = {(entry["source"], entry["what"]): entry for entry in meter.stop(tokens=10)}
    assert found["rapl", "intel-rapl:0"]["joules"] == pytest.approx(0.5)  # its counter began again
    passed = meter._at - meter._began
    assert found["ina", "VDD_IN"]["joules"] == pytest.approx(2.0 * passed)
    assert found["ina", "VDD_IN"]["tokens"] == 10
    assert found["battery", ""]["reason"] == "not readable: no battery in /sys/class/power_supply that tells its power"


def test_a_battery_that_is_charged_tells_nothing_of_what_is_used(tmp_path):
    supply = "sys/class/power_supply"
    root = tree(tmp_path, {f"{supply}/b/type": "Battery", f"{supply}/b/power_now": 1, f"{supply}/b/status": "Charging"})
    meter = PowerMeter(root, sample_s=0.01)
    meter.start()
    battery = next(entry for entry in meter.stop(1) if entry["source"] == "battery")
    assert "joules" not in battery
    assert battery["reason"].startswith("plugged in")


def test_the_share_of_memory_is_the_kernel_s_sum(tmp_path):
    tree(tmp_path, {"proc/self/smaps_rollup": "5500-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 9000 kB\nPss: 1234 kB"})
    assert pss_bytes(tmp_path) == 1234 * 1024
    assert pss_bytes(tmp_path / "none") is None


def test_a_sustained_run_here(tiny_bundle, monkeypatch):
    plan = Plan(warm_up=0, timed=5, new_tokens=4, loads=1, sustained_s=0.5)
    found = measure_here(tiny_bundle, plan, PROBE, Device(name="here"), "test", lambda *at: None)
    assert found.schema_version == 2
    assert (found.settings.sustained_s, found.settings.files_dropped) == (0.5, "posix_fadvise")
    windows = found.sustained.windows
    assert sum(window.seconds for window in windows) >= 0.5
    assert all(window.tokens == 4 * window.answers and window.tokens_per_s > 0 for window in windows)
    assert len(found.samples.ttft) == 5  # the timed ones only
    assert sum(a.runs for a in found.answers) == 5 + 2 * 5 + sum(w.answers for w in windows)  # all of them compared
    assert {entry.source for entry in found.energy} == {"rapl", "ina", "battery"}
    assert all((entry.joules is None) == (entry.reason is not None) for entry in found.energy)
    assert found.memory.pss_source == "smaps_rollup"
    assert 0 < found.memory.pss_bytes <= found.memory.peak_bytes


def asked(monkeypatch, bundle, *options: str) -> list[Plan] | str:
    """The plans that a command measures, or what it refuses."""
    plans: list[Plan] = []

    def measure(self, folder, plan, *rest) -> Record:
        plans.append(plan)
        return warm([5.0])

    monkeypatch.setattr(LocalDevice, "measure", measure)
    done = CliRunner().invoke(himix, ["bench", str(bundle), *options])
    return plans if done.exit_code == 0 else done.output + str(done.exception)


def test_a_sweep_over_threads_and_a_spell_of_minutes(tiny_bundle, monkeypatch):
    plans = asked(monkeypatch, tiny_bundle, "--threads", "1,2,4", "--cores", "big", "--sustained", "10")
    assert [plan.threads for plan in plans] == [1, 2, 4]
    assert {(plan.cores, plan.sustained_s) for plan in plans} == {("big", 600.0)}
    assert [plan.threads for plan in asked(monkeypatch, tiny_bundle)] == [None]
    for bad in ("0", "1,x", "1025", "9" * 5000, "\u0663", ""):
        assert "give numbers from 1 to 1024" in asked(monkeypatch, tiny_bundle, "--threads", bad)
    for bad in ("9", "31", "nan"):
        assert isinstance(asked(monkeypatch, tiny_bundle, "--sustained", bad), str)
    named = dataclasses.replace(Plan(), threads=2, cores="big").settings(16, "cpu")
    assert case_of(warm([5.0], settings=named)).endswith("threads=2 cores=big")
