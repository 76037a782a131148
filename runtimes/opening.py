"""Opening what a session runs on: an exported bundle, or a PyTorch checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from himix_edge import extras
from himix_edge.bundle import Bundle, GenerationDefaults, bundle_text
from himix_edge.errors import InputError
from himix_edge.files import as_path
from himix_edge.runtimes.loading import load_engine
from himix_edge.runtimes.sampling import whole_number
from himix_edge.runtimes.session import Session
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import TOKENIZER

if TYPE_CHECKING:
    from himix_edge.checkpoints.source import Source

MOST_THREADS = 1024


def open_bundle(folder: str | Path, threads: int | None = None) -> Session:
    """Check every hash of a bundle and open it in the runtime of its target.

    Args:
        folder: the bundle.
        threads: CPU threads; None leaves the choice to the runtime.

    Raises:
        InputError: not a bundle, a damaged or hostile manifest, a missing file, graphs or a tokenizer that are not the
            model's, a file that changed meanwhile.
        GateRefused: a file that is not what the manifest says.
        BackendMissing: the runtime's package is not installed (the text has the pip line).
    """
    if threads is not None and not 1 <= whole_number("threads", threads, least=1) <= MOST_THREADS:
        raise InputError(f"threads is {threads}; {MOST_THREADS} are the most")
    return open_session(open_verified(as_path(folder)), threads)


def open_session(bundle: Bundle, threads: int | None = None) -> Session:
    """A verified bundle in the runtime of its target; arguments and errors as `open_bundle`."""
    path, text = bundle.folder / TOKENIZER, bundle_text(bundle.folder, bundle.manifest)
    rows = bundle.config.decoder.vocab_size
    beyond = [token for token, number in text.tokenizer.get_vocab(with_added_tokens=True).items() if number >= rows]
    if beyond:
        raise InputError(f"{path}: {len(beyond)} tokens ({beyond[0]!r:.40}) have ids beyond the model's {rows} rows")
    if bundle.config.images is not None:
        text.check_slot(bundle.config.images.slot_id)
    engine = load_engine(bundle, threads)
    return Session(engine, text, bundle.config, bundle.manifest.image_kv_id, bundle.manifest.generation)


def open_checkpoint(source: str | Path) -> Session:
    """Open a checkpoint folder, or a model that ships with the package, in PyTorch.

    Raises:
        InputError: see `himix_edge.load_checkpoint`; also a folder without tokenizer or chat template.
        BackendMissing: PyTorch is not installed.
    """
    with extras.needed("torch", extras.TORCH):
        import torch  # noqa: F401
    from himix_edge.checkpoints import open_source

    return session_of(open_source(source))


def session_of(opened: "Source") -> Session:
    """An opened checkpoint in PyTorch, its weights read into memory in float32. Errors as `open_checkpoint`."""
    from himix_edge.checkpoints import image_kv_id
    from himix_edge.checkpoints.assemble import assemble
    from himix_edge.runtimes.pytorch_engine import PytorchEngine

    text = opened.load_text()
    model = assemble(opened.config, opened.weights, opened.where)
    engine = PytorchEngine(model, model.config.decoder.max_position_embeddings)
    return Session(engine, text, model.config, image_kv_id(model), GenerationDefaults())
