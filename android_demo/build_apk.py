"""Builds the signed APK from packages alone, without Gradle and the Android SDK: aapt2, javac, dx, a C compiler for
each ABI, zip, apksigner. Then checks what came out. Android Studio builds the same sources with Gradle."""

import argparse
import json
import re
import shutil
import struct
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from packages import BUILD, ROOT, apt_tools, debian_archive, onnxruntime, run, stop, zig

HERE = Path(__file__).resolve().parent
APP, CORE = HERE / "app" / "src" / "main", HERE / "core" / "src" / "main"
PACKAGE = "dev.himix.edge.demo"
MIN_SDK, TARGET_SDK = 24, 36
ABIS = {"arm64-v8a": "aarch64-linux-musl", "x86_64": "x86_64-linux-musl"}  # and the target whose headers will do
PHONES = "arm64-v8a"  # what an APK for phones alone has
PAGE = 16384  # Android 15 devices may have pages of this size
# what our native library takes from Android's own: the stubs to link against export nothing else
SYSTEM_LIBRARIES = {
    "c": ("calloc", "free", "strcmp", "memcpy", "memset"),
    "dl": ("dlopen", "dlsym", "dlerror"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", help="Rides in the app; may be repeated.")
    parser.add_argument(
        "--out", type=Path, default=BUILD / "himix-demo.apk",
        help="For phones and emulators; NAME-arm64.apk beside it is half as large and for phones alone.",
    )  # fmt: skip
    parser.add_argument(
        "--online", action="store_true", help="With the permission to fetch models; the app asks for none otherwise."
    )
    options = parser.parse_args()
    bundles = options.bundle or [ROOT / "bundles" / "nano-onnx-int8"]
    apt_tools(
        aapt2="aapt", apksigner="apksigner", zipalign="zipalign", dexdump="dexdump",
        javac="openjdk-17-jdk-headless", keytool="openjdk-17-jre-headless",
    )  # fmt: skip
    debian = debian_archive(["dalvik-exchange", "libandroid-23-java"])
    framework = debian / "usr/share/java/com.android.android-23.jar"
    work = BUILD / "apk"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    permissions = add_permissions() if options.online else []
    linked = link_resources(work, framework, stage_assets(work, bundles), permissions)
    dex = compile_java(work, framework, debian / "usr/share/java/com.android.dx.jar")
    libraries = {abi: compile_jni(work, abi) for abi in ABIS}
    for apk, abis in outputs(options.out).items():
        assemble(work / "unsigned.apk", linked, dex, {abi: libraries[abi] for abi in abis})
        sign(work / "unsigned.apk", apk)
        check(apk, abis, [bundle.name for bundle in bundles], permissions)
        print(f"{apk}: {apk.stat().st_size / 1e6:.1f} MB; adb install {apk}")


def outputs(out: Path) -> dict[Path, list[str]]:
    """Each APK and its ABIs."""
    return {out: list(ABIS), out.with_name(f"{out.stem}-arm64.apk"): [PHONES]}


def version() -> str:
    """The project's version, which the core states too."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    name = (CORE / "java/dev/himix/edge/AppVersion.java").read_text()
    if not found or f'"{found[1]}"' not in name:
        stop("AppVersion.java does not state the version of pyproject.toml")
    return found[1]


def stage_assets(work: Path, bundles: list[Path]) -> Path:
    """Bundles (the files that the manifest names), sample pictures, licences."""
    assets = work / "assets"
    for bundle in bundles:
        try:
            manifest = json.loads((bundle / "manifest.json").read_text())
        except (OSError, ValueError):
            stop(f"{bundle}: no bundle; himix export --target onnx --quant int8 --out {bundle}")
        if manifest["target"] != "onnx":
            stop(f"{bundle}: a bundle for {manifest['target']}; the app runs the target onnx")
        records = [*manifest["files"], *(record for role in manifest["roles"].values() for record in role)]
        for path in ["manifest.json", *{record["path"] for record in records}]:
            to = assets / "bundles" / bundle.name / path
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / path, to)
    shutil.copytree(ROOT / "himix_edge" / "assets" / "probe", assets / "samples")
    licenses = assets / "licences"
    licenses.mkdir()
    shutil.copyfile(ROOT / "LICENSE", licenses / "LICENSE")
    shutil.copyfile(ROOT / "NOTICE", licenses / "NOTICE")
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copyfile(onnxruntime() / "package" / name, licenses / f"onnxruntime-{name}")
    return assets


def add_permissions() -> list[str]:
    """What the online kind of the app asks for."""
    manifest = (HERE / "app" / "src" / "online" / "AndroidManifest.xml").read_text()
    return re.findall(r'<uses-permission android:name="([\w.]+)"', manifest)


def link_resources(work: Path, framework: Path, assets: Path, permissions: list[str]) -> Path:
    """Resources and assets -> an APK without code; R.java beside it."""
    ElementTree.register_namespace("android", android := "http://schemas.android.com/apk/res/android")
    manifest = ElementTree.parse(APP / "AndroidManifest.xml")
    manifest.getroot().set("package", PACKAGE)  # Gradle knows it as the namespace
    for permission in permissions:
        ElementTree.SubElement(manifest.getroot(), "uses-permission", {f"{{{android}}}name": permission})
    application = manifest.getroot().find("application")
    assert application is not None
    application.set(f"{{{android}}}extractNativeLibs", "false")  # Gradle's default
    manifest.write(work / "AndroidManifest.xml", encoding="utf-8")
    run("aapt2", "compile", "--dir", APP / "res", "-o", work / "resources.zip")
    run(
        "aapt2", "link", "-I", framework, "--manifest", work / "AndroidManifest.xml", "-A", assets,
        "--java", work / "generated", "--min-sdk-version", str(MIN_SDK), "--target-sdk-version", str(TARGET_SDK),
        "--version-code", "1", "--version-name", version(), "-o", work / "linked.apk", work / "resources.zip",
    )  # fmt: skip
    return work / "linked.apk"


def compile_java(work: Path, framework: Path, dx: Path) -> Path:
    """Core and app -> classes.dex. Compiled against API 23's framework, so nothing newer is called by accident."""
    sources = [path for folder in (CORE / "java", APP / "java", work / "generated") for path in folder.rglob("*.java")]
    run(
        "javac", "-Xlint:all,-options,-deprecation", "-Werror", "-source", "8", "-target", "8",
        "-bootclasspath", framework, "-d", work / "classes", *sorted(sources),
    )  # fmt: skip
    dex = work / "classes.dex"
    run(
        "java", "-cp", dx, "com.android.dx.command.Main", "--dex", f"--min-sdk-version={MIN_SDK}",
        f"--output={dex}", work / "classes",
    )  # fmt: skip
    return dex


def compile_jni(work: Path, abi: str) -> list[Path]:
    """Our native library for an ABI, and ONNX Runtime's."""
    folder = work / "lib" / abi
    folder.mkdir(parents=True)
    compiler = [zig(), "cc", "-target", ABIS[abi], "-O2", "-fPIC", "-fno-sanitize=undefined", "-fno-stack-protector"]
    stubs = []
    for name, functions in SYSTEM_LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("".join(f"void {function}(void) {{}}\n" for function in functions))
        stub = folder / f"lib{name}.so"
        run(
            *compiler, "-fno-builtin", "-w", "-shared", "-nostdlib", f"-Wl,-soname,lib{name}.so", source, "-o", stub,
        )  # fmt: skip
        stubs.append(stub)
    home = Path(shutil.which("javac") or "").resolve().parents[1]
    library = folder / "libhimix_onnx.so"
    objects = []
    for source in sorted((CORE / "c").glob("*.c")):
        objects.append(folder / f"{source.stem}.o")
        run(
            *compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", f"-I{home / 'include'}",
            f"-I{home / 'include' / 'linux'}", f"-I{onnxruntime() / 'headers'}", "-c", source, "-o", objects[-1],
        )  # fmt: skip
    run(
        *compiler, "-shared", "-nostdlib", "-s", "-Wl,-soname,libhimix_onnx.so", f"-Wl,-z,max-page-size={PAGE}",
        "-Wl,-z,defs", *objects, *stubs, "-o", library,
    )  # fmt: skip
    return [library, onnxruntime() / "jni" / abi / "libonnxruntime.so"]


def assemble(apk: Path, linked: Path, dex: Path, libraries: dict[str, list[Path]]) -> None:
    """One zip; what is stored uncompressed is aligned, native libraries to a page, so that they can be mapped."""
    with zipfile.ZipFile(linked) as source, zipfile.ZipFile(apk, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            method = zipfile.ZIP_STORED if entry.filename == "resources.arsc" else zipfile.ZIP_DEFLATED
            add(target, entry.filename, source.read(entry), method, 4)
        add(target, "classes.dex", dex.read_bytes(), zipfile.ZIP_DEFLATED, 4)
        for abi, files in libraries.items():
            for file in files:
                add(target, f"lib/{abi}/{file.name}", file.read_bytes(), zipfile.ZIP_STORED, PAGE)


def add(apk: zipfile.ZipFile, name: str, content: bytes, method: int, alignment: int) -> None:
    """An entry whose data start at a multiple of `alignment`, with the extra field that tells apksigner so."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = method
    if method == zipfile.ZIP_STORED:
        assert apk.fp is not None
        header = apk.fp.tell() + 30 + len(name.encode()) + 6
        padding = -header % alignment
        entry.extra = struct.pack("<HHH", 0xD935, 2 + padding, alignment) + bytes(padding)
    apk.writestr(entry, content)


def sign(unsigned: Path, out: Path) -> None:
    """Sign with this checkout's debug key, made once."""
    keystore = BUILD / "debug.keystore"
    password = "android"  # a debug key's, by convention
    if not keystore.exists():
        run(
            "keytool", "-genkeypair", "-keystore", keystore, "-storepass", password, "-keypass", password,
            "-alias", "debug", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000",
            "-dname", "CN=HiMix demo, O=Debug key",
        )  # fmt: skip
    run(
        "apksigner", "sign", "--ks", keystore, "--ks-pass", f"pass:{password}", "--min-sdk-version", str(MIN_SDK),
        "--out", out, unsigned,
    )  # fmt: skip


def check(apk: Path, abis: list[str], bundles: list[str], permissions: list[str]) -> None:
    """Signature, manifest, code, page alignment. Anything that is not as it has to be ends the build."""
    verified = run("apksigner", "verify", "--verbose", "--min-sdk-version", str(MIN_SDK), apk)
    expect("Verified using v2 scheme (APK Signature Scheme v2): true" in verified, f"not signed: {verified}")
    run("zipalign", "-c", "4", apk)
    badging = run("aapt2", "dump", "badging", apk)
    expect(f"package: name='{PACKAGE}'" in badging, "package name")
    expect(f"sdkVersion:'{MIN_SDK}'" in badging and f"targetSdkVersion:'{TARGET_SDK}'" in badging, "SDK versions")
    expect(f"launchable-activity: name='{PACKAGE}.MainActivity'" in badging, "no activity to start")
    asked = re.findall(r"uses-permission[\w-]*: name='([\w.]+)'", badging)
    expect(asked == permissions, f"the app asks for the permissions {asked}")
    for abi in ABIS:
        expect((f"'{abi}'" in badging) == (abi in abis), f"native code is not for {', '.join(abis)}: {badging}")
    with zipfile.ZipFile(apk) as archive:
        names = archive.namelist()
        for bundle in bundles:
            expect(f"assets/bundles/{bundle}/manifest.json" in names, f"bundle {bundle} is not inside")
        for entry in archive.infolist():
            if entry.filename.endswith(".so"):
                check_library(apk, entry, archive.read(entry))
        classes = BUILD / "apk" / "checked.dex"
        classes.write_bytes(archive.read("classes.dex"))
    dump = run("dexdump", "-f", classes)
    declared = re.findall(r'android:name="(dev\.himix\.[\w.]+)"', (APP / "AndroidManifest.xml").read_text())
    for name in [*declared, "dev.himix.edge.Session", "dev.himix.edge.OnnxGraph"]:
        expect(f"Class descriptor  : 'L{name.replace('.', '/')};'" in dump, f"{name} is not in classes.dex")
    count = dump.count("Class descriptor")
    asks = ", ".join(permissions) or "none"
    print(f"signed (v2), permissions: {asks}, SDK {MIN_SDK} and up (target {TARGET_SDK}), {count} classes")


def check_library(apk: Path, entry: zipfile.ZipInfo, content: bytes) -> None:
    """Stored on a page boundary, and every segment that is loaded is aligned to a page of 16 KiB."""
    with apk.open("rb") as file:
        file.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    start = entry.header_offset + 30 + name_bytes + extra_bytes
    expect(entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed")
    expect(start % PAGE == 0, f"{entry.filename} starts at {start}, not on a page of {PAGE}")
    offset, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", content, offset + i * size) for i in range(count)]
    alignments = [header[7] for header in headers if header[0] == 1]  # PT_LOAD
    expect(bool(alignments) and min(alignments) >= PAGE, f"{entry.filename}: segments aligned to {alignments}")
    print(f"{entry.filename}: {entry.file_size / 1e6:.2f} MB, {len(alignments)} segments on 16 KiB pages")


def expect(condition: bool, problem: str) -> None:
    if not condition:
        stop(f"the APK is not as it has to be: {problem}")


if __name__ == "__main__":
    main()
