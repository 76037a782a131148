"""What the two builds of the Android app, with and without Gradle, have to agree on."""

import re
import runpy
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "android_demo"
GRADLE = (DEMO / "app" / "build.gradle.kts").read_text()


@pytest.fixture
def apk(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(str(DEMO))
    for name in ("packages", "bionic"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return runpy.run_path(str(DEMO / "build_apk.py"))


def test_both_builds_are_for_the_same_androids(apk: dict[str, object]) -> None:
    assert f"minSdk = {apk['MIN_SDK']}\n" in GRADLE
    assert f"targetSdk = {apk['TARGET_SDK']}\n" in GRADLE
    assert f"compileSdk = {apk['TARGET_SDK']}\n" in GRADLE
    assert f'namespace = "{apk["PACKAGE"]}"\n' in GRADLE
    abis = apk["ABIS"]
    assert isinstance(abis, dict)
    assert set(re.findall(r'"([\w-]+)"', GRADLE.split("abiFilters")[1].split("\n")[0])) == set(abis)


def test_both_builds_state_the_projects_version(apk: dict[str, object]) -> None:
    version = apk["version"]
    assert callable(version)
    assert f'versionName = "{version()}"\n' in GRADLE


def test_both_builds_compile_every_c_file_and_take_one_onnx_runtime() -> None:
    folder = DEMO / "core" / "src" / "main" / "c"
    listed = re.search(r"add_library\(himix_onnx SHARED (.+)\)", (folder / "CMakeLists.txt").read_text())
    assert listed
    assert sorted(listed[1].split()) == sorted(path.name for path in folder.glob("*.c"))
    assert "build/android/packages/onnxruntime" in GRADLE
    assert "com.microsoft.onnxruntime" not in GRADLE


def test_executorchs_library_is_of_the_exporters_version() -> None:
    properties = (DEMO / "gradle.properties").read_text()
    constraints = (DEMO.parent / "constraints.txt").read_text()
    pinned = re.search(r"^executorch==([\d.]+)$", constraints, re.MULTILINE)
    assert pinned
    assert f"\nexecutorch={pinned[1]}\n" in properties
