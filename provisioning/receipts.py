"""Receipts: what was downloaded, proved, and when. A machine serves a model while its receipt is intact.

Reading them is cheap enough for once a second, and needs the standard library only. A receipt is believed as long as
size, mtime, ctime and inode of every file are what they were when the hash was checked. An edit in place that sets the
mtime back still changes the ctime (measured: size, mtime and inode stay alike).
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provisioning import layout

VERSION = 1


@dataclass(frozen=True, slots=True)
class ProvenFile:
    """One file as it was when its hash was checked; `path` is relative to MODELS_DIR."""

    path: str
    size: int
    hash: str
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, models_dir: Path, relative: Path, digest: str) -> "ProvenFile":
        """Describe a file that lies at its final path and has just been proved."""
        found = (models_dir / relative).lstat()
        return cls(
            path=relative.as_posix(),
            size=found.st_size,
            hash=digest,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            inode=found.st_ino,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof that a model lies on this machine.

    `url` carries no secret. `catalogue_hash` is what the catalogue demanded when the files were proved (None: nothing),
    so that a later change of the catalogue is noticed.
    """

    model_id: str
    url: str
    files: tuple[ProvenFile, ...]
    dependencies: tuple[str, ...]
    verified_at: str
    catalogue_hash: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the receipt as it is written."""
        return {
            "version": VERSION,
            "model_id": self.model_id,
            "url": self.url,
            "files": [asdict(file) for file in self.files],
            "dependencies": list(self.dependencies),
            "verified_at": self.verified_at,
            "catalogue_hash": self.catalogue_hash,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Receipt":
        """Read a receipt. Raises `ValueError`, `KeyError` or `TypeError` when it is none of ours."""
        if content["version"] != VERSION:
            raise ValueError(content["version"])
        return cls(
            model_id=str(content["model_id"]),
            url=str(content["url"]),
            files=tuple(_proven_file(file) for file in content["files"]),
            dependencies=tuple(str(each) for each in content["dependencies"]),
            verified_at=str(content["verified_at"]),
            catalogue_hash=content.get("catalogue_hash"),
        )


def _proven_file(content: Mapping[str, Any]) -> ProvenFile:
    path = str(content["path"])
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts or "\0" in path:
        raise ValueError(path)
    return ProvenFile(
        path=path,
        size=int(content["size"]),
        hash=str(content["hash"]),
        mtime_ns=int(content["mtime_ns"]),
        ctime_ns=int(content["ctime_ns"]),
        inode=int(content["inode"]),
    )


def load(models_dir: Path, model_id: str) -> Receipt | None:
    """Return a model's receipt, or None when there is none that can be read."""
    ours = layout.receipt_path(models_dir, model_id)
    beside = models_dir / layout.RECEIPTS / ours.name
    receipt = _read(ours if ours.exists() else beside)
    return receipt if receipt is not None and receipt.model_id == model_id else None


def load_all(models_dir: Path) -> dict[str, Receipt]:
    """Return every readable receipt by model id.

    On a read-only share they are those that lie beside the models, wherever we have none of our own.
    """
    folders = dict.fromkeys((models_dir, layout.state_folder(models_dir)))
    paths = {path.name: path for folder in folders for path in _listed(folder / layout.RECEIPTS)}
    found = (_read(paths[name]) for name in sorted(paths) if name.endswith(".json"))
    return {receipt.model_id: receipt for receipt in found if receipt is not None}


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> Receipt | None:
    try:
        return Receipt.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(models_dir: Path, receipt: Receipt) -> None:
    """Write a receipt: last of all, whole or not at all, and on the disk when this returns."""
    layout.write_whole(layout.receipt_path(models_dir, receipt.model_id), receipt.to_json(), durable=True)


def remove(models_dir: Path, model_id: str) -> None:
    """Withdraw a receipt. Machines stop serving the model within a second."""
    ours = layout.receipt_path(models_dir, model_id)
    beside = models_dir / layout.RECEIPTS / ours.name
    if beside != ours and beside.exists():
        # It cannot be removed from a read-only share; an empty one of our own stands before it.
        layout.write_whole(ours, {}, durable=True)
    else:
        ours.unlink(missing_ok=True)


def is_intact(models_dir: Path, receipt: Receipt) -> bool:
    """Tell, by stat alone, whether every file is still the one that was proved."""
    return bool(receipt.files) and all(file_is_intact(models_dir, file) for file in receipt.files)


def file_is_intact(models_dir: Path, file: ProvenFile) -> bool:
    """Tell, by one lstat, whether a file is still the one that was proved; a symbolic link never is."""
    try:
        found = os.lstat(models_dir / file.path)
    except (OSError, ValueError):
        return False
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == file.size
        and found.st_mtime_ns == file.mtime_ns
        and found.st_ctime_ns == file.ctime_ns
        and found.st_ino == file.inode
    )


def ready_models(models_dir: Path) -> frozenset[str]:
    """Return the models that may be served: their receipts, and those of all they depend on, are intact."""
    known = load_all(models_dir)
    ready = {model_id for model_id, receipt in known.items() if is_intact(models_dir, receipt)}
    while True:
        # Taking away what lacks a dependency until nothing changes treats a cycle as one unit: it stays or goes whole.
        lacking = {model_id for model_id in ready if not ready.issuperset(known[model_id].dependencies)}
        if not lacking:
            return frozenset(ready)
        ready -= lacking
