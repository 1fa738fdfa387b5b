"""gunicorn's settings, out of ours."""

import os
from pathlib import Path
from typing import Any

from app import catalogue, database
from app.api import waiting
from app.bootstrap import make_fleet
from app.core.fleet import Fleet
from app.heart import Heart
from app.parse import SettingsError
from app.settings import Settings

settings = Settings.load(os.environ)

bind = f"{settings.host}:{settings.port}"
workers = settings.web_workers
threads = settings.web_threads
worker_class = "gthread"
timeout = 120
graceful_timeout = 10
keepalive = 75
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # gunicorn's heartbeat file; on a slow disk it blocks workers
accesslog = None
errorlog = "-"
loglevel = "warning"
control_socket_disable = True


def on_starting(_server: Any) -> None:
    """Refuse an old schema, and write what config.yaml, MODEL_* and we ourselves bring into the catalogue."""
    fleet = make_fleet(settings)
    try:
        _prepare(fleet)
    except SettingsError as exc:
        raise SystemExit(str(exc)) from exc
    fleet.engine.dispose()


def post_worker_init(worker: Any) -> None:
    """Let clients wait for pictures on half of the threads, for no longer than this process is wanted, and beat."""
    waiting.open_room(worker.wsgi, settings.web_threads // 2, lambda: takes_requests(worker))
    Heart(worker.wsgi.extensions["imagefleet"], lambda: takes_requests(worker)).start()


def takes_requests(worker: Any) -> bool:
    """Say whether a process still takes requests: not when it was told to stop, and not when its master was killed.

    Then it finishes what it has for up to `graceful_timeout`, with its socket open and nobody listening.
    """
    return bool(worker.alive) and bool(worker.ppid == os.getppid())


def _prepare(fleet: Fleet) -> None:
    if not database.is_current(fleet.engine):
        raise SettingsError("the database has not the schema of this version: run `imagefleet db upgrade`")
    catalogue.load(fleet, os.environ, Path.cwd())
