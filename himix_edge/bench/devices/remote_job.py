"""A measuring job on a board as a shell script that outlives the connection, and ends by itself if nobody asks for it.

It runs in a folder of its own there: `out` and `err` are the steps' outputs, `pid` its process, `ended` the last exit
code. Whoever waits touches `asked`.
"""

import re
import shlex
from collections.abc import Sequence

WORD = "himix-bench-job"  # in the job's command line: a number in `pid` may be another process's after a restart
OWN_FILES = ("out", "err", "ended", "pid", "asked")
ABANDONED_CHECKS = 60  # of 10 s each
POLL_S = 5
ALIVE = f"tr '\\0' ' ' 2>/dev/null < \"/proc/$(cat pid 2>/dev/null)/cmdline\" | grep -q {WORD}"


def start_script(mark: str, commands: Sequence[str]) -> str:
    """Start the commands one after the other in the current folder; a second call with the same mark does nothing."""
    steps = " ".join(f"{command} >> out 2>> err < /dev/null & work=$!; wait $work; code=$?;" for command in commands)
    inside = (
        "work=; watch=; trap 'kill $work $watch 2>/dev/null; exit 1' TERM; "
        f"(n=0; while [ $n -lt {ABANDONED_CHECKS} ]; do sleep 10; n=$((n+1)); "
        f"[ -f asked ] && rm -f asked && n=0; done; kill $$) & watch=$!; {steps} echo $code > ended; kill $watch"
    )
    clear = f"{stop_script()}; rm -f {' '.join(OWN_FILES)} started-*; touch {mark} asked"
    start = f"nohup sh -c {shlex.quote(inside)} {WORD} < /dev/null > /dev/null 2>&1 & echo $! > pid"
    return f"if [ ! -f {mark} ]; then {clear}; {start}; fi"


def stop_script() -> str:
    """End the job of the current folder, if one runs."""
    return f"if {ALIVE}; then kill $(cat pid); fi"


def look_script() -> str:
    """Wait five seconds or until the job has ended; then a line `ended`, `running` or `gone`, and the last of `out`."""
    wait = f"n=0; while [ ! -f ended ] && [ $n -lt {POLL_S} ] && {ALIVE}; do sleep 1; n=$((n+1)); done"
    # alive first: a job that ends in between has written `ended`
    state = f"if {ALIVE}; then s=running; else s=gone; fi; [ -f ended ] && s=ended; echo $s"
    return f"touch asked; {wait}; {state}; tail -n 1 out 2>/dev/null | head -c 500"


def clean_script(folder: str, there: str) -> str:
    """Remove `there`, the folders in `folder` that nobody touched for a day and nothing runs in, and `folder` if empty.

    Both are quoted for the shell.
    """
    old = (
        f'cd {folder} 2>/dev/null && for d in *; do [ -d "$d" ] && [ ! -L "$d" ] && '
        f'[ -n "$(find "$d" -prune -mtime +0 2>/dev/null)" ] && ! (cd "$d" && {ALIVE}) && rm -rf "./$d"; done'
    )
    return f"rm -rf {there}; ({old}); rmdir {folder} 2>/dev/null; true"


def is_own(name: str) -> bool:
    """Whether a file's name, in the job's folder, is one that the job writes."""
    return name in OWN_FILES or bool(re.match(r"started-|nohup\.out$", name))
