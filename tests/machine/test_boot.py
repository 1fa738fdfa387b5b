"""How a machine came up: phases of the worker, of provisioning and of the first job, in one story."""

from collections.abc import Mapping
from typing import Any

import psutil

from provisioning.status import ModelStatus, State, Status
from tasks.machine.boot import SAME_BOOT_SECONDS, STARTED_AT, Boot, start_of

START = 1_800_000_000.0

NEAR = SAME_BOOT_SECONDS / 2
"""Two looks at the clock lie a moment apart, and on a busy computer more."""


class Moment:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Return the moment it shows."""
        return self.now

    def at(self, seconds: float) -> None:
        """Set it to so many seconds after the start."""
        self.now = START + seconds


def moments(**seconds: float) -> dict[str, float]:
    return {name: START + value for name, value in seconds.items()}


PROVISIONED = Status(
    models={
        "big": ModelStatus(State.READY, moments=moments(downloading=2.0, verifying=12.0, ready=12.5)),
        "bad": ModelStatus(State.ERROR, moments=moments(downloading=2.0, error=3.0)),
        "late": ModelStatus(State.DOWNLOADING, moments=moments(downloading=5.0)),
        "old": ModelStatus(State.READY, moments=moments(ready=-100.0, verifying=-101.0)),
    },
    moments=moments(began=0.5, looked_up=1.5, planned=1.75),
)


def bars(report: Mapping[str, Any]) -> dict[tuple[str, str | None], tuple[float, float | None]]:
    return {(p["phase"], p["model_id"]): (p["start"], p["seconds"]) for p in report["phases"]}


def a_boot() -> tuple[Boot, Moment]:
    clock = Moment()
    boot = Boot(START, lambda: PROVISIONED, clock)
    clock.at(1.0)
    boot.note("booting")
    clock.at(3.0)
    boot.note("connecting")
    return boot, clock


def test_everything_from_the_start_of_the_process_to_the_first_picture_is_told() -> None:
    boot, clock = a_boot()
    clock.at(13.0)
    boot.joined("big")
    clock.at(20.0)
    boot.claimed("big")
    clock.at(26.0)
    boot.pictured({"starting": 0.5, "loading": 4.0, "denoising": 1.25, "uploading": 0.25})

    told = boot.report()

    assert told["started_at"] == "2027-01-15T08:00:00+00:00"
    assert told["first_picture_seconds"] == 26.0
    found = bars(told)
    assert found == {
        ("booting", None): (0.0, 1.0),
        ("looking_up", None): (0.5, 1.0),
        ("connecting", None): (1.0, 2.0),
        ("planning", None): (1.5, 0.25),
        ("downloading", "big"): (2.0, 10.0),
        ("downloading", "bad"): (2.0, 1.0),
        ("downloading", "late"): (5.0, None),
        ("verifying", "big"): (12.0, 0.5),
        ("joining", "big"): (12.5, 0.5),
        ("waiting", None): (13.0, 7.0),
        ("starting", "big"): (20.0, 0.5),
        ("loading", "big"): (20.5, 4.0),
        ("denoising", "big"): (24.5, 1.25),
        ("uploading", "big"): (25.75, 0.25),
    }
    starts = [phase["start"] for phase in told["phases"]]
    assert starts == sorted(starts)


def test_the_story_ends_with_the_first_picture() -> None:
    boot, clock = a_boot()
    boot.joined("big")
    boot.claimed("big")
    boot.pictured({"loading": 1.0})
    told = boot.report()

    clock.at(100.0)
    boot.claimed("late")
    boot.joined("late")
    boot.pictured({"loading": 9.0})

    assert boot.report() == told


def test_before_the_first_picture_it_is_told_as_far_as_it_goes() -> None:
    boot, clock = a_boot()
    clock.at(14.0)
    boot.joined("big")

    told = boot.report()

    assert told["first_picture_seconds"] is None
    assert ("waiting", None) not in bars(told)
    assert bars(told)["joining", "big"] == (12.5, 1.5)


def test_what_was_proven_before_the_start_joins_from_when_the_worker_was_there() -> None:
    boot, clock = a_boot()
    clock.at(4.0)
    boot.joined("old")

    found = bars(boot.report())

    assert found["joining", "old"] == (3.0, 1.0)
    assert ("verifying", "old") not in found


def test_a_start_begins_with_its_host_unless_that_runs_for_long() -> None:
    alone = start_of({})

    assert abs(alone - psutil.Process().create_time()) < NEAR
    assert start_of({STARTED_AT: str(alone - 2)}) == alone - 2
    long_ago = start_of({STARTED_AT: str(alone - SAME_BOOT_SECONDS - 5)})
    assert abs(long_ago - alone) < NEAR
    assert abs(start_of({STARTED_AT: "yesterday"}) - alone) < NEAR
