"""Holds this computer's clock against those of the API, the broker and the database."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime

import redis
import requests

from app.doctor import broker
from app.doctor.findings import Finding, Part, Patient, broken, fine, skipped, warning

NOTICED = 2.0
"""Seconds. Moments of several computers are compared where tokens, leases and silences are judged."""

TOO_MUCH = 8.0
"""A machine is taken for silent after ten."""

SET_IT = "let the time be set: timedatectl set-ntp true, or chrony"
ANSWER_SECONDS = 3.0
Asked = Callable[[Patient], float | None]


def clocks(patient: Patient) -> Iterator[Finding]:
    """Compare clocks with all that can be asked."""
    asked: dict[str, Asked] = {"the API": _of_api, "the broker": _of_broker}
    if Part.SERVER in patient.parts:
        asked["the database"] = _of_database
    told = 0
    for name, ask in asked.items():
        before = time.time()
        there = ask(patient)
        if there is None:
            continue
        told += 1
        took = time.time() - before
        yield judged(name, there - (before + took / 2), took / 2)
    if not told:
        yield skipped("nobody answers whose clock this one could be held against")


def judged(name: str, ahead: float, unsure: float) -> Finding:
    """Judge by how many seconds another clock is ahead of this one, give or take some."""
    off = max(0.0, abs(ahead) - unsure)
    direction = "behind" if ahead > 0 else "ahead of"
    if off > TOO_MUCH:
        return broken(
            f"this clock is {off:.0f} s {direction} that of {name}: machines would be taken for silent", SET_IT
        )
    if off > NOTICED:
        return warning(f"this clock is {off:.1f} s {direction} that of {name}", SET_IT)
    return fine(f"this clock and that of {name} agree")


def _of_api(patient: Patient) -> float | None:
    with suppress(requests.RequestException, TypeError, ValueError, KeyError):
        answer = requests.get(f"{patient.fleet_url}/health", timeout=ANSWER_SECONDS)
        # It tells whole seconds: on average half of one has passed.
        return parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5
    return None


def _of_broker(patient: Patient) -> float | None:
    if not broker.is_redis(patient.broker_url):
        return None
    with suppress(redis.RedisError), broker.client(patient.broker_url) as asked:
        seconds, micros = asked.time()
        return float(seconds) + float(micros) / 1e6
    return None


def _of_database(patient: Patient) -> float | None:
    from sqlalchemy import text  # noqa: PLC0415  # a machine has no database library
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  # as above

    from app.doctor.store import connected  # noqa: PLC0415  # as above

    if not patient.settings.database_url.startswith("postgresql"):
        return None  # SQLite's clock is this one
    with suppress(SQLAlchemyError), connected(patient) as engine, engine.connect() as connection:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return None
