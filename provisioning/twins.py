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
from provisioning.receipts import ProvenFile, Receipt


def bring(models_dir: Path, relative: Path, digest: Digest, stop: Event) -> ProvenFile | None:
    """Give a proven file of this content a second name; None if there is no such file.

    The receipts of all its names are written again, because a link changes the ctime. Nobody checks receipts
    meanwhile but machines, which may leave a queue for a second. A copy is made without keeping others waiting.
    """
    if digest.algorithm != "sha256":
        return None
    target = models_dir / relative
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), stop):
        twin = _twin_of(models_dir, relative, digest)
        if twin is None:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        if _link(models_dir / twin.path, target):
            refresh(models_dir, twin)
            return ProvenFile.of(models_dir, relative, str(digest))
    copied = _copy(models_dir / twin.path, target, digest, stop)
    return ProvenFile.of(models_dir, relative, str(digest)) if copied else None


def is_here(models_dir: Path, relative: Path, digest: Digest, stop: Event) -> bool:
    """Tell whether `bring` would find a proven file of this content. Raises `Stopped`."""
    if digest.algorithm != "sha256":
        return False
    # While it is given another name it looks for a moment as if it had been changed.
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), stop):
        return _twin_of(models_dir, relative, digest) is not None


def _twin_of(models_dir: Path, relative: Path, digest: Digest) -> ProvenFile | None:
    for receipt in receipts.load_all(models_dir).values():
        for file in receipt.files:
            is_twin = file.hash == str(digest) and file.path != relative.as_posix()
            if is_twin and receipts.file_is_intact(models_dir, file):
                return file
    return None


def _link(source: Path, target: Path) -> bool:
    part = layout.part_of(target)
    part.unlink(missing_ok=True)
    layout.journal_of(part).unlink(missing_ok=True)
    try:
        os.link(source, part, follow_symlinks=False)
    except OSError:
        return False
    part.replace(target)
    layout.sync_folder(target.parent)
    return True


def _copy(source: Path, target: Path, digest: Digest, stop: Event) -> bool:
    """Copy where links fail; a copy that does not have the hash is thrown away."""
    part = layout.part_of(target)
    shutil.copyfile(source, part, follow_symlinks=False)
    if digests.of_file(part, {"sha256"}, stop)["sha256"] != digest:
        part.unlink()
        return False
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    layout.sync_folder(target.parent)
    return True


def refresh(models_dir: Path, before: ProvenFile) -> None:
    """Write receipts again whose file has gained or lost a name, and was what `before` says until then.

    Only the ctime tells an edit in place from a new name: a receipt that had another one already is left to fail.
    """
    for receipt in receipts.load_all(models_dir).values():
        files = tuple(_renamed(models_dir, file, before) for file in receipt.files)
        if files != receipt.files:
            receipts.save(models_dir, replace(receipt, files=files))


def _renamed(models_dir: Path, file: ProvenFile, before: ProvenFile) -> ProvenFile:
    if (file.inode, file.ctime_ns) != (before.inode, before.ctime_ns):
        return file
    try:
        now = ProvenFile.of(models_dir, Path(file.path), file.hash)
    except OSError:
        return file
    return now if replace(now, ctime_ns=file.ctime_ns) == file else file


def save(models_dir: Path, receipt: Receipt, stop: Event) -> Receipt | None:
    """Save a receipt, brought up to date where a file has gained a name since it was proved; None if it was changed."""
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), stop):
        known = {
            (file.inode, file.hash): file for each in receipts.load_all(models_dir).values() for file in each.files
        }
        files = tuple(_up_to_date(models_dir, file, known.get((file.inode, file.hash))) for file in receipt.files)
        receipt = replace(receipt, files=files)
        if not receipts.is_intact(models_dir, receipt):
            return None
        receipts.save(models_dir, receipt)
        return receipt


def _up_to_date(models_dir: Path, file: ProvenFile, twin: ProvenFile | None) -> ProvenFile:
    """Take over the ctime from another name of the same file, whose receipt was written again when the name came."""
    if twin is None or receipts.file_is_intact(models_dir, file):
        return file
    return replace(file, ctime_ns=twin.ctime_ns)
