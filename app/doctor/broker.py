"""Looks at the broker, and at what works through it: the control worker, beat, Flower."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import redis
import requests

from app.broker import connection_errors, make_celery
from app.core.dispatch import CONTROL_QUEUE
from app.doctor.findings import Finding, Part, Patient, broken, fine, skipped, warning
from app.settings import Settings

ANSWER_SECONDS = 3.0
NO_BROKER = "set BROKER_URL, such as redis://:password@broker:6379/0, or start everything with `imagefleet up`"
SHOULD = "maxmemory-policy noeviction"
CROWDED = 0.8
"""The part of all connections beyond which somebody should do something."""


def is_redis(url: str) -> bool:
    """Say whether a broker speaks Redis' protocol."""
    return url.startswith(("redis", "rediss", "valkey", "unix"))


def client(url: str) -> "redis.Redis":
    """Make a client that does not wait for long."""
    return redis.Redis.from_url(url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS)


def broker(patient: Patient) -> Iterator[Finding]:
    """Ask the broker something, and look whether it may forget what it was given."""
    url = patient.broker_url
    if not url:
        if Part.MACHINE in patient.parts and Part.SERVER not in patient.parts:
            yield broken("BROKER_URL is not set: this machine would never hear of a job", NO_BROKER)
        else:
            yield skipped("BROKER_URL is not set, and no `imagefleet up` runs here: it starts a broker of its own")
        return
    if not is_redis(url):
        yield from _other(patient)
        return
    try:
        with client(url) as asked:
            began = time.monotonic()
            asked.ping()
            yield fine(f"the broker answers in {1000 * (time.monotonic() - began):.1f} ms")
            info = asked.info()
            yield from _memory_and_disk(asked, info)
            yield from _room(info)
    except redis.AuthenticationError as exc:
        yield broken(f"the broker does not let us in: {exc}", "correct the password in BROKER_URL")
    except redis.RedisError as exc:
        yield broken(f"the broker does not answer: {exc}", f"start it, or correct BROKER_URL; {NO_BROKER}")


def _memory_and_disk(asked: "redis.Redis", info: Mapping[str, Any]) -> Iterator[Finding]:
    """Look whether it drops messages when its memory is full, and whether they survive its restart."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield broken(
            f"the broker throws away keys when its memory is full (maxmemory-policy {policy}): bells get lost",
            f"set `{SHOULD}` in its configuration, and now: redis-cli CONFIG SET {SHOULD}",
        )
    else:
        yield fine(f"the broker keeps what it was given ({SHOULD})")
    if info.get("aof_enabled") or _saves(asked):
        yield fine("the broker writes to its disk")
    else:
        yield warning(
            "the broker keeps everything in memory only: after its restart the control worker rings for all that waits",
            "set `appendonly yes` in its configuration: then nothing has to be rung for again",
        )


def _room(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Look whether more machines could connect: whom it has no room for is turned away, and hears of no job."""
    most, there = info.get("maxclients"), info.get("connected_clients", 0)
    if most and there > CROWDED * most:
        yield warning(
            f"{there} of the broker's {most} connections are taken, and a machine takes about eight",
            "raise `maxclients` in its configuration, and the limit of open files that it is started with (ulimit -n)",
        )


def _saves(asked: "redis.Redis") -> bool:
    try:
        told = asked.config_get("save")
    except redis.ResponseError:  # hosted ones do not tell
        return False
    return bool(told.get("save"))


def _other(patient: Patient) -> Iterator[Finding]:
    celery = make_celery(_with_broker(patient))
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER_SECONDS)
    except connection_errors(celery) as exc:
        yield broken(f"the broker does not answer: {exc}", "start it, or correct BROKER_URL")
    else:
        yield fine("the broker answers; whether it keeps its messages only its own tools tell")
    finally:
        celery.close()


def _with_broker(patient: Patient) -> Settings:
    return replace(patient.settings, broker_url=patient.broker_url)


def workers(patient: Patient) -> Iterator[Finding]:
    """Ask who listens to the control worker's queue."""
    if not patient.broker_url:
        yield skipped("without a broker nobody can be asked")
        return
    celery = make_celery(_with_broker(patient))
    try:
        queues = celery.control.inspect(timeout=2.0).active_queues() or {}
    except connection_errors(celery):
        yield skipped("without the broker nobody can be asked")
        return
    finally:
        celery.close()
    listening = [node for node, known in queues.items() if CONTROL_QUEUE in {queue["name"] for queue in known}]
    if listening:
        yield fine(f"a control worker listens: {', '.join(sorted(listening))}")
    else:
        yield broken(
            "no control worker listens: nothing is swept, no webhook is sent",
            "start one: celery --app=tasks.control.app worker --queues=control,webhooks (or `imagefleet up`)",
        )


def flower(patient: Patient) -> Iterator[Finding]:
    """Ask Flower whether it is well."""
    url = patient.settings.flower_url
    if not url:
        yield skipped("FLOWER_URL is not set")
        return
    try:
        answer = requests.get(f"{url}/healthcheck", timeout=ANSWER_SECONDS)
    except requests.RequestException as exc:
        yield broken(f"Flower does not answer at {url}: {type(exc).__name__}", "start it, or correct FLOWER_URL")
        return
    if answer.ok:
        yield fine(f"Flower answers at {url}")
    else:
        yield broken(f"Flower answers {answer.status_code} at {url}/healthcheck", "look at its log; correct FLOWER_URL")
