"""Jobs that take longer than any computer is late, and that no test waits for."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from app.live import RedisLive
from tests.support.broker import patient
from tests.support.processes import wait_until
from tests.support.servers import ENDED


def hurried(broker_url: str, job_id: str, look: Callable[[], Any]) -> Any:
    """Have what is drawn of a job left as it is, picture after picture, until the job has ended; returns it.

    `look` asks for the job.
    """
    live = RedisLive(patient(broker_url))

    def has_ended() -> Any:
        if shown := live.progress(UUID(job_id)):
            live.ask_to_skip(UUID(job_id), shown)
        job = look()
        return job if job["status"] in ENDED else None

    return wait_until(has_ended, f"job {job_id} ends")
