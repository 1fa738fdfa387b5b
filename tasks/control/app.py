"""The control worker's Celery app: `celery -A tasks.control.app worker -Q control,webhooks`, with `beat` beside it."""

import os
from pathlib import Path

from celery import Celery
from celery.signals import setup_logging, worker_ready

from app import logs, tracing
from app.bootstrap import make_fleet
from app.broker import make_celery
from app.settings import Settings
from tasks.control.civitai import Civitai
from tasks.control.civitai_pictures import keeper_of
from tasks.control.deliver import Courier
from tasks.control.enrich import Enricher
from tasks.control.lanes import THREADS
from tasks.control.post import Patience, Poster
from tasks.control.schedule import register, register_enrichment, register_tidying
from tasks.control.tidy import Tidier


def make_control(settings: Settings) -> Celery:
    """Make the control worker's app."""
    celery = make_celery(settings.require_broker(), "imagefleet-control")
    celery.conf.worker_concurrency = THREADS
    celery.conf.beat_file = settings.beat_file
    fleet = make_fleet(settings)
    patience = Patience.of(settings.webhook_answer_seconds)
    register(celery, fleet, Courier(fleet, Poster(allow_private=settings.webhook_allow_private, patience=patience)))
    register_tidying(celery, Tidier(fleet, settings.keeping()))
    if settings.civitai_metadata:
        register_enrichment(
            celery, Enricher(fleet, Civitai(settings.downloads), keeper_of(settings.downloads, fleet.images))
        )
    return celery


@setup_logging.connect
def _log_as_we_do(**_: object) -> None:
    known = Settings.load(os.environ)
    logs.configure(known.log_level, known.log_format)


@worker_ready.connect
def _say_ready(**_: object) -> None:
    """Let who started us know, where they asked for it."""
    if path := os.environ.get("CONTROL_READY_FILE"):
        Path(path).touch()


tracing.start("control", os.environ)
app = make_control(Settings.load(os.environ))
