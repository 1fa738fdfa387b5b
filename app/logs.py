"""How our processes log: a line each, for people or as JSON, with the ids of what it concerns; no prompts, no secrets.

An id comes into a line in three ways: the process has it (its machine's), what is being done at the moment has it
(`about`), or the message names it: "job %s: attempt %d …" tells the job and the attempt.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

CHATTY = ("alembic", "urllib3", "celery.worker.strategy", "celery.app.trace", "celery.beat", "kombu.pidbox")
"""Loggers whose INFO lines tell what our own lines tell better."""

CONSOLE, JSON = "console", "json"

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this thread answers; empty outside of requests."""

_about: ContextVar[Mapping[str, str | int]] = ContextVar("about", default={})  # noqa: B039  # it is never changed

NAMED = {
    "job": "job_id",
    "attempt": "attempt",
    "machine": "machine_id",
    "engine": "engine_id",
    "delivery": "delivery_id",
}
"""What a word before a value says that it is."""

_PLACE = re.compile(r"%%|(?:\b(?P<word>[a-z]+) )?%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]")


@contextmanager
def about(**ids: object) -> Iterator[None]:
    """Put ids into every line of this thread for the length of the block."""
    told = {name: value if isinstance(value, int) else str(value) for name, value in ids.items()}
    before = _about.set({**_about.get(), **told})
    try:
        yield
    finally:
        _about.reset(before)


def configure(level: str, form: str = CONSOLE, **always: str) -> None:
    """Log to standard error; `always` stands in each JSON line of this process."""
    formatter: logging.Formatter = JsonLines(always) if form == JSON else Lines()
    logging.basicConfig(level=level, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.captureWarnings(form == JSON)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


class Lines(logging.Formatter):
    """For people; the request's id stands behind."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class calls it so
        """Write the line without its traceback."""
        known = request_id.get()
        return super().formatMessage(record) + (f" [{known}]" if known else "")


class JsonLines(logging.Formatter):
    """For programs: one object a line."""

    def __init__(self, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = {name: value for name, value in always.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        """Write the line; a traceback is a field of it."""
        told: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **_about.get(),
            **ids_in(record),
        }
        if known := request_id.get():
            told["request_id"] = known
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def ids_in(record: logging.LogRecord) -> dict[str, str | int]:
    """Return the ids that a message names by the word before them."""
    if not isinstance(record.args, tuple):
        return {}
    found: dict[str, str | int] = {}
    values = iter(record.args)
    for place in _PLACE.finditer(str(record.msg)):
        if place.group() == "%%":
            continue
        value = next(values, None)
        if name := NAMED.get(place.group("word") or ""):
            found[name] = value if isinstance(value, int) else str(value)
    return found


def of_gunicorn(form: str, level: str) -> dict[str, object]:
    """Return gunicorn's `logconfig_dict`: its own lines are JSON where ours are; else its defaults are good."""
    if form != JSON:
        return {}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": JsonLines, "always": {}}},
        "handlers": {"ours": {"class": "logging.StreamHandler", "formatter": "ours"}},
        "root": {"level": level, "handlers": ["ours"]},
        "loggers": {"gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True}},
    }


def as_json(line: str, **always: str) -> str:
    """Turn a line of one of our parts into JSON, also where it is written by somebody else."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": line}
    return json.dumps({**always, **told}, ensure_ascii=False)
