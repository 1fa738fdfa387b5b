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
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
