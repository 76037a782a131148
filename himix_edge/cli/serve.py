"""himix serve: an OpenAI-style server for bundles and checkpoints."""

import os
import re
import sys
from functools import partial
from pathlib import Path

import click

from himix_edge import extras
from himix_edge.adapter_file import adapter_base
from himix_edge.cache import cache_folder
from himix_edge.cli import crash_log
from himix_edge.cli.console import progress_console
from himix_edge.cli.options import examples, kept_bits, on_provider
from himix_edge.errors import InputError, one_line
from himix_edge.manifest import read_manifest
from himix_edge.reading import read_text
from himix_edge.runtimes import SessionPool, open_bundle, open_pool
from himix_edge.runtimes.hub import local_bundle
from himix_edge.runtimes.pool import MOST_SESSIONS, adapted_pool, is_bundle

KEY = "HIMIX_API_KEY"
LEAST_KEY = 16  # characters; fewer can be guessed
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


@click.command(
    short_help="Answer OpenAI-style requests over HTTP.",
    epilog=examples(
        "himix serve bundles/nano-onnx-int8",
        "himix serve shapes=bundles/nano-onnx-int8 small --sessions 2 --port 8080",
    ),
)
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]BUNDLE_OR_MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; another needs an API key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--sessions", type=click.IntRange(1, MOST_SESSIONS), default=1, show_default=True,
    help="Answers at the same time, of each model.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of each exported bundle.")
@on_provider
@click.option(
    "--adapter", "adapters", multiple=True, metavar="NAME=FILE",
    help="A file of himix adapter as a model of this name, on the bundle that it was made for; several.",
)  # fmt: skip
@click.option("--api-key-file", type=click.Path(path_type=Path), help=f"A file with the API key. [default: ${KEY}]")
@click.option("--image-folder", type=click.Path(path_type=Path), help="File URLs may name pictures below this folder.")
@click.option(
    "--image-cache", type=click.Path(path_type=Path),
    help="Folder for images' keys and values. [default: himix-edge/images in the user's cache]",
)  # fmt: skip
@click.option("--image-cache-mb", type=click.IntRange(min=0), default=1024, show_default=True, help="0: not on disk.")
@click.option("--image-memory-mb", type=click.IntRange(min=0), default=256, show_default=True, help="And in memory.")
@kept_bits
@click.option("--max-body-mb", type=click.IntRange(1, 1024), default=32, show_default=True, help="Of a request.")
@click.option("--max-images", type=click.IntRange(0, 256), default=16, show_default=True, help="Of a request.")
@click.option(
    "--max-seconds", type=click.IntRange(1, 86400), default=120, show_default=True,
    help="From a request to the end of its answer.",
)  # fmt: skip
@click.option("--max-waiting", type=click.IntRange(0, 4096), default=64, show_default=True, help="Requests that queue.")
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    sessions: int,
    threads: int | None,
    provider: str | None,
    adapters: tuple[str, ...],
    api_key_file: Path | None,
    image_folder: Path | None,
    image_cache: Path | None,
    image_cache_mb: int,
    image_memory_mb: int,
    image_bits: int,
    max_body_mb: int,
    max_images: int,
    max_seconds: int,
    max_waiting: int,
) -> None:
    """Answer chat completions at /v1, as OpenAI's clients ask for them, and show a page to try it.

    A model is called as its folder, or as the NAME in front of it. Images' keys and values are kept by the hash of
    their content, so a picture that was seen before costs nothing.
    """
    with extras.needed("starlette", extras.SERVE):
        import starlette  # noqa: F401
    with extras.needed("uvicorn", extras.SERVE):
        import uvicorn  # noqa: F401
    with extras.needed("prometheus-client", extras.SERVE):
        import prometheus_client  # noqa: F401
    from himix_edge.serving.access import Access
    from himix_edge.serving.app import Limits, Server
    from himix_edge.serving.images import ImageStore
    from himix_edge.serving.metrics import Metrics
    from himix_edge.serving.running import is_this_machine, listen
    from himix_edge.serving.running import serve as run

    key, local = _api_key(api_key_file), is_this_machine(host)
    if key is None and not local:
        raise InputError(f"--host {host}: others reach this address; give an API key with --api-key-file or ${KEY}")
    if image_folder is not None and not image_folder.is_dir():
        raise InputError(f"{image_folder}: no folder; --image-folder is where file URLs may lead")
    named = _named(models)
    adapted = _adapted(adapters, named)
    place = listen(host, port)
    metrics = Metrics()
    folder = (image_cache or cache_folder() / "images") if image_cache_mb else None
    images = ImageStore(folder, image_memory_mb << 20, image_cache_mb << 20, metrics, image_bits)
    pools: dict[str, SessionPool] = {}
    for name, model in named.items():
        with progress_console.status(f"opening {model}"):
            pools[name] = open_pool(model, sessions, *((threads, provider) if is_bundle(model) else ()))
    for name, (file, base) in adapted.items():
        again = partial(open_bundle, named[base], threads, provider)
        with progress_console.status(f"opening {file}"):
            pools[name] = adapted_pool(pools[base], file, again)
    limits = Limits(max_body_mb << 20, max_seconds, max_waiting, max_images)
    access = Access(key, frozenset({"localhost"}) if local else None, image_folder)
    app = Server(pools, images, metrics, limits, access, _report).app()
    shown = f"[{host}]" if ":" in host else "localhost" if local else host
    click.echo(f"http://{shown}:{place.getsockname()[1]}/  serves {', '.join(pools)}  (Ctrl+C ends it)")
    sys.stdout.flush()
    run(app, place, (max_waiting + sessions) * len(pools), lambda server: None)


