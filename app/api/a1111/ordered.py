"""Jobs that a client waits for inside its request: placed, waited for, and their pictures read."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

from app import pictures
from app.api import ordering
from app.api.a1111 import translate
from app.api.a1111.blueprint import NAME
from app.api.door import Refused, caller, fleet, settings
from app.api.waiting import waiting_room
from app.core import images, jobs
from app.core.errors import ImageNotFound
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.lifecycle import ENDED, JobState
from app.core.tables import Job
from app.core.webhooks import HookRequest

log = logging.getLogger(__name__)


def awaited(place: Callable[[], Sequence[UUID]]) -> list[Job]:
    """Have jobs placed, and wait until all have ended; without a seat nothing is placed.

    Raises Refused for one that failed or took too long, and ServiceUnavailable.
    """
    with waiting_room().seat():
        job_ids = place()
        deadline = time.monotonic() + settings().a1111_wait_seconds
        for job_id in job_ids:
            state = waiting_room().wait(fleet(), job_id, max(0.0, deadline - time.monotonic()))
            if state not in ENDED:
                raise _too_slow(job_id, state)
    with fleet().reading() as session:
        found = jobs.get_each(session, job_ids)
    if failed := next((job for job in found if job.state == JobState.ERROR), None):
        raise translate.failure(failed)
    return found


def placed(do: Callable[[Transaction, Terms], Sequence[Job]], hook: HookRequest | None = None) -> list[UUID]:
    """Place the jobs of this request in its caller's name."""
    with ordering.placed(Terms(dialect=NAME, caller=caller(), hook=hook), do) as found:
        return [job.id for job in found]


def pictures_of(job: Job) -> list[bytes]:
    """Read what was drawn; nothing where the job was interrupted."""
    return [images.read(fleet(), image) for image in jobs.shown_images(job)]


def drawn_by_then(job: Job) -> list[tuple[int, bytes]]:
    """Read what was drawn of a job, also where it was interrupted; each picture with its position in the order.

    Where it was interrupted before its first picture was there, it is the newest preview, in the size and the format of
    the picture: Automatic1111 hands over what it had begun, and many clients read the first picture unasked.
    """
    if job.state != JobState.CANCELLED:
        return [(image.position, images.read(fleet(), image)) for image in images.brought(job)]
    found = []
    for image in images.brought(job):
        with suppress(ImageNotFound):  # nobody has promised to keep it
            found.append((image.position, images.read(fleet(), image)))
    return found or _begun(job)


def _begun(job: Job) -> list[tuple[int, bytes]]:
    """Show what was being drawn when a job was interrupted, where anything of it was seen."""
    progress, preview = fleet().live.progress(job.id), fleet().live.preview(job.id)
    if progress is None or preview is None or progress.attempt != job.attempt:
        return []
    size = int(job.spec["width"]), int(job.spec["height"])
    try:
        data = pictures.as_large_as(preview, size, job.spec["image_format"])
    except pictures.BROKEN:
        log.warning("job %s: its preview cannot be read", job.id, exc_info=True)
        return []
    return [(min(progress.image, int(job.spec["n"]) - 1), data)]


def _too_slow(job_id: UUID, state: JobState) -> Refused:
    return Refused(
        504,
        "too_slow",
        f"job {job_id} is {state} after {settings().a1111_wait_seconds} s (A1111_WAIT_SECONDS); it goes on, and "
        f"GET /v1/jobs/{job_id} on the main port shows it",
    )
