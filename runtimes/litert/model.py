"""One .tflite file in LiteRT."""

import ctypes
import math
import os
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.chatter import silent_at_the_end, without_chatter
from himix_edge.runtimes.engine import Array
from himix_edge.runtimes.ports import check_ports

if TYPE_CHECKING:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.environment import Environment
    from ai_edge_litert.tensor_buffer import TensorBuffer

Ports = dict[str, tuple[str, tuple[int, ...]]]  # name -> type and shape
Buffers = dict[str, "TensorBuffer"]
ALIGNMENT = 64  # numbers, of memory that is handed over
IN_MEMORY = ":memory"  # where XNNPACK keeps the weights as it lays them out, once for all graphs of a file


class Model:
    """A file's graphs, called by their names with the names of what they take and give."""

    def __init__(self, path: Path, threads: int | None):
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.options import CpuOptions, Options

        self.path = path
        options = Options(cpu_options=CpuOptions(num_threads=threads or _cores(), xnnpack_weight_cache_path=IN_MEMORY))
        try:
            with without_chatter():
                self._model = CompiledModel.from_file(str(path), environment=_environment(), options=options)
                weakref.finalize(self, _close, self._model)
        except Exception as error:  # LiteRT's errors share no public base class
            raise InputError(f"{path}: LiteRT cannot load it: {[*str(error).splitlines(), ''][0]}") from None
        self.graphs = list(self._model.get_signature_list())
        self._memory: tuple[Buffers, Buffers] | None = None

    def ports(self, graph: str) -> tuple[Ports, Ports]:
        """What a graph takes, and what it gives."""
        details = self._model.get_input_tensor_details(graph), self._model.get_output_tensor_details(graph)
        takes, gives = ({n: (p["dtype"], tuple(p["shape"])) for n, p in ports.items()} for ports in details)
        return takes, gives

    def check(self, graph: str, takes: Ports, gives: Ports) -> None:
        """Refuse a graph that takes or gives anything else than this.

        Raises:
            InputError: it does not, or there is no such graph.
        """
        if graph not in self.graphs:
            raise InputError(f"{self.path}: no graph {graph}, which the manifest's model needs; export it again")
        for found, expected in zip(self.ports(graph), (takes, gives), strict=True):
            for name in expected | found:
                if found.get(name) != expected.get(name):
                    raise InputError(
                        f"{self.path}: {graph}: {name!r:.40} is {found.get(name)!s:.80}, "
                        f"the manifest says {expected.get(name)}"
                    )

    def buffers(self, graph: str) -> tuple[Buffers, Buffers]:
        """Memory for what a graph takes, and for what it gives."""
        takes, gives = self.ports(graph)
        return (
            {name: self._model.create_input_buffer_by_name(graph, name) for name in takes},
            {name: self._model.create_output_buffer_by_name(graph, name) for name in gives},
        )

    def run(self, graph: str, inputs: Buffers, outputs: Buffers) -> None:
        """Compute. An output may be an input's memory."""
        self._model.run_by_name(graph, inputs, outputs)

    def call(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """What the file's only graph makes of arrays."""
        graph = self.graphs[0]
        if self._memory is None:
            self._memory = self.buffers(graph)
        given, made = self._memory
        for name, array in inputs.items():
            given[name].write(np.ascontiguousarray(array))
        self.run(graph, given, made)
        return {name: read(made[name], shape) for name, (_, shape) in self.ports(graph)[1].items()}


def read(buffer: "TensorBuffer", shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A copy of a buffer's numbers."""
    numbers: NDArray[np.float32] = buffer.read(math.prod(shape), np.float32)
    return numbers.reshape(shape)


def open_model(files: Mapping[str, Path], role: str, config: ModelConfig, threads: int | None) -> Model:
    """A role's file. Raises InputError if it is not one of this role and model, or LiteRT refuses it."""
    model = Model(files[role], threads)
    if not model.graphs:
        raise InputError(f"{files[role]}: no graph has a name; export the bundle again")
    takes, gives = model.ports(model.graphs[0])
    check_ports(files[role], role, config, {name: shape for name, (_, shape) in takes.items()}, gives)
    return model


def _cores() -> int:
    """Those that this process may use: LiteRT by itself takes one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _close(model: "CompiledModel") -> None:
    with without_chatter():
        model.close()


@cache
def _environment() -> "Environment":
    """LiteRT without the libraries for other processors, which it would look for and load."""
    import ai_edge_litert
    from ai_edge_litert.environment import Environment, EnvironmentOptions
    from ai_edge_litert.tensor_buffer import TensorBuffer

    nowhere = str(Path(ai_edge_litert.__file__).with_name("tflite"))  # for "" it takes its own folder
    options = EnvironmentOptions(runtime_path=nowhere, compiler_plugin_path=nowhere, dispatch_library_path=nowhere)
    made = Environment.create(options=options)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made.capsule))  # its end would be told at the end of the process
    # another, which it makes of itself when memory is written for the first time, and tells of then and at the end
    TensorBuffer.create_from_host_memory(np.zeros(ALIGNMENT, np.float32)).write(np.zeros(1, np.float32))
    silent_at_the_end()
    return made
