"""ExecuTorch: one program, in Python or in the C++ runner of `runner/`."""

from himix_edge.runtimes.registry import ProgramBoard, Runtime

RUNTIME = Runtime(
    name="executorch",
    title="ExecuTorch",
    ending=".pte",
    packages=("executorch", "torch"),
    modules=("torch", "executorch.runtime"),
    extra="executorch",
    board=ProgramBoard(
        program="himix_executorch",
        variable="HIMIX_BOARD_EXECUTORCH",
        how="python -m himix_edge.runtimes.executorch.build_runner builds it",
    ),
    adapters=True,
)
