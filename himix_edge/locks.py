"""Locks on open files, on POSIX and Windows. They end with the process that holds them, however it ends."""

import errno
import os

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # file systems without locks


def try_lock(descriptor: int) -> bool | None:
    """Lock a file that is open for writing, without waiting.

    Returns:
        whether it is locked now; None where there are no locks.
    """
    try:
        import fcntl
    except ImportError:
        return _try_lock_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def _try_lock_windows(descriptor: int) -> bool | None:
    try:
        import msvcrt
    except ImportError:
        return None
    os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # what is locked nobody reads, so a byte behind the content
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True
