"""Where things lie below MODELS_DIR, and which paths from outside may be followed.

::

    MODELS_DIR/<save_path>                     a proven file
    MODELS_DIR/<save_path>.part[.journal]      a file on its way
    MODELS_DIR/.receipts/<model id>.json       the proof
    MODELS_DIR/.provisioning/                  status, locks, quarantine

What we write about models lies beside them. Where MODELS_DIR cannot be written to (a read-only share), it lies below
the home folder: ``~/.local/state/imagefleet/<MODELS_DIR, url-quoted>/``.

Only the standard library is imported here: machines read receipts once a second.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from provisioning.errors import UnsafePath

RECEIPTS = ".receipts"
PRIVATE = ".provisioning"
STATE = Path(".local/state/imagefleet")
"""Below the home folder, as the XDG Base Directory Specification has it."""
PART = ".part"
JOURNAL = ".part.journal"
NAME_LIMIT = 255 - len(JOURNAL)
"""Bytes of a name on ext4, xfs and apfs, less what we append."""
DRIVE = re.compile(r"^[A-Za-z]:")


def is_read_only(models_dir: Path) -> bool:
    """Tell whether models can only be read here: a share of others, a mount without write access."""
    return models_dir.is_dir() and not os.access(models_dir, os.W_OK)


def state_folder(models_dir: Path) -> Path:
    """Return the folder below which we may write about models: theirs, or one of this machine's own."""
    if not is_read_only(models_dir):
        return models_dir
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir())
    return home / STATE / file_name(str(models_dir.resolve()))


def prepare(models_dir: Path) -> None:
    """Make the folders that we write to. Raises `OSError` where nobody could."""
    models_dir.mkdir(parents=True, exist_ok=True)
    for name in (RECEIPTS, PRIVATE):
        (state_folder(models_dir) / name).mkdir(parents=True, exist_ok=True)


def receipt_path(models_dir: Path, model_id: str) -> Path:
    """Return where a model's receipt is written. Ids too long for a file name are told apart by their hash."""
    return state_folder(models_dir) / RECEIPTS / f"{file_name(model_id)}.json"


def file_name(model_id: str) -> str:
    """Write an id so that it is one safe file name."""
    name = quote(model_id, safe="")
    if len(name) <= 200:
        return name
    return f"{name[:130]}.{hashlib.sha256(model_id.encode()).hexdigest()}"


def status_path(models_dir: Path) -> Path:
    """Return where the status for the machine's check-in lies."""
    return state_folder(models_dir) / PRIVATE / "status.json"


def lock_path(models_dir: Path, subject: str) -> Path:
    """Return the lock file of a subject. Lock files are never removed: a removed one would lock nobody out."""
    return state_folder(models_dir) / PRIVATE / "locks" / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.lock"


def quarantine_folder(models_dir: Path) -> Path:
    """Return where files lie that were proved wrong; on the models' own filesystem, so that moving is a rename."""
    return models_dir / PRIVATE / "quarantine"


def part_of(target: Path) -> Path:
    """Return where a file grows before it is proved."""
    return target.with_name(target.name + PART)


def journal_of(part: Path) -> Path:
    """Return the record of what is proved to be in a part."""
    return part.with_name(part.name.removesuffix(PART) + JOURNAL)


def relative_path(save_path: str) -> Path:
    """Read a path from the catalogue; it is relative to MODELS_DIR and names no dot-folder of ours.

    Raises `UnsafePath` for absolute paths, ``..``, backslashes, drive letters, control characters, too long names.
    """

    def refuse(why: str) -> UnsafePath:
        return UnsafePath(
            f"save_path {save_path!r} {why}; expected a path below MODELS_DIR such as checkpoints/model.safetensors; "
            "correct it in the catalogue",
        )

    if not save_path or save_path != save_path.strip():
        raise refuse("is empty or has blanks around it")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in save_path) or not _encodable(save_path):
        raise refuse("contains control characters")
    if "\\" in save_path or DRIVE.match(save_path):
        raise refuse("is written as a Windows path")
    if save_path.startswith("/"):
        raise refuse("is absolute")
    parts = [part for part in save_path.split("/") if part]
    if any(part in {".", ".."} for part in parts) or parts[0].startswith((".", "~")):
        raise refuse("leaves the models folder or enters a hidden one")
    if any(len(part.encode()) > NAME_LIMIT for part in parts) or len(save_path.encode()) > 3000:
        raise refuse("is too long for a file name")
    if parts[-1].endswith((PART, JOURNAL)):
        raise refuse("ends like a file that is on its way")
    return Path(*parts)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def place(models_dir: Path, relative: Path) -> Path:
    """Return the final path of a file, after making sure that no symbolic link leads it out of the models folder.

    Raises `UnsafePath`.
    """
    target = models_dir / relative
    try:
        root = models_dir.resolve()
        inside = target.parent.resolve().relative_to(root)
    except (ValueError, RuntimeError, OSError):
        raise UnsafePath(
            f"save_path {str(relative)!r} leads out of {models_dir} through a symbolic link; remove the link",
        ) from None
    if inside.parts and inside.parts[0].startswith("."):
        raise UnsafePath(f"save_path {str(relative)!r} leads into {inside.parts[0]} through a symbolic link")
    return target


def write_whole(path: Path, content: Mapping[str, object], *, durable: bool) -> None:
    """Replace a small JSON file so that a reader sees the old one or the new one, never a half.

    With `durable`, the file and its folder have reached the disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
