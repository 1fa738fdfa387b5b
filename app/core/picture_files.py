"""Where the store keeps pictures and what belongs to them, and how files are deleted: never lost, never too early.

A file is doomed in the transaction that takes its row away, and deleted after it; what could not be deleted then is
tried again by the control worker. So a crash at any moment leaves either both, or a file that the next round finds.
"""

import logging
import re
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.fleet import Fleet, Transaction
from app.core.tables import DoomedFile, Image, Input

log = logging.getLogger(__name__)

MOST_DELETED_AT_ONCE = 200
"""How many files one transaction deletes: SQLite has one writer, and it waits meanwhile."""

TRY_AGAIN = timedelta(minutes=10)
"""When a file is tried again that could not be deleted; others must not wait behind it."""

OF_PICTURE = re.compile(r"[0-9a-f]{2}/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(?:\w+|thumbnail\.webp)")
OF_INPUT = re.compile(r"inputs/[0-9a-f]{2}/([0-9a-f]{64})\.png")
UNFINISHED = ".part"
"""How the names of files end that were not written to their end."""


def picture_key(image_id: UUID, ending: str) -> str:
    """Say where the store keeps a picture."""
    return f"{image_id.hex[:2]}/{image_id}.{ending}"


def thumbnail_key(image_id: UUID) -> str:
    """Say where the store keeps a picture's thumbnail, if somebody has looked at one."""
    return picture_key(image_id, "thumbnail.webp")


def input_key(sha256: str) -> str:
    """Say where the store keeps a picture that a client gave."""
    return f"inputs/{sha256[:2]}/{sha256}.png"


def folders() -> list[str]:
    """Name the folders that hold all that there is."""
    pairs = [f"{number:02x}" for number in range(256)]
    return [*pairs, *(f"inputs/{pair}" for pair in pairs)]


def forget(tx: Transaction, gone: Iterable[tuple[UUID, str]], fleet: Fleet) -> None:
    """Drop the bytes of pictures, each an id and a key, as soon as their rows are gone for good."""
    keys = [key for image_id, picture in gone for key in (picture, thumbnail_key(image_id))]
    doom(tx, keys)
    for key in keys:
        tx.and_then(partial(_delete_now, fleet, key))


def _delete_now(fleet: Fleet, key: str) -> None:
    _delete(fleet, key)


def doom(tx: Transaction, keys: Iterable[str]) -> None:
    """Write down that files are to be deleted, in the change that takes their rows away."""
    for key in dict.fromkeys(keys):
        tx.session.merge(DoomedFile(key=key, due_at=tx.now))


def spare(tx: Transaction, key: str) -> bool:
    """Take back that a file is to be deleted, as a row needs it again; returns whether it was, and may be gone."""
    found = tx.session.get(DoomedFile, key, with_for_update=True)
    if found is None:
        return False
    tx.session.delete(found)
    return True


def delete_doomed(tx: Transaction, fleet: Fleet) -> int:
    """Delete files that are doomed, those that are due longest first; returns how many were tried."""
    due = select(DoomedFile).where(DoomedFile.due_at <= tx.now).order_by(DoomedFile.due_at)
    found = tx.session.scalars(due.limit(MOST_DELETED_AT_ONCE).with_for_update(skip_locked=True)).all()
    needed = still_needed(tx.session, [each.key for each in found])
    for each in found:
        if each.key in needed or _delete(fleet, each.key):
            tx.session.delete(each)
        else:
            each.due_at = tx.now + TRY_AGAIN
    return len(found)


def _delete(fleet: Fleet, key: str) -> bool:
    try:
        fleet.images.delete(key)
    except OSError as exc:
        log.warning("%s could not be deleted from the store, and will be tried again: %s", key, exc)
        return False
    return True


def still_needed(session: Session, keys: Iterable[str]) -> set[str]:
    """Return those of some keys that a row needs, and those that are nothing of ours."""
    pictures: dict[UUID, list[str]] = {}
    inputs: dict[str, str] = {}
    others: set[str] = set()
    for key in keys:
        if found := OF_PICTURE.fullmatch(key):
            pictures.setdefault(UUID(found[1]), []).append(key)
        elif found := OF_INPUT.fullmatch(key):
            inputs[found[1]] = key
        elif not key.endswith(UNFINISHED):
            others.add(key)
    drawn = session.scalars(select(Image.id).where(Image.id.in_(list(pictures))))
    given = session.scalars(select(Input.sha256).where(Input.sha256.in_(list(inputs))))
    return others | {key for each in drawn for key in pictures[each]} | {inputs[each] for each in given}
