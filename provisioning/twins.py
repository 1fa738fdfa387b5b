"""The same content under two ids is stored once: a second name for the file, or a copy where links fail."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event

from provisioning import digests, layout, receipts
from provisioning.custody import RECEIPTS_LOCK
from provisioning.digests import Digest
from provisioning.locks import held
from provisioning.receipts import ProvenFile


def bring(models_dir: Path, relative: Path, digest: Digest, stop: Event) -> ProvenFile | None:
    """Give a proven file of this content a second name; None if there is no such file.

    The receipts of all its names are written again, because a link changes the ctime. Nobody checks receipts
    meanwhile but machines, which may leave a queue for a second.
    """
    if digest.algorithm != "sha256":
        return None
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), stop):
        for receipt in receipts.load_all(models_dir).values():
            for file in receipt.files:
                is_twin = file.hash == str(digest) and file.path != relative.as_posix()
                if is_twin and receipts.file_is_intact(models_dir, file):
                    return _second_name(models_dir, file, relative, digest)
    return None


def _second_name(models_dir: Path, twin: ProvenFile, relative: Path, digest: Digest) -> ProvenFile | None:
    target = models_dir / relative
    part = layout.part_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    layout.journal_of(part).unlink(missing_ok=True)
    try:
        os.link(models_dir / twin.path, part, follow_symlinks=False)
    except OSError:
        shutil.copyfile(models_dir / twin.path, part, follow_symlinks=False)
        if digests.of_file(part, {"sha256"})["sha256"] != digest:
            part.unlink()
            return None
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(target)
    layout.sync_folder(target.parent)
    refresh(models_dir, target.stat().st_ino)
    return ProvenFile.of(models_dir, relative, str(digest))


def refresh(models_dir: Path, inode: int) -> None:
    """Write receipts again whose file has gained or lost a name, and is otherwise what was proved."""
    for receipt in receipts.load_all(models_dir).values():
        files = tuple(_renamed(models_dir, file) if file.inode == inode else file for file in receipt.files)
        if files != receipt.files:
            receipts.save(models_dir, replace(receipt, files=files))


def _renamed(models_dir: Path, file: ProvenFile) -> ProvenFile:
    try:
        now = ProvenFile.of(models_dir, Path(file.path), file.hash)
    except OSError:
        return file
    return now if replace(now, ctime_ns=file.ctime_ns) == file else file
