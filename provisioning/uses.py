"""Who uses which model, for eviction: the least recently used goes first, and one in use never goes.

Workers call these; they need the standard library only.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provisioning import layout

USES = "uses"


def _path(models_dir: Path, model_id: str) -> Path:
    return layout.state_folder(models_dir) / layout.PRIVATE / USES / layout.file_name(model_id)


def mark(models_dir: Path, model_id: str) -> None:
    """Note that a model was used just now."""
    path = _path(models_dir, model_id)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path)


@contextmanager
def leased(models_dir: Path, model_id: str) -> Iterator[None]:
    """Keep a model from being evicted for the length of a block; any number of processes may hold it."""
    mark(models_dir, model_id)
    path = _path(models_dir, model_id)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unleased(models_dir: Path, model_id: str) -> Iterator[bool]:
    """Tell whether nobody holds a model, and keep it so for the length of a block.

    Where the filesystem has no locks nobody can tell, and every model counts as held.
    """
    path = _path(models_dir, model_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _taken(descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def last_used(models_dir: Path, model_id: str) -> float:
    """Return when a model was used last, in seconds since the epoch; when it was proved, if never."""
    for path in (_path(models_dir, model_id), layout.receipt_path(models_dir, model_id)):
        with suppress(OSError):
            return path.stat().st_mtime
    return time.time()
