"""ExecuTorch: four methods of one program; `start` and `decoder` share the cache inside the runtime."""

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.chatter import without_chatter
from himix_edge.runtimes.engine import Array, Factors, Floats, given_or_zeros

if TYPE_CHECKING:
    from executorch.runtime import Method

METHODS = ("vision_encoder", "vision_injector", "start", "decoder")
KEPT = "kept"  # of a model whose pictures stand in the text


class ExecuTorchEngine:
    """See `Engine`."""

    def __init__(self, path: Path, config: ModelConfig, capacity: int, factors: Factors | None = None):
        self.capacity, self._hidden = capacity, config.decoder.hidden_size
        self._embeds = config.images is not None
        import torch

        with without_chatter():
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers its kernels
            from executorch.runtime import Runtime
        self._torch = torch
        names = (*METHODS, KEPT) if self._embeds else METHODS
        try:
            with without_chatter():
                self._program = Runtime.get().load_program(path)
                self._methods: dict[str, Method] = {name: self._program.load_method(name) for name in names}
        except KeyError as error:
            raise InputError(f"{path}: no method {error.args[0]!r:.40}, which the manifest's model needs") from None
        except Exception as error:  # ExecuTorch raises RuntimeError and its own kinds
            raise InputError(f"{path}: ExecuTorch cannot load it: {[*str(error).splitlines(), ''][0]}") from None
        missing = [name for name, method in self._methods.items() if method is None]
        if missing:
            raise InputError(f"{path}: no method {', '.join(missing)}")
        self._used = self._position = 0
        self.use_adapter(factors or {})

    def use_adapter(self, factors: Factors) -> None:
        """See `AdaptableEngine`."""
        self._factors = {role: [self._torch.from_numpy(array) for array in of.values()] for role, of in factors.items()}

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._run("vision_encoder", pixels)[0]

    def inject(self, features: Floats) -> tuple[Floats, Floats]:
        key, value = self._run("vision_injector", features)
        return key, value

    def connect(self, features: Floats) -> Floats:
        """See `PictureEngine`."""
        return self._run("vision_injector", features)[0]

    def kept(self) -> tuple[Floats, Floats]:
        """See `PictureEngine`."""
        key, value = self._run(KEPT, np.arange(self._used, dtype=np.int64))
        return key, value

    def start(self, key: Floats, value: Floats, position: int) -> None:
        self._used, self._position = key.shape[2], position
        if self._used:
            self._run("start", key, value)

    def step(self, token_ids: NDArray[np.int64], embeddings: Floats | None = None) -> Floats:
        count = len(token_ids)
        positions = np.arange(self._position, self._position + count, dtype=np.int64)[None]
        embeds = [given_or_zeros(embeddings, count, self._hidden)] if self._embeds else []
        logits = self._run("decoder", token_ids[None], np.array([self._used], np.int64), positions, *embeds)[0][0]
        self._used += count
        self._position += count
        return logits

    def _run(self, method: str, *arrays: Array) -> list[Floats]:
        inputs = [self._torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays]
        inputs += self._factors.get(method, [])  # a method is called as its role
        with one_blas_thread():
            return [output.numpy().copy() for output in self._methods[method].execute(inputs)]


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """The BLAS that PyTorch brings works on one thread for each that calls it.

    ExecuTorch's attention runs on all cores and calls it on each of them; it would start as many threads again, which
    wait for each other by spinning: a prompt takes more than twice as long then.
    """
    import torch

    usual = torch.get_num_threads()
    _set_blas_threads(1)
    try:
        yield
    finally:
        _set_blas_threads(usual)


def _set_blas_threads(count: int) -> None:
    """For the calling thread (PyTorch's own function sets no more), and where the BLAS is MKL for all others."""
    import torch

    torch.set_num_threads(count)
    library = _torch_library()
    if library is not None and hasattr(library, "mkl_serv_set_num_threads"):
        library.mkl_serv_set_num_threads(count)


@cache
def _torch_library() -> ctypes.CDLL | None:
    import torch

    with contextlib.suppress(OSError):  # not Linux
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    return None


def load(
    files: dict[str, Path],
    config: ModelConfig,
    capacity: int,
    threads: int | None,
    activations: str,
    factors: Factors | None = None,
) -> ExecuTorchEngine:
    """Open the program, which serves every role.

    Raises InputError if ExecuTorch refuses the file. `threads` is ignored: the Python runtime takes
    all cores.
    """
    return ExecuTorchEngine(files["decoder"], config, capacity, factors)
