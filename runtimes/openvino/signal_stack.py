"""The stack that signal handlers run on, which a library may replace without being asked."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the calling thread its signal stack back afterwards (Linux).

    OpenVINO 2026.4 puts one of its own in the place of Python's when it compiles a graph, and may leave it there when
    the memory is gone: the next signal, a child's end or Ctrl-C, is then a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
