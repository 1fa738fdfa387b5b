"""Pictures: taken from the machine that holds the job, kept whole, shown once the job is completed."""

import hashlib
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.core import attempts, picture_files
from app.core.errors import ImageNotFound, Invalid
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import JobState
from app.core.tables import Image, Job

SIGNATURES = {
    "image/png": (b"\x89PNG\r\n\x1a\n", "png"),
    "image/jpeg": (b"\xff\xd8\xff", "jpg"),
    "image/webp": (b"RIFF", "webp"),
}
"""How the bytes of each kind begin, and how its files end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A picture as a machine delivers it."""

    job_id: UUID
    attempt: int
    machine_id: str
    position: int
    seed: int
    width: int
    height: int
    media_type: str
    sha256: str
    data: bytes


def receive(fleet: Fleet, upload: Upload) -> UUID:
    """Keep a picture of the attempt that holds the job; bringing the same one twice changes nothing.

    Raises StaleAttempt when the job has gone to another attempt, and Invalid when the bytes are not what was said.
    """
    _check(upload)
    with fleet.reading() as session:
        job, _ = attempts.holding(session, upload.job_id, upload.attempt, upload.machine_id)
        if not 0 <= upload.position < job.spec["n"]:
            raise Invalid(f"job {job.id} wants {job.spec['n']} pictures; there is no position {upload.position}")
        if existing := _delivered(session, upload):
            return existing.id
    image_id = uuid4()
    key = picture_files.picture_key(image_id, SIGNATURES[upload.media_type][1])
    fleet.images.put(key, upload.data)
    with fleet.transaction() as tx:
        attempts.holding(tx.session, upload.job_id, upload.attempt, upload.machine_id)
        if existing := _delivered(tx.session, upload):
            fleet.images.delete(key)
            return existing.id
        tx.session.add(
            Image(
                id=image_id,
                job_id=upload.job_id,
                attempt=upload.attempt,
                position=upload.position,
                seed=upload.seed,
                width=upload.width,
                height=upload.height,
                media_type=upload.media_type,
                size_bytes=len(upload.data),
                sha256=upload.sha256,
                key=key,
                created_at=tx.now,
            ),
        )
    return image_id


def _check(upload: Upload) -> None:
    if upload.media_type not in SIGNATURES:
        raise Invalid(f"pictures are {', '.join(SIGNATURES)}, not {upload.media_type!r}")
    if not upload.data.startswith(SIGNATURES[upload.media_type][0]):
        raise Invalid(f"the bytes do not begin as {upload.media_type} does")
    found = hashlib.sha256(upload.data).hexdigest()
    if found != upload.sha256:
        raise Invalid(f"the picture's SHA-256 was announced as {upload.sha256} and is {found}; send it again")


def _delivered(session: Session, upload: Upload) -> Image | None:
    query = select(Image).where(Image.job_id == upload.job_id, Image.attempt == upload.attempt)
    return session.scalars(query.where(Image.position == upload.position)).first()


def get(session: Session, image_id: UUID) -> Image:
    """Find a picture that may be shown; raises ImageNotFound for others, also those of attempts that lost."""
    image = session.get(Image, image_id, options=(joinedload(Image.job),))
    if image is None or not _may_be_seen(image, image.job):
        raise ImageNotFound(f"there is no image {image_id}", image_id=str(image_id))
    return image


def mark(tx: Transaction, image_id: UUID, *, is_favourite: bool) -> Image:
    """Make a picture a favourite, or an ordinary one again; raises ImageNotFound."""
    image = _held(tx, image_id)
    image.is_favourite = is_favourite
    return image


def _held(tx: Transaction, image_id: UUID) -> Image:
    """Lock a picture that may be shown; raises ImageNotFound, also where it is deleted at this moment."""
    if tx.session.get(Image, image_id, with_for_update=True) is None:
        raise ImageNotFound(f"there is no image {image_id}", image_id=str(image_id))
    return get(tx.session, image_id)


def remove(tx: Transaction, image_id: UUID, fleet: Fleet) -> None:
    """Delete a picture, its bytes and its thumbnail; its job stays. Raises ImageNotFound."""
    image = _held(tx, image_id)
    tx.session.delete(image)
    picture_files.forget(tx, [(image.id, image.key)], fleet)


def _may_be_seen(image: Image, job: Job) -> bool:
    return job.state == JobState.COMPLETED and image.attempt == job.attempt


def brought(job: Job) -> list[Image]:
    """Return what a job's last attempt has delivered, in its order; of a cancelled one, what was drawn by then."""
    return [image for image in job.images if image.attempt == job.attempt]


def read(fleet: Fleet, image: Image) -> bytes:
    """Read a picture's bytes; raises ImageNotFound when the store has lost them."""
    try:
        return fleet.images.get(image.key)
    except KeyError as exc:
        raise ImageNotFound(f"the bytes of image {image.id} are no longer in the store") from exc
