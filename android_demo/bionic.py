"""Android's x86-64 libraries on this computer's Linux, unchanged: libraries called libc.so, libm.so and so on, as on a
phone, with every name that they need, of the version LIBC that they ask for. Most are a jump to this computer's
function; bionic.c has the others."""

import re
from pathlib import Path

from packages import run

OTHERS = ("libm.so", "libdl.so", "liblog.so", "libandroid.so")  # empty: libc.so has what they have on a phone
SOURCE = Path(__file__).parent / "bionic.c"


def build(libraries: list[Path], out: Path) -> Path:
    """Writes what `libraries` need into the folder `out`, for LD_LIBRARY_PATH."""
    out.mkdir(parents=True)
    own = set(re.findall(r"AS\((\w+)\)", SOURCE.read_text()))
    jumps = sorted({name for library in libraries for name in needed(library)} - own)
    lines = "".join(
        f".globl to_{name}\n.type to_{name}, @function\nto_{name}: jmp {name}@PLT\n.symver to_{name},{name}@LIBC\n"
        for name in jumps
    )
    (out / "jumps.s").write_text(lines + '.section .note.GNU-stack,"",@progbits\n')
    (out / "empty.c").write_text("")
    (out / "versions").write_text("LIBC { };\n")
    link(out, "libc.so", SOURCE, out / "jumps.s", "-lm", "-ldl")
    for name in OTHERS:
        link(out, name, out / "empty.c")
    return out


def link(out: Path, name: str, *content: str | Path) -> None:
    run(
        "gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fno-builtin",
        f"-Wl,-soname,{name}", f"-Wl,--version-script={out / 'versions'}", "-Wl,-z,defs", "-o", out / name, *content,
    )  # fmt: skip


def needed(library: Path) -> list[str]:
    """What a library takes from Android's C library."""
    return re.findall(r" U (\w+)@LIBC$", run("nm", "-D", "--undefined-only", library), re.MULTILINE)
