"""The C++ runner of ExecuTorch bundles, fed from a bundle.

    python -m benchmarks.executorch_runner BUNDLE --image FILE --prompt TEXT [--threads N] [--runs N]

builds it for this machine under build/other_cpus and prints what it prints: one line of JSON a run.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himix_edge.bundle import Bundle, bundle_text
from himix_edge.errors import HimixError, InputError
from himix_edge.preprocess import load_image
from himix_edge.runtimes.executorch.build_runner import build_here
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import Message

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "other_cpus"


def arguments_for(bundle: Bundle, prompt: str, image: Path | None, pixels: Path, max_new_tokens: int) -> list[str]:
    """The runner's arguments that ask `prompt` about an image file.

    Args:
        bundle: an ExecuTorch bundle.
        prompt: the user's message; the bundle's template is put around it.
        image: an image file, or none.
        pixels: where the resized pixels go, raw uint8 (S, S, 3).
        max_new_tokens: length of the longest answer.

    Raises:
        InputError: not an ExecuTorch bundle, an image that cannot be read, an empty prompt.
    """
    if bundle.manifest.target != "executorch":
        raise InputError(f"{bundle.folder}: a bundle for {bundle.manifest.target}; the runner takes ExecuTorch's")
    bundle.config.refuse_pictures_in_text(f"{bundle.folder}: the runner")
    text = bundle_text(bundle.folder, bundle.manifest)
    arguments = ["--model", str(bundle.role_path("decoder")), "--max-new-tokens", str(max_new_tokens)]
    arguments += ["--prompt", _listed(text.encode_chat([Message("user", prompt)])), "--stop", _listed(text.stop_ids)]
    vision = bundle.config.vision
    if image is not None and vision is not None:
        pixels.write_bytes(load_image(image, vision.image_size, vision.resample).tobytes())
        position = bundle.config.first_text_position(vision.num_tokens)
        arguments += ["--pixels", str(pixels), "--position", str(position)]
    return arguments


def _listed(ids: Sequence[int] | frozenset[int]) -> str:
    return ",".join(str(i) for i in (ids if isinstance(ids, list) else sorted(ids)))


def ask(command: Sequence[str], arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Run the runner: `token_ids`, `finish_reason` and the milliseconds of each stage, per run.

    Raises:
        InputError: it failed; the text has the end of what it said.
    """
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(said[-1])
    return [json.loads(line) for line in done.stdout.splitlines()]


def native() -> Path:
    """The runner for this machine, against the installed wheel; built if it has to be."""
    return build_here(WORK / f"runner-{platform.machine()}")


def main() -> None:
    """Ask one question with the runner built for this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="an ExecuTorch bundle")
    parser.add_argument("--image", type=Path, help="image file")
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="length of the longest answer [default: 64]")
    parser.add_argument("--runs", type=int, default=1, help="answer so many times [default: 1]")
    parser.add_argument("--threads", type=int, help="CPU threads [default: the runtime's choice]")
    given = parser.parse_args()
    try:
        bundle, runner = open_verified(given.bundle), native()
        threads = ["--threads", str(given.threads)] if given.threads is not None else []
        with tempfile.TemporaryDirectory() as scratch:
            pixels = Path(scratch) / "pixels"
            arguments = arguments_for(bundle, given.prompt, given.image, pixels, given.max_new_tokens)
            for answer in ask([str(runner)], [*arguments, "--runs", str(given.runs), *threads]):
                print(json.dumps(answer))
    except HimixError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
