"""A whole fleet under load, its parts killed, paused and restarted at random; then the proof that nothing was lost.

    make chaos                                   # about 3 minutes; CHAOS_SECONDS and CHAOS_SEED change it
    python -m tests.chaos --seconds 600 --seed 7
    python -m tests.chaos --rolling              # no faults: every process is replaced by a new one, as in an upgrade

Prints one table, and ends with 1 on any breach: the folder with all logs and everything known is kept then. The seed
fixes which faults come in which order and what clients order; when exactly they meet is the computer's affair.
"""

import argparse
import json
import os
import platform
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.lifecycle import ENDED, DeliveryState
from app.core.tables import Delivery, Job
from tests.chaos.clients import A1111Client, Client, Journal, V1Client
from tests.chaos.proof import Evidence, breaches, gather, numbers
from tests.chaos.receiver import Receiver, receiving
from tests.chaos.rolling import Rolling, Watcher
from tests.chaos.sabotage import SABOTAGE
from tests.chaos.storm import Storm
from tests.support.system import System, running_system

MODELS = ["chaos-a", "chaos-b"]
MACHINES = {"machine-0": MODELS, "machine-1": MODELS, "machine-2": ["chaos-a"], "machine-3": ["chaos-b"]}
FEW_MACHINES = {"machine-0": MODELS, "machine-1": MODELS}
"""Of a rolling restart: one draws while the other is replaced."""

V1_CLIENTS = 3
TOKENS = [f"client-{number}" for number in range(V1_CLIENTS + 2)]

EXPECTED = frozenset({"HTTP 503", "ReadTimeout"})
"""What clients may meet while processes are replaced: a request that waits for its picture is told when to come again,
and a busy computer answers late."""

SETTINGS = {
    "API_TOKENS": ",".join(TOKENS),
    "MACHINE_TOKEN": "chaos-machines",
    "WEBHOOK_ALLOW_PRIVATE": "1",
    "WEBHOOK_RETRY_SECONDS": "1",
    "DRAIN_SECONDS": "2",  # long jobs are handed back
}

JOBS_PER_SECOND = 1.6
"""Of all v1 clients together: two cores carry that, also with the databases and the receiver on them."""

CALM_SECONDS = 300.0
"""How long nothing at all may end once the storm is over; the longest job takes 4 s."""

LOOK_SECONDS = 0.1

