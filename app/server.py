"""gunicorn's settings, out of ours."""

import logging
import os
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app import catalogue, database, logs, reloading
from app.api import waiting
from app.bootstrap import make_fleet
from app.broker import without_secrets
from app.core import counters, models
from app.core.fleet import Fleet
from app.heart import Heart
from app.parse import SettingsError
from app.reloading import Reloader
from app.settings import Settings

log = logging.getLogger(__name__)

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
logconfig_dict = logs.of_gunicorn(settings.log_format, settings.log_level)
control_socket_disable = True
# Whose X-Forwarded-Proto counts. gunicorn would believe everybody on this computer, also in what path was asked for.
forwarded_allow_ips = ",".join(settings.trusted_proxies)
forwarder_headers = ""


def on_starting(_server: Any) -> None:
    """Refuse an old schema, and write what config.yaml, MODEL_* and we ourselves bring into the catalogue."""
    logs.configure(settings.log_level, settings.log_format)
    fleet = make_fleet(settings)
    try:
        _prepare(fleet)
    except SettingsError as exc:
        raise SystemExit(str(exc)) from exc
    fleet.close()


def when_ready(_server: Any) -> None:
    """Say that requests are taken."""
    tell_of(bind, f"{workers} processes of {threads} threads")


def tell_of(address: str, processes: str) -> None:
    """Log where requests are taken and what stands behind: whoever starts the server sees that it has come up."""
    fleet = make_fleet(settings)
    try:
        with fleet.reading() as session:
            number = models.count(session)
        known = f"{number} {'model' if number == 1 else 'models'}"
    except SQLAlchemyError as exc:
        known = f"which does not say how many models there are ({type(exc).__name__})"
    finally:
        fleet.close()
    broker = without_secrets(settings.broker_url)
    log.info(
        "listening on http://%s with %s; broker %s, database %s, %s",
        *(address, processes, broker, fleet.engine.dialect.name, known),
    )


def on_reload(_server: Any) -> None:
    """Bring in the models that the files declare now (SIGHUP); gunicorn then starts its processes anew."""
    fleet = make_fleet(settings)
    try:
        for sentence in reloading.once(fleet, os.environ, Path.cwd()).sentences():
            log.warning("models, as the files say now: %s", sentence)
    except SettingsError as exc:
        log.warning("the files are wrong, and everything stays as it is:\n%s", exc)  # no traceback: a person wrote them
    finally:
        fleet.close()


def post_worker_init(worker: Any) -> None:
    """Let clients wait for pictures on half of the threads, for no longer than this process is wanted, and beat."""
    waiting.open_room(worker.wsgi, settings.web_threads // 2, lambda: takes_requests(worker))
    fleet = worker.wsgi.extensions["imagefleet"]
    Heart(fleet, lambda: takes_requests(worker)).start()
    Reloader(fleet, settings, os.environ, Path.cwd()).start(lambda: takes_requests(worker))


def worker_exit(_server: Any, worker: Any) -> None:
    """Write down what the process has measured since its last beat."""
    if worker.wsgi is not None:
        write_counters(worker.wsgi.extensions["imagefleet"])


def write_counters(fleet: Fleet) -> None:
    """Write down what a process that ends has measured; where the database is away, some of it is not counted."""
    try:
        counters.write(fleet)
    except SQLAlchemyError as exc:
        log.warning("what was counted last is not written down: the database said %s", type(exc).__name__)


def takes_requests(worker: Any) -> bool:
    """Say whether a process still takes requests: not when it was told to stop, and not when its master was killed.

    Then it finishes what it has for up to `graceful_timeout`, with its socket open and nobody listening.
    """
    return bool(worker.alive) and bool(worker.ppid == os.getppid())


def _prepare(fleet: Fleet) -> None:
    if not database.is_current(fleet.engine):
        raise SettingsError("the database has not the schema of this version: run `imagefleet db upgrade`")
    catalogue.load(fleet, os.environ, Path.cwd())
