"""Names on the broker: ours, and only where they should be."""

import pytest

from app.broker import make_celery, without_secrets
from app.core import dispatch
from app.core.fleet import Fleet
from app.core.jobs import bell
from app.core.lifecycle import JobState
from app.core.tables import Job
from app.settings import Settings
from tasks.control.deliver import Courier
from tasks.control.post import Poster
from tasks.control.schedule import register as register_control
from tasks.machine.app import register as register_machine
from tests.support.fakes import MONDAY

FOREIGN = ("celery.", "pytest_celery.")


def test_queues_are_named_after_what_they_lead_to() -> None:
    assert dispatch.model_queue("demo-shapes") == "model.demo-shapes"
    assert dispatch.engine_queue("e-1") == "engine.e-1"
    assert dispatch.machine_queue("gpu-1") == "machine.gpu-1"
    assert (dispatch.CONTROL_QUEUE, dispatch.WEBHOOK_QUEUE) == ("control", "webhooks")


def test_a_bell_carries_nothing_but_the_jobs_id_and_its_rank() -> None:
    job = Job(model_id="flux-dev", state=JobState.QUEUED, spec={"prompt": "secret"}, priority=3, created_at=MONDAY)

    message = bell(job)

    assert (message.task, message.queue, message.priority) == (dispatch.GENERATE, "model.flux-dev", 3)
    assert "secret" not in repr(message)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:a%40secret@broker.example:6380/1?password=secret", "redis://broker.example:6380"),
        ("amqp://user:secret@one//;amqp://user:secret@two//", "amqp://one, amqp://two"),
        ("redis+socket:///run/broker.sock?virtual_host=0", "redis+socket:///run/broker.sock"),
    ],
)
def test_where_a_broker_is_can_be_told_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_each_side_knows_its_own_tasks_only(fleet: Fleet, settings: Settings) -> None:
    control, machine = make_celery(settings, "one"), make_celery(settings, "other")

    register_control(control, fleet, Courier(fleet, Poster(allow_private=False)))
    register_machine(machine, None)  # type: ignore[arg-type]  # the worker is not asked here

    assert {name for name in control.tasks if not name.startswith(FOREIGN)} == {dispatch.SWEEP, dispatch.DELIVER}
    assert {name for name in machine.tasks if not name.startswith(FOREIGN)} == {dispatch.GENERATE, dispatch.ENGINES}


def test_the_control_worker_sweeps_by_schedule(fleet: Fleet, settings: Settings) -> None:
    control = make_celery(settings)

    register_control(control, fleet, Courier(fleet, Poster(allow_private=False)))

    (entry,) = control.conf.beat_schedule.values()
    assert (entry["task"], entry["options"]["queue"]) == (dispatch.SWEEP, dispatch.CONTROL_QUEUE)
    assert entry["options"]["expires"] <= entry["schedule"]


def test_a_message_is_settled_late_and_one_at_a_time(settings: Settings) -> None:
    conf = make_celery(settings).conf

    assert (conf.task_acks_late, conf.worker_prefetch_multiplier) == (True, 1)
    assert (conf.worker_pool, conf.worker_concurrency) == ("threads", 1)
    assert (conf.task_ignore_result, conf.result_backend) == (True, None)
    assert conf.accept_content == ["json"]
