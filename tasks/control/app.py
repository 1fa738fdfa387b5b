"""The control worker's Celery app: `celery -A tasks.control.app worker -Q control,webhooks`, with `beat` beside it."""

import os
from pathlib import Path

from celery import Celery
from celery.signals import setup_logging, worker_ready

from app import logs
from app.bootstrap import make_fleet
from app.broker import make_celery
from app.settings import Settings
from tasks.control.civitai import Civitai
from tasks.control.deliver import Courier
from tasks.control.enrich import Enricher
from tasks.control.lanes import THREADS
from tasks.control.post import Poster
from tasks.control.schedule import register, register_enrichment


def make_control(settings: Settings) -> Celery:
    """Make the control worker's app."""
    celery = make_celery(settings.require_broker(), "imagefleet-control")
    celery.conf.worker_concurrency = THREADS
    fleet = make_fleet(settings)
    register(celery, fleet, Courier(fleet, Poster(allow_private=settings.webhook_allow_private)))
    if settings.civitai_metadata:
        register_enrichment(celery, Enricher(fleet, Civitai(settings.downloads)))
    return celery


@setup_logging.connect
def _log_as_we_do(**_: object) -> None:
    logs.configure(Settings.load(os.environ).log_level)


@worker_ready.connect
def _say_ready(**_: object) -> None:
    """Let who started us know, where they asked for it."""
    if path := os.environ.get("CONTROL_READY_FILE"):
        Path(path).touch()


app = make_control(Settings.load(os.environ))
