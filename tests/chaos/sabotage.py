"""Breaking what was proved, to show that the proof can fail: each kind must be found by the check it is meant for."""

from collections.abc import Callable
from uuid import uuid4

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Attempt, Image, Job
from tests.chaos.proof import Evidence
from tests.chaos.receiver import Received, Receiver
from tests.support.system import System


def _a_completed_job(evidence: Evidence) -> Job:
    return next(job for job in reversed(evidence.jobs) if job.state == JobState.COMPLETED)


def _delete_a_job(system: System, receiver: Receiver, evidence: Evidence) -> None:  # one shape for all
    with Session(system.engine) as session, session.begin():
        session.execute(delete(Job).where(Job.id == _a_completed_job(evidence).id))


def _double_a_job(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    job = _a_completed_job(evidence)
    with Session(system.engine) as session, session.begin():
        row = session.execute(select(Job.__table__).where(Job.id == job.id)).mappings().one()
        session.execute(insert(Job).values({**row, "id": uuid4(), "attempt": 0, "state": JobState.CANCELLED}))


def _reopen_a_job(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    with Session(system.engine) as session, session.begin():
        change = update(Job).where(Job.id == _a_completed_job(evidence).id)
        session.execute(change.values(state=JobState.QUEUED, ended_at=None))


def _complete_a_job_twice(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    job = _a_completed_job(evidence)
    last = job.attempts[-1]
    with Session(system.engine) as session, session.begin():
        session.add(
            Attempt(
                job_id=job.id,
                number=last.number + 1,
                machine_id=last.machine_id,
                boot_id=last.boot_id,
                state=AttemptState.COMPLETED,
                started_at=last.ended_at,
                ended_at=last.ended_at,
            )
        )


def _exchange_a_picture(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    pictures: list[Image] = [job.images[-1] for job in evidence.jobs if job.state == JobState.COMPLETED][:2]
    one, other = (system.images() / picture.key for picture in pictures)
    one.write_bytes(other.read_bytes())


def _lie_to_a_client(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    job = _a_completed_job(evidence)
    order = next(order for order in evidence.journal.orders if order.prompt == job.spec["prompt"])
    order.seen.add("cancelled")


def _drop_a_webhook(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    lost = receiver.accepted()[0].job_id
    receiver.received[:] = [event for event in receiver.received if event.job_id != lost]


def _tell_a_webhook_otherwise(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    true = next(event for event in receiver.accepted() if event.state == "completed")
    body = true.body.replace(b"completed", b"cancelled")
    receiver.received.append(Received(true.at, true.path, true.headers, body, accepted=True))


def _forge_a_webhook(system: System, receiver: Receiver, evidence: Evidence) -> None:  # as above
    true = receiver.accepted()[1]
    receiver.received.append(Received(true.at, true.path, true.headers, true.body + b" ", accepted=True))


SABOTAGE: dict[str, tuple[str, Callable[[System, Receiver, Evidence], None]]] = {
    "job": ("every_accepted_job_exists", _delete_a_job),
    "double": ("every_order_is_one_job", _double_a_job),
    "reopened": ("every_job_has_ended", _reopen_a_job),
    "twice": ("attempts_are_consistent", _complete_a_job_twice),
    "picture": ("pictures_are_as_asked", _exchange_a_picture),
    "client": ("clients_saw_the_truth", _lie_to_a_client),
    "webhook": ("webhooks_tell_the_truth", _drop_a_webhook),
    "conflict": ("webhooks_tell_the_truth", _tell_a_webhook_otherwise),
    "forged": ("webhooks_are_signed_and_in_order", _forge_a_webhook),
}
"""What can be broken: the check that must find it, and how it is done."""
