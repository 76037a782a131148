"""Opening what a session runs on: an exported bundle, or a PyTorch checkpoint."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from himix_edge import extras
from himix_edge.bundle import Bundle, GenerationDefaults, bundle_text
from himix_edge.errors import InputError, one_line
from himix_edge.runtimes.adapter import adapter_room
from himix_edge.runtimes.hub import local_bundle
from himix_edge.runtimes.loading import CPU, load_engine
from himix_edge.runtimes.registry import find_runtime, missing_packages, runtime_names
from himix_edge.runtimes.sampling import whole_number
from himix_edge.runtimes.selftest import self_test
from himix_edge.runtimes.session import Session
from himix_edge.runtimes.verifying import open_verified
from himix_edge.text import TOKENIZER, TextProcessor

if TYPE_CHECKING:
    from himix_edge.checkpoints.source import Source

MOST_THREADS = 1024
log = logging.getLogger(__name__)
log.setLevel(logging.WARNING)  # libraries that are read with a runtime set the root's to ERROR


def open_bundle(
    folder: str | Path,
    threads: int | None = None,
    device: str | None = None,
    adapter: str | Path | None = None,
    kv_bits: int = 32,
) -> Session:
    """Check every hash of a bundle and open it in the runtime of its target.

    Args:
        folder: the bundle; "hf://OWNER/NAME" fetches it from Hugging Face's hub.
        threads: CPU threads; None leaves the choice to the runtime.
        device: what computes: "cpu", or what the runtime has on this machine beside it (ONNX Runtime "cuda", "coreml",
            "directml", "webgpu", "openvino:GPU"; OpenVINO "gpu", "npu"; Core ML "all", "cpu+gpu", "cpu+npu"). It is
            taken if the bundle's self-test passes there; else the CPU is, and a line says why (`Session.device`).
            None: what the runtime prefers, which is the CPU except for Core ML.
        adapter: a file that `himix adapter` made for the bundle's model; see `Session.use_adapter`.
        kv_bits: of the numbers in the decoder's cache, 32 or 8; 8 takes OpenVINO and a third of the memory.

    Raises:
        InputError: not a bundle, a damaged or hostile manifest, a missing file, graphs or a tokenizer that are not the
            model's, a file that changed meanwhile, a device that is not here, `kv_bits` that the runtime has not.
        GateRefused: a file that is not what the manifest says.
        BackendMissing: the runtime's package is not installed (the text has the pip line).
    """
    if threads is not None and not 1 <= whole_number("threads", threads, least=1) <= MOST_THREADS:
        raise InputError(f"threads is {threads}; {MOST_THREADS} are the most")
    session = open_session(open_verified(local_bundle(folder)), threads, device, kv_bits)
    if adapter is not None:
        session.use_adapter(adapter)
    return session


def open_session(bundle: Bundle, threads: int | None = None, device: str | None = None, kv_bits: int = 32) -> Session:
    """A verified bundle in the runtime of its target; arguments and errors as `open_bundle`."""
    path, text = bundle.folder / TOKENIZER, bundle_text(bundle.folder, bundle.manifest)
    rows = bundle.config.decoder.vocab_size
    beyond = [token for token, number in text.tokenizer.get_vocab(with_added_tokens=True).items() if number >= rows]
    if beyond:
        raise InputError(f"{path}: {len(beyond)} tokens ({beyond[0]!r:.40}) have ids beyond the model's {rows} rows")
    if bundle.config.images is not None:
        text.check_slot(bundle.config.images.slot_id)
    for other in _devices(bundle, device):
        session, why = _accepted(bundle, text, threads, other, kv_bits)
        if session is not None:
            return session
        log.warning("%s", one_line(f"{bundle.folder}: not on {other}: {why}"))
    return _session(bundle, text, threads, CPU, kv_bits)


def _devices(bundle: Bundle, device: str | None) -> tuple[str, ...]:
    """What is tried before the CPU. Raises InputError for a device that is not here."""
    if device == CPU or bundle.manifest.target not in runtime_names():
        return ()
    runtime = find_runtime(bundle.manifest.target)
    if device is None:
        return runtime.preferred()
    with missing_packages(runtime):
        there = (CPU, *runtime.devices())
    if device not in there:
        raise InputError(f"device {device!r:.40}: {runtime.title} has {', '.join(there)} on this machine")
    return (device,)


def _accepted(
    bundle: Bundle, text: TextProcessor, threads: int | None, device: str, kv_bits: int
) -> tuple[Session | None, str]:
    """A session on another device than the CPU if the bundle's self-test passes there, or why there is none."""
    try:
        session = _session(bundle, text, threads, device, kv_bits)
        found = self_test(bundle.folder, session)
    except InputError as error:  # as runtimes refuse what a device cannot do
        return None, str(error)
    if found["passed"]:
        return session, ""
    return None, f"its self-test failed there (answered {found['answer']!r:.60}, expected {found['expected']!r:.60})"


def _session(bundle: Bundle, text: TextProcessor, threads: int | None, device: str, kv_bits: int) -> Session:
    engine, manifest = load_engine(bundle, threads, device=device, kv_bits=kv_bits), bundle.manifest
    room = adapter_room(bundle)
    return Session(engine, text, bundle.config, manifest.image_kv_id, manifest.generation, device, room)


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
