"""Builders: a thing of each kind, where a test says only what matters to it."""

import io
from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from PIL import Image as Pillow

from app.core import attempts, check_in, heartbeats, images, jobs, models
from app.core.attempts import Outcome
from app.core.errors import NotClaimable
from app.core.fleet import Fleet
from app.core.images import Upload
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, HoldingState
from app.core.machines import HoldingReport, Report
from app.core.models import CatalogueEntry
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Job, Model
from tests.support.fakes import Clock

MODEL = "a-model"
MACHINE = "gpu-1"
BOOT = "boot-1"


def an_entry(model_id: str = MODEL, **more: Any) -> CatalogueEntry:
    """Make a catalogue entry."""
    given = {
        "name": f"{model_id}.safetensors",
        "download_url": f"https://models.example.org/{model_id}.safetensors",
        "save_path": f"checkpoints/{model_id}.safetensors",
    }
    return CatalogueEntry(id=model_id, **(given | more))


def a_model(fleet: Fleet, model_id: str = MODEL, *, origin: str = "api", **more: Any) -> Model:
    """Put a model into the catalogue."""
    with fleet.transaction() as tx:
        models.put(tx, an_entry(model_id, **more), origin=origin)
    return the_model(fleet, model_id)


def the_model(fleet: Fleet, model_id: str) -> Model:
    """Read a model as it is now."""
    with fleet.reading() as session:
        return models.get(session, model_id)


def a_job(fleet: Fleet, *, model_id: str = MODEL, priority: int = 0, terms: Terms | None = None, **spec: Any) -> Job:
    """Submit a job; its model comes into the catalogue if it is not there."""
    with fleet.reading() as session:
        missing = models.find(session, [model_id])[1]
    if missing:
        a_model(fleet, model_id)
    given = {"prompt": "a red circle"} | spec
    with fleet.transaction() as tx:
        job_id = jobs.submit(tx, GenerationSpec(model_id=model_id, **given), terms or Terms(priority=priority)).id
    return the_job(fleet, job_id)


def the_job(fleet: Fleet, job_id: UUID) -> Job:
    """Read a job as it is now, with its attempts and images."""
    with fleet.reading() as session:
        return jobs.get(session, job_id)


def a_report(machine_id: str = MACHINE, *, ready_for: Iterable[str] = (), **more: Any) -> Report:
    """Make a check-in."""
    holdings = [HoldingReport(model_id=model_id, state=HoldingState.READY) for model_id in ready_for]
    return Report(**({"machine_id": machine_id, "boot_id": BOOT, "holdings": holdings} | more))


def a_machine(fleet: Fleet, machine_id: str = MACHINE, *, ready_for: Iterable[str] = (), **more: Any) -> str:
    """Let a machine check in; returns its id."""
    with fleet.transaction() as tx:
        check_in.check_in(tx, a_report(machine_id, ready_for=ready_for, **more))
    return machine_id


def let_pass(fleet: Fleet, clock: Clock, seconds: float) -> None:
    """Let time pass while the server listens to its machines."""
    until = clock.now + timedelta(seconds=seconds)
    while clock.now < until:
        clock.advance(min(heartbeats.BEAT_SECONDS, (until - clock.now).total_seconds()))
        with fleet.transaction() as tx:
            heartbeats.beat(tx, heartbeats.API)


def claim(
    fleet: Fleet, job_id: UUID, machine_id: str = MACHINE, boot_id: str = BOOT, claim_id: UUID | None = None
) -> Attempt | None:
    """Let a machine follow the bell of a job; returns what it was given, None when that is nothing."""
    try:
        with fleet.transaction() as tx:
            attempt = attempts.claim(tx, job_id, machine_id, boot_id, claim_id)
            given = (attempt.job_id, attempt.number)
    except NotClaimable:
        return None
    with fleet.reading() as session:
        return session.get_one(Attempt, given)


def a_running_job(fleet: Fleet, machine_id: str = MACHINE, **spec: Any) -> Job:
    """Submit a job and let a machine claim it."""
    job = a_job(fleet, **spec)
    a_machine(fleet, machine_id, ready_for=[job.model_id])
    assert claim(fleet, job.id, machine_id) is not None
    return the_job(fleet, job.id)


def a_picture(colour: str = "red", kind: str = "PNG") -> bytes:
    """Make the file of a small picture."""
    file = io.BytesIO()
    Pillow.new("RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def an_upload(job: Job, *, attempt: int = 1, position: int = 0, data: bytes | None = None, **more: Any) -> Upload:
    """Make a picture's delivery by the attempt that holds the job."""
    data = a_picture() if data is None else data
    given: dict[str, Any] = {
        "machine_id": MACHINE,
        "seed": 7 + position,
        "width": 8,
        "height": 8,
        "media_type": "image/png",
        "sha256": sha256(data).hexdigest(),
    }
    return Upload(job_id=job.id, attempt=attempt, position=position, data=data, **(given | more))


def finish(
    fleet: Fleet,
    job: Job,
    state: AttemptState = AttemptState.COMPLETED,
    *,
    attempt: int = 1,
    machine_id: str = MACHINE,
    **outcome: Any,
) -> Job:
    """Let a machine end its attempt."""
    with fleet.transaction() as tx:
        attempts.finish(tx, job.id, attempt, machine_id, Outcome(state, **outcome))
    return the_job(fleet, job.id)


def a_completed_job(fleet: Fleet, **spec: Any) -> Job:
    """Submit a job, and let a machine draw and finish it."""
    job = a_running_job(fleet, **spec)
    for position in range(int(job.spec["n"])):
        images.receive(fleet, an_upload(job, position=position))
    return finish(fleet, job)
