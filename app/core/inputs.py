"""Pictures that clients give: kept once each, named by the SHA-256 of their bytes, and handed to the machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import picture_files
from app.core.errors import InputNotFound, InvalidSpec
from app.core.fleet import Fleet, Transaction
from app.core.tables import Input

NOTED_EVERY = timedelta(hours=1)
"""How exactly it is kept when a picture was last used: orders with one picture should not wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A picture that has been checked, see `app.pictures`."""

    sha256: str
    media_type: str
    width: int
    height: int
    data: bytes


def keep(fleet: Fleet, given: Given) -> Input:
    """Keep a picture; the same one again changes nothing but when it was last used."""
    key = picture_files.input_key(given.sha256)
    with fleet.reading() as session:
        is_known = session.get(Input, given.sha256) is not None
    # Whole before its row: a row promises that machines can have it. A known one may have been lost by its store.
    if not is_known or not _is_there(fleet, key):
        fleet.images.put(key, given.data)
    with fleet.transaction() as tx:
        found = tx.session.get(Input, given.sha256, with_for_update=True)
        is_new = found is None
        if found is None:
            found = _added(tx, given, key)
            picture_files.spare(tx, key)
            _put_back(fleet, key, given)
        _noted(tx, found)
        tx.session.flush()
        tx.session.refresh(found)
        tx.session.expunge(found)
    if is_new:
        _put_back(fleet, key, given)
    return found


def _put_back(fleet: Fleet, key: str, given: Given) -> None:
    """Keep the bytes again where the sweeper has deleted them meanwhile: without the row nobody needed them."""
    if not _is_there(fleet, key):
        fleet.images.put(key, given.data)


def _is_there(fleet: Fleet, key: str) -> bool:
    try:
        fleet.images.get(key)
    except KeyError:
        return False
    return True


def _added(tx: Transaction, given: Given, key: str) -> Input:
    made = Input(
        sha256=given.sha256,
        key=key,
        media_type=given.media_type,
        width=given.width,
        height=given.height,
        size_bytes=len(given.data),
        created_at=tx.now,
        used_at=tx.now,
    )
    try:
        with tx.session.begin_nested():
            tx.session.add(made)
    except IntegrityError:  # somebody else brought it at this moment
        return tx.session.get_one(Input, given.sha256)
    return made


def _noted(tx: Transaction, found: Input) -> None:
    """Note that a picture is used; raises InputNotFound where it is being deleted, as nobody had used it for long."""
    if found.used_at < tx.now - NOTED_EVERY:
        held = tx.session.get(Input, found.sha256, with_for_update=True, populate_existing=True)
        if held is None:
            raise InputNotFound(f"picture {found.sha256} was just deleted; upload it again", input_id=found.sha256)
        held.used_at = tx.now


def get(session: Session, sha256: str) -> Input:
    """Find a picture; raises InputNotFound."""
    found = session.get(Input, sha256)
    if found is None:
        raise InputNotFound(f"there is no picture {sha256}; upload it first", input_id=sha256)
    return found


def read(fleet: Fleet, found: Input) -> bytes:
    """Read a picture's bytes; raises InputNotFound when the store has lost them."""
    try:
        return fleet.images.get(found.key)
    except KeyError as exc:
        raise InputNotFound(f"the bytes of picture {found.sha256} are no longer in the store; upload it again") from exc


def require(tx: Transaction, wanted: Sequence[str]) -> Mapping[str, Input]:
    """Find the pictures that an order needs, and note that they are used; raises InvalidSpec for missing ones."""
    if not wanted:
        return {}
    # In one order, so that two that need the same pictures cannot hold each other up.
    query = select(Input).where(Input.sha256.in_(wanted)).order_by(Input.sha256)
    found = {each.sha256: each for each in tx.session.scalars(query)}
    if missing := [each for each in wanted if each not in found]:
        raise InvalidSpec(
            f"there is no picture {', '.join(missing)}; upload it first, or give the picture itself in its place",
            pictures=missing,
        )
    for each in found.values():
        _noted(tx, each)
    return found


def fitted(size: tuple[int, int], most: int) -> tuple[int, int] | None:
    """Return width and height for drawing a picture that is too large to be drawn in its own; None for one that fits.

    All in pixels. They are multiples of 64, which every family can draw.
    """
    if max(size) <= most:
        return None
    scale = most / max(size)
    width, height = (max(GRID, int(side * scale) // GRID * GRID) for side in size)
    return width, height


GRID = 64
