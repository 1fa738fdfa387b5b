"""What tests of the OpenAI dialect send, and what they look at afterwards."""

import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image
from sqlalchemy import func, select

from app.core import images
from app.core.fleet import Fleet
from app.core.tables import IdempotencyKey, Job
from tests.builders import MODEL, a_machine, a_model, a_picture, an_upload, claim, finish, the_job
from tests.support.fakes import RecordingDispatcher
from tests.support.processes import WAIT_SECONDS
from tests.support.web import Client

GENERATE, EDIT, VARY = (f"/openai/v1/images/{name}" for name in ("generations", "edits", "variations"))
ORDER = {"model": MODEL, "prompt": "a red circle"}
NOT_WAITING = {"Prefer": "respond-async"}
USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}


def a_served_fleet(fleet: Fleet) -> Fleet:
    """Give a fleet a model, and a machine that is ready for it."""
    a_model(fleet, options={"steps": {"min": 10, "max": 40, "default": 20}})
    a_machine(fleet, ready_for=[MODEL])
    return fleet


def newest(fleet: Fleet) -> Job:
    """Return the job that was ordered last."""
    assert isinstance(fleet.dispatcher, RecordingDispatcher)
    return the_job(fleet, fleet.dispatcher.sent[-1].job_id)


def count(fleet: Fleet, table: type[Job | IdempotencyKey]) -> int:
    """Count the rows of a table."""
    with fleet.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def ordered(client: Client, fleet: Fleet, **order: Any) -> Job:
    """Order without waiting; returns the job."""
    answer = client.post(GENERATE, json=ORDER | order, headers=NOT_WAITING)
    assert answer.status_code == 202, answer.text
    return newest(fleet)


def a_file(picture: Image.Image, name: str = "picture.png") -> tuple[io.BytesIO, str]:
    """Make a file of a form."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file, name


def send(client: Client, path: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
    """Send a form, without waiting unless the headers say otherwise."""
    return client.post(path, data=dict(fields), content_type="multipart/form-data", headers=headers or NOT_WAITING)


@contextmanager
def somebody_who_draws(fleet: Fleet, dispatcher: RecordingDispatcher) -> Iterator[None]:
    """Draw the first job that is ordered, from another thread as a machine does."""

    def work() -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not dispatcher.sent:
            assert time.monotonic() < deadline, "nothing was ordered"
            time.sleep(0.01)
        draw(fleet, the_job(fleet, dispatcher.sent[0].job_id))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def draw(fleet: Fleet, job: Job) -> Job:
    """Draw a job as a machine does."""
    claim(fleet, job.id)
    kind = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}[job.spec["image_format"]]
    for position in range(job.spec["n"]):
        data = a_picture(kind=kind)
        images.receive(
            fleet, an_upload(job, position=position, data=data, media_type=f"image/{job.spec['image_format']}")
        )
    return finish(fleet, job)
