"""Where files go that were proved wrong: away from the path that workers read, and still there to look at.

What is known about them is kept beside them, so that a machine that tries again neither fetches the same wrong
bytes every five minutes, nor fetches them at all once the catalogue says that they are right.
"""

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provisioning import digests, layout
from provisioning.digests import Digest
from provisioning.errors import BadHash

log = logging.getLogger(__name__)

FACTS = ".json"
AGAIN_SECONDS = 6 * 3600.0
"""After so long the same ETag is no reason any more: a cache on the way may have been mended without a new one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was fetched and refused: its digests, and how the origin marked it."""

    refuge: Path
    digests: tuple[Digest, ...]
    etag: str | None
    size: int


def take_away(models_dir: Path, bad: Path, name: str) -> Path | None:
    """Move a bad file into quarantine, by a rename; a file of that name from before makes room.

    A symbolic link is removed, not what it points to. Returns where the file lies now, None if there was none.
    """
    if bad.is_symlink():
        bad.unlink(missing_ok=True)
        return None
    refuge = _refuge(models_dir, name)
    refuge.parent.mkdir(parents=True, exist_ok=True)
    try:
        bad.replace(refuge)
    except FileNotFoundError:
        return None
    refuge.with_name(refuge.name + FACTS).unlink(missing_ok=True)
    layout.sync_folder(bad.parent)
    log.warning("%s was moved to %s", bad, refuge)
    return refuge


def note(refuge: Path, found: Iterable[Digest], etag: str | None, size: int) -> None:
    """Write down what a refused file is."""
    facts = {"digests": [str(each) for each in found], "etag": etag, "size": size}
    layout.write_whole(refuge.with_name(refuge.name + FACTS), facts, durable=False)


def recall(models_dir: Path, name: str) -> Refused | None:
    """Return what is known about the file that was refused for a path, if it is still there."""
    refuge = _refuge(models_dir, name)
    try:
        facts = json.loads(refuge.with_name(refuge.name + FACTS).read_bytes())
        found = tuple(digests.parse(each) for each in facts["digests"])
        refused = Refused(refuge, found, facts["etag"], int(facts["size"]))
    except (OSError, ValueError, KeyError, TypeError, BadHash):
        return None
    return refused if refuge.is_file() and refuge.stat().st_size == refused.size else None


def lately(models_dir: Path, name: str) -> Refused | None:
    """Return what `recall` does if it was refused not long ago: reason enough not to fetch the same again."""
    refused = recall(models_dir, name)
    if refused is None:
        return None
    age = time.time() - refused.refuge.with_name(refused.refuge.name + FACTS).stat().st_mtime
    return refused if age < AGAIN_SECONDS else None


def _refuge(models_dir: Path, name: str) -> Path:
    return layout.quarantine_folder(models_dir) / layout.file_name(name)
