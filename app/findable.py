"""Whether a model's file can be had, asked before its entry comes into the catalogue.

It is asked with provisioning's own planner, so that the answer is the one that a machine would get: the same tokens,
the same check of every address that a socket is opened to, also behind redirects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

from app.core.errors import FileNotFound
from app.core.models import CatalogueEntry
from app.selves import own_address
from app.settings import Settings
from provisioning import local
from provisioning.catalogue import Entry, Findings
from provisioning.errors import (
    AccessError,
    BadEntry,
    GoneUpstream,
    NeedsExtra,
    NeedsToken,
    OriginError,
    ProvisioningError,
    WebPage,
)
from provisioning.plan import Planner

NOWHERE = Path("/nonexistent/imagefleet")
"""A models folder in which nothing lies: the file is to be asked for."""

PAUSE_SECONDS = 0.05
STALL_SECONDS = 5.0
"""Less patience than a machine has: somebody waits for the answer."""


def require(settings: Settings, entry: CatalogueEntry, base_url: str) -> Mapping[str, Any]:
    """Raise FileNotFound where the file of an entry could not be fetched; returns columns that the file itself tells.

    `base_url` is where we ourselves are, for what we hand out. No byte of a remote file is taken, and one that needs a
    token which only machines may have is taken on trust. A file of this computer is hashed: machines take no local file
    that nothing proves.
    """
    if local.is_local(entry.download_url):
        return _told_by_file(entry)
    ours = own_address(settings, base_url)
    try:
        known = Entry.from_json({name: getattr(entry, name) for name in ASKED}, ours)
    except BadEntry as exc:
        raise _not_found(entry, exc) from exc
    asked = replace(
        settings.downloads,
        fleet_url=ours,
        models_dir=NOWHERE,
        hf_cache=None,
        pause_seconds=PAUSE_SECONDS,
        stall_seconds=STALL_SECONDS,
    )
    trouble = Planner(asked, _One(known)).plan([entry.id]).lines[0].error
    if trouble is not None and _means_not_there(trouble, entry):
        raise _not_found(entry, trouble)
    return {}


def _told_by_file(entry: CatalogueEntry) -> Mapping[str, Any]:
    try:
        path = local.path_of(entry.download_url)
        if not path.is_file():  # a pipe or a device would be read for ever
            raise FileNotFoundError(path)
        with path.open("rb") as file:
            told: dict[str, Any] = {} if entry.hash else {"hash": f"sha256:{file_digest(file, 'sha256').hexdigest()}"}
            return told | {"size_bytes": path.stat().st_size}
    except (BadEntry, OSError) as exc:
        trouble = exc if isinstance(exc, BadEntry) else GoneUpstream(f"{entry.download_url} is no file of this server")
        raise _not_found(entry, trouble) from exc


def _not_found(entry: CatalogueEntry, trouble: ProvisioningError) -> FileNotFound:
    return FileNotFound(f"failed to find or download file: {trouble}", model_id=entry.id, reason=trouble.code)


ASKED = ("id", "name", "download_url", "save_path", "hash", "size_bytes", "auth_required", "auth_provider")
"""What of an entry is needed to ask for its file."""


@dataclass(frozen=True, slots=True)
class _One:
    """A catalogue that has this entry and no other."""

    entry: Entry

    def closure(self, model_ids: Iterable[str]) -> Findings:
        """Return the entry."""
        return Findings(dict.fromkeys(model_ids, self.entry))


def _means_not_there(trouble: ProvisioningError, entry: CatalogueEntry) -> bool:
    """Say whether a machine would fail too; what a machine may have and the server lacks is no reason."""
    if isinstance(trouble, NeedsExtra) or (isinstance(trouble, NeedsToken) and entry.auth_required):
        return False
    return isinstance(trouble, (OriginError, AccessError, BadEntry, WebPage))


def require_allowed(settings: Settings, address: str, *, asked_here: bool) -> None:
    """Raise FileNotFound for a `file://` address outside of FILE_FOLDERS.

    With none set, only who asks from this very computer, on a server without tokens, may name its files.
    """
    if not address.lower().startswith("file:"):
        return
    if not settings.file_folders:
        if asked_here:
            return
        raise FileNotFound(
            "failed to find or download file: this server takes no file:// addresses; its operator can name "
            "folders for them with FILE_FOLDERS"
        )
    try:
        path = local.path_of(address).resolve()
    except BadEntry as exc:
        raise FileNotFound(f"failed to find or download file: {exc}") from exc
    if not any(path.is_relative_to(folder.resolve()) for folder in settings.file_folders):
        raise FileNotFound("failed to find or download file: its address leads out of the server's FILE_FOLDERS")