def _api_key(path: Path | None) -> str | None:
    """The key that requests need. Raises InputError for one that is none."""
    where = str(path) if path is not None else f"${KEY}"
    key = read_text(path, 4096).strip() if path is not None else os.environ.get(KEY, "")
    if not key and path is None:
        return None
    if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{where}: an API key has at least {LEAST_KEY} letters, digits and signs, and no space")
    return key


def _adapted(adapters: tuple[str, ...], models: dict[str, str]) -> dict[str, tuple[Path, str]]:
    """Name -> the adapter's file and the name of its bundle. Raises InputError where there is none, or are several."""
    found: dict[str, tuple[Path, str]] = {}
    for given in adapters:
        name, equals, file = given.partition("=")
        if not equals or not NAME.fullmatch(name) or not file:
            raise InputError(f"--adapter {given!r:.100}: give NAME=FILE with a name of letters, digits and . _ - / :")
        if name in found or name in models:
            raise InputError(f"--adapter {name}={file}: a model called {name} is there already; give another name")
        base = adapter_base(Path(file))
        places = {
            model: read_manifest(local_bundle(folder)).adapters for model, folder in models.items() if is_bundle(folder)
        }
        fitting = [model for model, place in places.items() if place is not None and place.base == base]
        if len(fitting) != 1:
            what = (
                f"fits {' and '.join(fitting)}; serve one of them" if fitting else "was made for none of these bundles"
            )
            raise InputError(f"--adapter {name}={file}: {what}")
        found[name] = Path(file), fitting[0]
    return found


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Name -> what to open. Raises InputError for names that cannot be asked for, or are two models'."""
    found: dict[str, str] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals:
            name, model = Path(given).name or Path(given).resolve().name, given
        if not NAME.fullmatch(name) or not model:
            raise InputError(f"{given!r:.100}: give NAME=FOLDER with a name of letters, digits and . _ - / :")
        if name in found:
            raise InputError(f"{found[name]} and {model}: two models called {name}; give one another name, NAME=FOLDER")
        found[name] = model
    return found


def _report(error: BaseException) -> None:
    path = crash_log.write(error)
    progress_console.print(f"himix serve: unexpected {type(error).__name__}: {one_line(str(error))} (log: {path})")
