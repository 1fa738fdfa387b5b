"""A request that waits for a picture looks away for less and less as the end draws near."""

from itertools import pairwise

import numpy as np
import pytest

from app.api.waiting import FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS, Looking
from app.core.live import Progress


def looks(seconds: float, steps: int, told_after: float = 0.25) -> list[float]:
    """Wait for a picture of so many seconds, of which each step is known a moment later; returns when was looked."""
    looking, now, found = Looking(), 0.0, [0.0]
    while now < seconds:
        done = int(max(0.0, now - told_after) / seconds * steps)
        now += looking.pause(Progress(1, "denoising", done, steps), now)
        found.append(now)
    return found


def test_the_end_of_a_picture_is_noticed_soon_and_its_middle_costs_few_looks() -> None:
    late = [looks(seconds, steps=20)[-1] - seconds for seconds in np.arange(9.0, 11.0, 0.01)]
    found = looks(10.0, steps=20)

    assert np.mean(late) < 0.08  # less than one of a hundred parts, though nothing but steps is told
    assert max(late) < 0.15
    assert len(found) < 45
    middle = [later - look for look, later in pairwise(found) if 4.0 < look < 7.0]
    assert max(middle) == pytest.approx(LAST_LOOK_SECONDS)


def test_a_job_of_which_nothing_is_known_is_looked_at_less_and_less() -> None:
    looking = Looking()

    found = [looking.pause(None, now) for now in range(20)]

    assert found == sorted(found)
    assert (found[0], found[-1]) == (FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS)


def test_a_job_that_is_drawn_is_looked_at_as_often_as_may_be() -> None:
    looking = Looking()
    for now in range(20):
        looking.pause(Progress(1, "denoising", 1, 10), float(now))

    assert looking.pause(Progress(1, "encoding", 10, 10), 20.0) == FIRST_LOOK_SECONDS


def test_a_second_attempt_that_begins_anew_is_no_obstacle() -> None:
    looking = Looking()
    for step in range(30):
        looking.pause(Progress(1, "denoising", step, 30), float(step))

    assert looking.pause(Progress(2, "denoising", 0, 10), 30.0) == LAST_LOOK_SECONDS
    assert looking.pause(Progress(2, "denoising", 9, 10), 31.0) < 0.1
