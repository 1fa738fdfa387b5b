"""Where files go that were proved wrong: away from the path that workers read, and still there to look at."""

import logging
from pathlib import Path

from provisioning import layout

log = logging.getLogger(__name__)


def take_away(models_dir: Path, bad: Path, name: str) -> Path | None:
    """Move a bad file into quarantine, by a rename; a file of that name from before makes room.

    A symbolic link is removed, not what it points to. Returns where the file lies now, None if there was none.
    """
    if bad.is_symlink():
        bad.unlink(missing_ok=True)
        return None
    folder = layout.quarantine_folder(models_dir)
    folder.mkdir(parents=True, exist_ok=True)
    refuge = folder / layout.file_name(name)
    try:
        bad.replace(refuge)
    except FileNotFoundError:
        return None
    layout.sync_folder(bad.parent)
    log.warning("%s was moved to %s", bad, refuge)
    return refuge
