"""The control worker's tasks and their schedule."""

from celery import Celery

from app.core.dispatch import CONTROL_QUEUE, SWEEP
from app.core.fleet import Fleet
from tasks.control.sweep import sweep

SWEEP_SECONDS = 2.0


def register(celery: Celery, fleet: Fleet) -> None:
    """Teach this Celery app to look after the fleet."""

    @celery.task(name=SWEEP, shared=False)  # a shared task leaks into every other Celery app of the process
    def sweep_once() -> None:
        sweep(fleet)

    celery.conf.beat_schedule = {
        SWEEP: {
            "task": SWEEP,
            "schedule": SWEEP_SECONDS,
            # A worker that was away must not do all the rounds it missed.
            "options": {"queue": CONTROL_QUEUE, "expires": SWEEP_SECONDS},
        },
    }
