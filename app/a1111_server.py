"""gunicorn's settings for the second port: a process of its own, because every client there holds a thread."""

import os
from typing import Any

from app import database, logs
from app.api import waiting
from app.bootstrap import make_fleet
from app.heart import Heart
from app.server import (
    accesslog,
    control_socket_disable,
    errorlog,
    forwarded_allow_ips,
    forwarder_headers,
    graceful_timeout,
    keepalive,
    logconfig_dict,
    loglevel,
    takes_requests,
    tell_of,
    timeout,
    worker_class,
    worker_tmp_dir,
    write_counters,
)
from app.settings import Settings

__all__ = [
    "accesslog",
    "control_socket_disable",
    "errorlog",
    "forwarded_allow_ips",
    "forwarder_headers",
    "graceful_timeout",
    "keepalive",
    "logconfig_dict",
    "loglevel",
    "timeout",
    "worker_class",
    "worker_tmp_dir",
]

settings = Settings.load(os.environ)

bind = f"{settings.host}:{settings.a1111_port}"
workers = 1
threads = 64
"""They sleep nearly all the time: a client that waits looks at its job's row twice a second."""

FREE_THREADS = 8
"""Never waited on: progress and interrupt must be answered while everybody waits."""


def on_starting(_server: Any) -> None:
    """Refuse an old schema; the catalogue is the other server's business."""
    logs.configure(settings.log_level, settings.log_format)
    fleet = make_fleet(settings)
    if not database.is_current(fleet.engine):
        raise SystemExit("the database has not the schema of this version: run `imagefleet db upgrade`")
    fleet.engine.dispose()


def when_ready(_server: Any) -> None:
    """Say that requests are taken."""
    tell_of(bind, f"one process of {threads} threads")


def post_worker_init(worker: Any) -> None:
    """Let clients wait for pictures, for no longer than this process is wanted, and beat."""
    waiting.open_room(worker.wsgi.application, threads - FREE_THREADS, lambda: takes_requests(worker))
    Heart(worker.wsgi.application.extensions["imagefleet"], lambda: takes_requests(worker), "a1111").start()


def worker_exit(_server: Any, worker: Any) -> None:
    """Write down what the process has measured since its last beat."""
    if worker.wsgi is not None:
        write_counters(worker.wsgi.application.extensions["imagefleet"])
