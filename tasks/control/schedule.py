"""The control worker's tasks and their schedule."""

import threading
from typing import Any
from uuid import UUID

from celery import Celery

from app import tracing
from app.core.dispatch import CONTROL_QUEUE, DELIVER, ENRICH, SWEEP, TIDY
from app.core.fleet import Fleet
from tasks.control.deliver import Courier
from tasks.control.enrich import Enricher
from tasks.control.sweep import sweep
from tasks.control.tidy import Tidier

SWEEP_SECONDS = 2.0
ENRICH_SECONDS = 5.0
TIDY_SECONDS = 60.0


def register(celery: Celery, fleet: Fleet, courier: Courier) -> None:
    """Teach this Celery app to look after the fleet, and to deliver what webhooks are owed."""
    sweeping = threading.Lock()

    @celery.task(name=SWEEP, shared=False)  # a shared task leaks into every other Celery app of the process
    def sweep_once() -> None:
        # A round that takes longer than the schedule is not joined by the next one.
        if sweeping.acquire(blocking=False):
            try:
                sweep(fleet)
            finally:
                sweeping.release()

    @celery.task(name=DELIVER, shared=False, bind=True)
    def deliver(task: Any, job_id: str) -> None:
        with tracing.span(DELIVER, "consumer", task.request.get(tracing.TRACEPARENT) or ""):
            courier.run(UUID(job_id))

    celery.conf.beat_schedule = {
        SWEEP: {
            "task": SWEEP,
            "schedule": SWEEP_SECONDS,
            # A worker that was away must not do all the rounds it missed.
            "options": {"queue": CONTROL_QUEUE, "expires": SWEEP_SECONDS},
        },
    }


def register_enrichment(celery: Celery, enricher: Enricher) -> None:
    """Teach this Celery app, which knows its other tasks already, to ask what the catalogue's readers are owed."""

    @celery.task(name=ENRICH, shared=False)
    def enrich() -> None:
        enricher.run()

    celery.conf.beat_schedule[ENRICH] = {
        "task": ENRICH,
        "schedule": ENRICH_SECONDS,
        "options": {"queue": CONTROL_QUEUE, "expires": ENRICH_SECONDS},
    }


def register_tidying(celery: Celery, tidier: Tidier) -> None:
    """Teach this Celery app to delete what is no longer kept."""

    @celery.task(name=TIDY, shared=False)
    def tidy() -> None:
        tidier.run()

    celery.conf.beat_schedule[TIDY] = {
        "task": TIDY,
        "schedule": TIDY_SECONDS,
        "options": {"queue": CONTROL_QUEUE, "expires": TIDY_SECONDS},
    }
