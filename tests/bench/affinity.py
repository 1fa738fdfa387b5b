"""Staying with a model: how often a machine changes its pipeline on a mixed backlog, and how long others wait for it.

    make bench-affinity

A whole fleet on loopback (Redis, PostgreSQL, web, control worker), one machine with the fake driver that holds one
model, 100 jobs in turns for two and for four models. Everything is ten times as fast as in life: a job of 0.2 s stands
for one of two seconds, half a second of loading for five, and AFFINITY_SECONDS=2 for the default of 20.
"""

import tempfile
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.provision import machine
from tests.support.system import System, running_system

JOBS = 100
MODELS = (2, 4)
AFFINITIES = (0, 2, 20)
FASTER = {"FAKE_STEP_SECONDS": "0.02", "FAKE_LOAD_SECONDS": "0.5", "PREVIEW_SECONDS": "0"}
STEPS = 10
MINUTES = 10.0


def main() -> None:
    """Measure, and print one table."""
    print(f"{machine()}; {JOBS} jobs of {STEPS} steps of 20 ms, 0.5 s to bring in a model\n")
    print("| models | AFFINITY_SECONDS | swaps per 100 jobs | jobs/min | longest a waiting queue was not served |")
    print("|---:|---:|---:|---:|---:|")
    with (
        tempfile.TemporaryDirectory(prefix="bench-affinity-") as folder,
        running_system(Path(folder), **FASTER) as system,
    ):
        for count in MODELS:
            for seconds in AFFINITIES:
                print(f"| {count} | {seconds or '0 (before)'} | {_drawn(system, count, seconds)} |", flush=True)


def _drawn(system: System, count: int, seconds: int) -> str:
    models = [f"of-{count}-{seconds}-{k}" for k in range(count)]
    for model_id in models:
        system.put_model(model_id)
    waiting = [_order(system, models[k % count]) for k in range(JOBS)]
    part = system.add_machine(f"machine-{count}-{seconds}", *models, AFFINITY_SECONDS=str(seconds))
    done = [system.ended(job_id, 60 * MINUTES) for job_id in waiting]
    part.kill()
    drawn = sorted((_moment(job, "started_at"), _moment(job, "ended_at"), job["model_id"]) for job in done)
    swaps = sum(before[2] != after[2] for before, after in pairwise(drawn))
    whole = (drawn[-1][1] - drawn[0][0]).total_seconds()
    return f"{100 * swaps / JOBS:.0f} | {60 * JOBS / whole:.0f} | {_longest(drawn, models):.1f} s"


def _order(system: System, model_id: str) -> str:
    body = {"model_id": model_id, "prompt": "a red circle", "seed": 7, "steps": STEPS}
    return str(system.post("v1/jobs", body)["job_id"])


def _moment(job: Mapping[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job["attempts"][0][name])


def _longest(drawn: list[tuple[datetime, datetime, str]], models: list[str]) -> float:
    """Return the longest time between two jobs of one model, before the last of it: its queue was never empty."""
    gaps = [0.0]
    for model_id in models:
        own = [(began, ended) for began, ended, model in drawn if model == model_id]
        gaps += [(after[0] - before[1]).total_seconds() for before, after in pairwise(own)]
    return max(gaps)


if __name__ == "__main__":
    main()
