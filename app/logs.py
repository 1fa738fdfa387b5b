"""How our processes log: one line each, ids in the message, no prompts and no secrets."""

import logging

CHATTY = ("alembic", "urllib3", "celery.worker.strategy", "celery.app.trace", "celery.beat", "kombu.pidbox")
"""Loggers whose INFO lines tell what our own lines tell better."""


def configure(level: str) -> None:
    """Log to standard error."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