C = TypeVar("C", bound=Client)
MOST_SHOWN = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once; returns the exit status."""
    given = _parse(arguments)
    seed = given.seed if given.seed is not None else secrets.randbelow(10**6)
    print(f"chaos: seed {seed}, {given.seconds:g} s; again with: make chaos CHAOS_SEED={seed}", flush=True)
    signal.signal(signal.SIGTERM, _stop)
    folder = Path(tempfile.mkdtemp(prefix="imagefleet-chaos-"))
    try:
        found = _prove(folder, seed, given)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        print("chaos: stopped, and everything that it had started with it")
        return 130
    except BaseException:
        print(f"chaos: it did not come to its end; the logs are in {folder}")
        raise
    return _conclude(folder, found, keep=given.keep)


def _prove(folder: Path, seed: int, given: argparse.Namespace) -> Sequence[str]:
    """Run the storm, and hold everything that is known against each other; returns the breaches."""
    journal = Journal()
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(seed))
        system = stack.enter_context(running_system(folder, **SETTINGS))
        storm = Storm(system, random.Random(seed))  # a run that can be repeated, not a secret
        _run(system, storm, journal, receiver, seed, given)
        _wait_for_calm(system)

        def look() -> Evidence:
            return gather(system, journal, receiver, storm.diary)

        evidence = look()
        found = breaches(evidence) + (_unexpected(journal) if given.rolling else [])
        done = "every process replaced, under load" if given.rolling else f"{given.seconds:g} s of load and faults"
        _print_table(seed, done, storm, evidence)
        if given.sabotage:
            SABOTAGE[given.sabotage][1](system, receiver, evidence)
            found += breaches(look())
        if given.doubt and not found:
            found = _doubt(look, system, receiver)
        if found or given.keep:
            _keep(folder, evidence, found, storm)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("CHAOS_SECONDS") or 180))
    parser.add_argument(
        "--seed", type=int, default=int(os.environ["CHAOS_SEED"]) if os.environ.get("CHAOS_SEED") else None
    )
    parser.add_argument("--calm", action="store_true", help="the load alone, no faults")
    parser.add_argument("--rolling", action="store_true", help="no faults: replace every process once, under the load")
    parser.add_argument("--doubt", action="store_true", help="afterwards break what was proved, to see it found")
    parser.add_argument("--keep", action="store_true", help="keep the logs and everything known, also without a breach")
    parser.add_argument("--sabotage", choices=list(SABOTAGE), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(
    system: System, storm: Storm, journal: Journal, receiver: Receiver, seed: int, given: argparse.Namespace
) -> None:
    """Let clients order while the storm blows, then take everything back and let the clients come to their end."""
    for model_id in MODELS:
        system.put_model(model_id)
    machines = FEW_MACHINES if given.rolling else MACHINES
    for name, models in machines.items():
        system.add_machine(name, *models)
    for model_id in MODELS:
        system.wait_for_machines(model_id, sum(model_id in models for models in machines.values()))
    over = threading.Event()
    clients = _clients(system, journal, receiver, seed, over)
    for client in clients:
        client.thread.start()
    if given.rolling:
        Rolling(system, journal, storm.diary).roll()
    else:
        _blow(storm, given.seconds, calm=given.calm)
    over.set()
    while any(client.thread.is_alive() for client in clients):
        system.tend()
        time.sleep(LOOK_SECONDS)


def _blow(storm: Storm, seconds: float, *, calm: bool) -> None:
    """Let the storm blow until something was struck, and take everything back."""
    until = time.monotonic() + seconds
    while time.monotonic() < until or not (calm or storm.kinds):
        if not calm:
            storm.blow()
        time.sleep(LOOK_SECONDS)
    storm.calm_down()


def _unexpected(journal: Journal) -> list[str]:
    """Return what no client should meet while processes are replaced one after the other."""
    return [
        f"rolling: {count} times a client met {what}" for what, count in journal.errors.items() if what not in EXPECTED
    ]


def _clients(
    system: System, journal: Journal, receiver: Receiver, seed: int, over: threading.Event
) -> Sequence[Client]:
    def client(kind: type[C], number: int) -> C:
        return kind(number, seed, system.url, TOKENS[number], journal, over, MODELS)

    v1 = [client(V1Client, number) for number in range(V1_CLIENTS)]
    for one in v1:
        one.hook_url, one.per_second = receiver.url, JOBS_PER_SECOND / V1_CLIENTS
    return [*v1, client(A1111Client, V1_CLIENTS), client(Watcher, V1_CLIENTS + 1)]


def _wait_for_calm(system: System) -> None:
    """Wait until every job has ended and no event is owed any more, as long as they become fewer."""
    fewest, until = sys.maxsize, 0.0
    while True:
        system.tend()
        with Session(system.engine) as session:
            unended = select(func.count()).select_from(Job).where(Job.state.not_in(ENDED))
            owed = select(func.count()).select_from(Delivery).where(Delivery.state == DeliveryState.OWED)
            left = (session.scalar(unended) or 0) + (session.scalar(owed) or 0)
        if left < fewest:
            fewest, until = left, time.monotonic() + CALM_SECONDS
        if not left or time.monotonic() > until:
            return
        time.sleep(LOOK_SECONDS * 5)


def _print_table(seed: int, done: str, storm: Storm, evidence: Evidence) -> None:
    faults = ", ".join(f"{count} {kind}" for kind, count in storm.kinds.most_common())
    rows = {
        "seed": str(seed),
        "run": f"{done}, {datetime.now(UTC):%Y-%m-%d}",
        "computer": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "system": f"{len(storm.system.machines)} machines, 2 web processes, control worker, beat, Redis, PostgreSQL",
        "faults": f"{storm.kinds.total()}: {faults}" if faults else "none",
        **numbers(evidence),
    }
    print("\n| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print(flush=True)


def _doubt(look: Callable[[], Evidence], system: System, receiver: Receiver) -> list[str]:
    """Break what was proved in one way after the other; returns the ways that were not found."""
    missed = []
    evidence = look()
    for name, (check, sabotage) in SABOTAGE.items():
        known = Counter(breaches(evidence))  # two kinds of sabotage may meet the same job: the same words, once more
        sabotage(system, receiver, evidence)
        evidence = look()
        found = any(what.startswith(check) for what in Counter(breaches(evidence)) - known)
        print(f"sabotage {name!r}: {'found' if found else 'NOT FOUND'}", flush=True)
        missed += [] if found else [f"sabotage {name!r} was not found by {check}"]
    return missed


def _keep(folder: Path, evidence: Evidence, found: Sequence[str], storm: Storm) -> None:
    """Write everything known beside the logs."""
    attempts = ("number", "machine_id", "state", "started_at", "ended_at", "error_code", "error")
    jobs = [
        {
            **{name: getattr(job, name) for name in ("id", "state", "spec", "attempt", "error_code", "error")},
            **{name: getattr(job, name) for name in ("created_at", "queued_at", "started_at", "ended_at", "rung_at")},
            "attempts": [{name: getattr(attempt, name) for name in attempts} for attempt in job.attempts],
        }
        for job in evidence.jobs
    ]
    known = {
        "breaches": found,
        "faults": [f"{datetime.fromtimestamp(at, UTC).isoformat()} {what}" for at, what in storm.diary],
        "orders": [repr(order) for order in evidence.journal.orders],
        "webhooks": [[event.at, event.webhook_id, event.body.decode()] for event in evidence.received],
        "jobs": jobs,
    }
    for name, rows in known.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, default=str, indent=1), encoding="utf-8")


def _conclude(folder: Path, found: Sequence[str], *, keep: bool) -> int:
    if not found:
        print(f"everything known is in {folder}") if keep else shutil.rmtree(folder)
        print("proved: no job was lost, none was done twice, every webhook was told the truth")
        return 0
    for breach in found[:MOST_SHOWN]:
        print(f"BREACH {breach}")
    print(f"{len(found)} breaches; everything known about them is in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
