"""Runs the methods of an ExecuTorch program for the desktop's Java: what to run comes on standard input, what came out
goes to standard output, each as numbers behind a header."""

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import torch

from himix_edge.runtimes.chatter import without_chatter
from himix_edge.runtimes.executorch.engine import METHODS, one_blas_thread


def main() -> None:
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the numbers
    with without_chatter():
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers its kernels
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(Path(sys.argv[1]))
        methods = {name: program.load_method(name) for name in METHODS}
    while size := source.read(4):
        asked = json.loads(source.read(*struct.unpack(">i", size)))
        inputs = []
        for tensor in asked["inputs"]:
            kind, shape = np.dtype(tensor["type"]), tensor["shape"]
            content = source.read(kind.itemsize * int(np.prod(shape)))
            inputs.append(torch.from_numpy(np.frombuffer(bytearray(content), kind).reshape(shape)))
        method = methods[asked["method"]]
        assert method is not None
        with one_blas_thread():
            outputs = [output.numpy() for output in method.execute(inputs)]
        target.write(struct.pack(">i", len(outputs)))
        for output in outputs:
            target.write(struct.pack(f">{output.ndim + 1}i", output.ndim, *output.shape) + output.tobytes())
        target.flush()


if __name__ == "__main__":
    main()
