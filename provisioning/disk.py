"""Room on the disk: seen before the first byte, reserved at once, and named clearly when it ends all the same."""

import ctypes
import errno
import os
from pathlib import Path

from provisioning.errors import DiskBroken, DiskError, DiskFull

RESERVE = 0.01
"""The share of a download that stays free beside it: journals, receipts, the filesystem's own needs."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of linux/falloc.h: the blocks are ours, the file's length is still what was written."""
WRITE_OUT = 2
"""SYNC_FILE_RANGE_WRITE of linux/fs.h."""
OUTFLOW_BYTES = 8 << 20
WRITE_BYTES = 32 << 10
"""Linux 6.16 and later give a large write large pages. On a virtual machine that hands free memory back to its host
(virtio-balloon's free page reporting) those come from the host each time: measured 0.2 CPU seconds per GB in writes of
32 KiB, which come from each processor's own list, and 0.5 to 2 in larger ones."""


def free_bytes(folder: Path) -> int:
    """Return what an ordinary user may still write below a folder that need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def allocated_bytes(path: Path) -> int:
    """Return what a file already occupies on the disk; 0 if there is none."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def demand(folder: Path, needed: int, what: str) -> None:
    """Raise `DiskFull` unless so many bytes, and a reserve, are free."""
    wanted, free = needed + int(needed * RESERVE), free_bytes(folder)
    if needed > 0 and free < wanted:
        raise DiskFull(
            f"{what} needs {gigabytes(wanted)} more on the disk of {folder}, {gigabytes(free)} are free; free "
            f"{gigabytes(wanted - free)}, or point MODELS_DIR at a larger disk",
        )


def gigabytes(count: int) -> str:
    """Write bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def reserve(descriptor: int, size: int) -> None:
    """Take the blocks of a file at once, so that a full disk shows now and not after an hour.

    fallocate(2) is called directly: glibc's posix_fallocate writes every block where the filesystem cannot
    reserve (NFS, FUSE), which takes as long as the download. Raises `OSError`.
    """
    if size <= 0:
        return
    fallocate = getattr(_libc(), "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if fallocate(descriptor, KEEP_SIZE, 0, size) != 0:
        code = ctypes.get_errno()
        if code not in UNSUPPORTED:
            raise OSError(code, os.strerror(code))


class Outflow:
    """Lets the disk begin with what is written while more arrives, so that the fsync at the end has little to do.

    sync_file_range(2) starts the writing and promises nothing: the fsync is what makes it safe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pushed = 0
        self._call = getattr(_libc(), "sync_file_range", None)
        if self._call is not None:
            self._call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def push(self, written: int) -> None:
        """Begin to write out everything before a position."""
        if self._call is not None and written - self._pushed >= OUTFLOW_BYTES:
            self._call(self._descriptor, self._pushed, written - self._pushed, WRITE_OUT)
            self._pushed = written


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def named(error: OSError, path: Path) -> DiskError:
    """Give a disk's failure its name in our tree."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        return DiskFull(f"the disk of {path.parent} is full while {path.name} arrives ({reason}); free some space")
    return DiskBroken(f"{path} cannot be written or read ({reason}); check the disk and the rights of its folder")


def write_all(descriptor: int, data: bytes, position: int) -> None:
    """Write at a position; a disk that is nearly full takes a part first and tells the rest afterwards."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view[:WRITE_BYTES], position)
        view, position = view[count:], position + count
