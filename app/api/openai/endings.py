"""Why an order brings no pictures, for those who have waited for them."""

from dataclasses import replace

from app.api.door import Refused
from app.core.lifecycle import JobState
from app.core.tables import Job

RETRY_SECONDS = 1
"""After which a client that waited in vain may come back: it waits for the same job then."""


class WithoutPictures(Refused):
    """A job has brought no pictures, or not yet; the problem names it."""

    def __init__(self, job: Job, status: int, code: str, why: str, retry_after: int | None = None) -> None:
        super().__init__(status, code, f"job {job.id} {why}")
        self.problem = replace(self.problem, facts={"job_id": str(job.id)}, retry_after=retry_after)


def refusal_of(job: Job) -> WithoutPictures | None:
    """Say why a job brings no pictures at this moment; None where it does."""
    if job.state == JobState.COMPLETED:
        return None
    if job.state == JobState.ERROR:
        return WithoutPictures(job, 500, job.error_code or "error", f"failed: {job.error or 'no reason was given'}")
    if job.state == JobState.CANCELLED:
        why = f"was cancelled: {job.error or 'somebody asked for that'}"
        return WithoutPictures(job, 409, job.error_code or "cancelled", why)
    why = (
        f"is still {job.state} and goes on; send the same request again within two minutes to wait for it, or ask for "
        f"it at /v1/jobs/{job.id}; the server lets nobody wait for longer than OPENAI_WAIT_SECONDS"
    )
    return WithoutPictures(job, 504, "too_slow", why, RETRY_SECONDS)
