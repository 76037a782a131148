"""Builds the core for the desktop's Java, with the same JNI source as on a phone, and runs its tests on a real bundle
against what the Python session computes. Closes with "N passed, N failed"."""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bionic
import half_cache
from packages import BUILD, ROOT, apt_packages, apt_tools, onnxruntime, run

CORE, APP = Path(__file__).parent / "core" / "src", Path(__file__).parent / "app" / "src"
JARS = [Path("/usr/share/java/junit4.jar"), Path("/usr/share/java/hamcrest-core.jar")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "nano-onnx-int8")
    parser.add_argument(
        "--apk", type=Path,
        help="Test the code inside this APK, translated back from its dex, on the x86-64 libraries inside it, and its "
        "screens on stand-ins for Android's classes.",
    )  # fmt: skip
    parser.add_argument(
        "--executorch", type=Path,
        help="Also the ExecuTorch kind of the app on this bundle, with ExecuTorch's Python runtime behind stand-ins "
        "for its library for Android.",
    )  # fmt: skip
    options = parser.parse_args()
    bundle = options.bundle.resolve()
    apt_tools(javac="openjdk-17-jdk-headless", gcc="gcc")
    if not all(jar.exists() for jar in JARS):
        apt_packages("junit4")
    runtime = onnxruntime()
    out = BUILD / "jvm"
    shutil.rmtree(out, ignore_errors=True)
    library = compile_jni(runtime, out)
    folders = [out, runtime / "linux"]
    jars = ":".join(str(jar) for jar in JARS)
    classes = out / "classes"
    compile_java(CORE / "main", classes, "--release", "8", "-Xlint:-options")
    compile_java(CORE / "test", out / "tests", "--release", "17", "-cp", f"{jars}:{classes}")
    further = []
    bundles = [bundle]
    if options.executorch:
        bundles.append(options.executorch.resolve())
        for source in ("executorchDesktop", "executorch"):
            compile_java(
                APP / source, out / "tests", "--release", "17", "-cp", f"{jars}:{classes}:{out / 'tests'}",
                "-sourcepath", str(APP / "executorch" / "java"),
            )  # fmt: skip
        further.append("dev.himix.edge.ExecuTorchTest")
    if options.apk:
        classes = translate_back(options.apk, out)
        compile_java(APP / "desktop", out / "tests", "--release", "17", "-cp", f"{jars}:{classes}:{out / 'tests'}")
        with zipfile.ZipFile(options.apk) as apk:
            apk.extractall(out, [name for name in apk.namelist() if name.startswith(("assets/", "lib/x86_64/"))])
        native = out / "lib" / "x86_64"
        library = native / "libhimix_onnx.so"
        folders = [bionic.build(sorted(native.glob("*.so")), out / "bionic"), native]
        further.append("dev.himix.edge.demo.ScreensTest")
    suite = BUILD / "suite"
    run(sys.executable, "-m", "conformance", "--out", suite, *bundles, cwd=ROOT)
    properties = {
        "suite": suite, "bundle": bundle, "executorch": bundles[-1], "jni": library,
        "half": half_cache.make(bundle, BUILD / "half"),
        "python": sys.executable, "root": ROOT,
        "onnxruntime": folders[1] / "libonnxruntime.so", "assets": out / "assets",
        "resources": APP / "main" / "res",
    }  # fmt: skip
    command = [
        "java", "-Xcheck:jni", "-XX:+AllowUserSignalHandlers", "-ea",
        "-cp", f"{jars}:{classes}:{out / 'tests'}",
        *(f"-Dhimix.{name}={value}" for name, value in properties.items()),
        f"-Djava.library.path={':'.join(map(str, folders))}",
        "dev.himix.edge.RunTests", *further,
    ]  # fmt: skip
    # ONNX Runtime by name, as on a phone, and what it needs
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))}
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def compile_jni(runtime: Path, out: Path) -> Path:
    """Our native library for this machine."""
    out.mkdir(parents=True)
    home = Path(shutil.which("javac") or "").resolve().parents[1]
    library = out / "libhimix_onnx.so"
    run(
        "gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden",
        f"-I{home / 'include'}", f"-I{home / 'include' / 'linux'}", f"-I{runtime / 'headers'}",
        *sorted((CORE / "main" / "c").glob("*.c")), "-o", library, "-ldl",
    )  # fmt: skip
    return library


def translate_back(apk: Path, out: Path) -> Path:
    """The Java classes that an APK's classes.dex stands for."""
    apt_tools(enjarify="enjarify")
    # the command would take the first python3 on the PATH, the module is in the system's own
    run("/usr/bin/python3", "-O", "-m", "enjarify.main", "-f", "-o", out / "apk.jar", apk.resolve())
    return out / "apk.jar"


def compile_java(source: Path, out: Path, *options: str) -> None:
    run("javac", "-Xlint:all", "-Werror", *options, "-d", out, *sorted((source / "java").rglob("*.java")))


if __name__ == "__main__":
    main()
