"""How our processes log: one line each, ids in the message, no prompts and no secrets."""

import logging
from contextvars import ContextVar

CHATTY = ("alembic", "urllib3", "celery.worker.strategy", "celery.app.trace", "celery.beat", "kombu.pidbox")
"""Loggers whose INFO lines tell what our own lines tell better."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this thread answers; empty outside of requests."""


def configure(level: str) -> None:
    """Log to standard error."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s%(request)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_with_request)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def _with_request(record: logging.LogRecord) -> bool:
    """Put the id of the request behind a line; lets every line through."""
    known = request_id.get()
    record.request = f" [{known}]" if known else ""
    return True
