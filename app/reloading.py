"""Bringing what is written in files into a server that runs: models change at once, settings at the next start.

Every web process looks at `config.yaml` and `.env` every two seconds. What is wrong in them is logged with its place,
and everything stays as it was. `imagefleet reload` and SIGHUP to gunicorn do the same at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app import catalogue, config
from app.core import models
from app.core.fleet import Fleet
from app.parse import SettingsError
from app.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


def needing_a_restart(running: Settings, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return the variables that are now another than those a server runs with; raises SettingsError."""
    written = Settings.load(environ, folder)
    names = (each.name for each in fields(Settings) if "read" in each.metadata)
    return sorted(name.upper() for name in names if getattr(running, name) != getattr(written, name))


class Reloader:
    """Keeps the catalogue as the files say."""

    def __init__(self, fleet: Fleet, running: Settings, environ: Mapping[str, str], folder: Path) -> None:
        """Take what the files say now for what was loaded at the start."""
        self._fleet = fleet
        self._running = running
        self._environ = environ
        self._folder = folder
        self._stamps = self._look()
        self._declared = frozenset(self._read() or ())
        self._mirrored_at = time.monotonic()
        self._told: list[str] = []

    def start(self, goes_on: Callable[[], bool]) -> None:
        """Look on a thread of its own, as long as the process goes on."""
        threading.Thread(target=self._run, args=(goes_on,), name="reloader", daemon=True).start()

    def _run(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            time.sleep(LOOK_SECONDS)
            try:
                self.look()
            except SQLAlchemyError as exc:
                log.warning("the catalogue is not brought up to date: %s; trying again", type(exc).__name__)
            except Exception:  # the outermost edge of this thread: a file that is mended later must still be heard
                log.exception("the catalogue is not brought up to date")

    def look(self) -> None:
        """Bring in what has changed since the last look, if anything has."""
        stamps = self._look()
        if stamps != self._stamps:
            self._bring_in()
            self._stamps = stamps
        if self._fleet.foreign and time.monotonic() - self._mirrored_at >= self._running.catalog_seconds:
            self._mirrored_at = time.monotonic()
            catalogue.mirror(self._fleet)

    def _bring_in(self) -> None:
        now = self._read()
        if now is None:
            return
        changes = catalogue.rewrite(self._fleet, now, self._declared)
        self._declared = frozenset(now)
        for sentence in changes.sentences():
            log.warning("models, as the files say now: %s", sentence)
        names = needing_a_restart(self._running, self._environ, self._folder)
        if names and names != self._told:
            log.warning("changed in the files, and in effect after a restart: %s", ", ".join(names))
        self._told = names

    def _read(self) -> catalogue.Declared | None:
        try:
            return catalogue.declared(self._environ, self._folder)
        except SettingsError as exc:
            log.warning("the files are wrong, and everything stays as it is:\n%s", exc)
            return None

    def _look(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in config.sources(self._environ, self._folder)]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes with a file; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def once(fleet: Fleet, environ: Mapping[str, str], folder: Path) -> catalogue.Changes:
    """Bring in what the files say, in a program that did not see what they said before; raises SettingsError.

    What `config.yaml` had declared is known from the catalogue itself, so it must be there.
    """
    now = catalogue.declared(environ, folder)
    catalogue.mirror(fleet)
    with fleet.reading() as session:
        before = models.ids_of(session, "config") if config.sources(environ, folder)[0].exists() else ()
    return catalogue.rewrite(fleet, now, before)
