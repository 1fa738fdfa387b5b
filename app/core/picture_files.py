"""Where the store keeps what belongs to a picture, and how it is dropped again."""

from collections.abc import Iterable
from functools import partial
from uuid import UUID

from app.core.fleet import Fleet, Transaction


def forget(tx: Transaction, gone: Iterable[tuple[UUID, str]], fleet: Fleet) -> None:
    """Drop the bytes of pictures, each an id and a key, once their rows are gone for good."""
    for image_id, key in gone:
        tx.and_then(partial(fleet.images.delete, key))
        tx.and_then(partial(fleet.images.delete, thumbnail_key(image_id)))


def thumbnail_key(image_id: UUID) -> str:
    """Say where the store keeps a picture's thumbnail, if somebody has looked at one."""
    return f"{image_id.hex[:2]}/{image_id}.thumbnail.webp"
