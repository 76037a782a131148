"""Fetches what the Android build and its JVM tests need, by package name, from apt, npm and PyPI, and keeps it in
build/android/packages. Nothing is fetched twice."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "android"
PACKAGES = BUILD / "packages"

# carries ONNX Runtime's AAR for Android and its library for Linux, both 1.29
ONNXRUNTIME = ("com.github.asus4.onnxruntime", "0.4.9")
ONNXRUNTIME_SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
ZIG = "0.17.1"
DEBIAN = "bullseye"  # the last release with dx and the Android framework to compile against


def stop(message: str) -> NoReturn:
    """One line for the person at the keyboard, exit code 2."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a command; if it fails, its messages and the end."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"{' '.join(str(part) for part in command[:3])} ... failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def apt_tools(**commands: str) -> None:
    """Make sure that commands exist; `command="package"`. As root they are installed, otherwise they are named."""
    missing = sorted({package for command, package in commands.items() if not shutil.which(command)})
    apt_packages(*missing)


def apt_packages(*packages: str) -> None:
    """Install Debian packages unless there is nothing to install."""
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        stop(f"needed: apt-get install {' '.join(packages)}")
    print(f"apt-get install {' '.join(packages)}", flush=True)
    run("apt-get", "update", "-q")
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)


def debian_archive(packages: list[str]) -> Path:
    """Unpack packages of another Debian release into a folder; the system keeps its own."""
    folder = PACKAGES / DEBIAN
    if not (folder / "usr").is_dir():
        print(f"Debian {DEBIAN}: {', '.join(packages)}", flush=True)
        state = PACKAGES / "apt"
        for name in ("lists/partial", "cache/archives/partial", "debs"):
            (state / name).mkdir(parents=True, exist_ok=True)
        sources = state / "sources.list"
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        sources.write_text(f"deb [signed-by={keyring}] {_debian_mirror()} {DEBIAN} main\n")
        options = [
            "-q", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}",
            "-o", "APT::Sandbox::User=root", "-o", "Acquire::Check-Valid-Until=false",
        ]  # fmt: skip
        run("apt-get", *options, "update")
        run("apt-get", *options, "download", *packages, cwd=state / "debs")
        for deb in sorted((state / "debs").glob("*.deb")):
            run("dpkg-deb", "-x", deb, folder)
    return folder


def _debian_mirror() -> str:
    """The mirror that this system's own apt uses."""
    for line in run("apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN)").splitlines():
        site, _, origin = line.partition(" ")
        if origin == "Debian" and "security" not in site:
            return site
    stop("apt has no Debian archive among its sources; Debian's packages are needed")


def onnxruntime() -> Path:
    """ONNX Runtime: `headers/`, `jni/ABI/libonnxruntime.so` for Android, `linux/libonnxruntime.so`."""
    folder = PACKAGES / "onnxruntime"
    if not folder.is_dir():
        apt_tools(npm="npm")
        name, version = ONNXRUNTIME
        print(f"npm: {name} {version}", flush=True)
        PACKAGES.mkdir(parents=True, exist_ok=True)
        archive = PACKAGES / run("npm", "pack", "--silent", f"{name}@{version}", cwd=PACKAGES).split()[-1]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != ONNXRUNTIME_SHA256:
            stop(f"{archive}: SHA-256 {digest}, expected {ONNXRUNTIME_SHA256}")
        staged = PACKAGES / "onnxruntime.staging"
        shutil.rmtree(staged, ignore_errors=True)
        plugins = "package/Plugins"
        with tarfile.open(archive) as tar:
            tar.extract(f"{plugins}/Android/onnxruntime.aar", staged, filter="data")
            tar.extract(f"{plugins}/Linux/x64/libonnxruntime.so", staged, filter="data")
            for license in ("package/LICENSE", "package/ThirdPartyNotices.txt"):
                tar.extract(license, staged, filter="data")
        with zipfile.ZipFile(staged / plugins / "Android" / "onnxruntime.aar") as aar:
            for entry in aar.namelist():
                if entry.startswith("headers/") or entry.endswith("/libonnxruntime.so"):
                    aar.extract(entry, staged)
        shutil.move(staged / plugins / "Linux" / "x64", staged / "linux")
        shutil.rmtree(staged / plugins)
        archive.unlink()
        staged.rename(folder)
    return folder


def zig() -> Path:
    """The Zig compiler: its clang and linker build for every Android ABI without an NDK."""
    folder = PACKAGES / "ziglang"
    if not folder.is_dir():
        print(f"PyPI: ziglang {ZIG}", flush=True)
        staged = PACKAGES / "ziglang.staging"
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", staged, f"ziglang=={ZIG}")
        staged.rename(folder)
    return folder / "ziglang" / "zig"


if __name__ == "__main__":
    print(onnxruntime())
