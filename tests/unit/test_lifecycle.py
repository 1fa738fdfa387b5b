"""Every state is tried with every move, for every kind of thing that has states."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import pytest

from app.core.errors import IllegalMove
from app.core.lifecycle import ENDED, MOVES, AttemptState, DeliveryState, EngineState, JobState, move_to

LEGAL = {
    (JobState.QUEUED, JobState.PROCESSING),
    (JobState.QUEUED, JobState.CANCELLED),
    (JobState.QUEUED, JobState.ERROR),
    (JobState.PROCESSING, JobState.QUEUED),
    (JobState.PROCESSING, JobState.COMPLETED),
    (JobState.PROCESSING, JobState.ERROR),
    (JobState.PROCESSING, JobState.CANCELLED),
    (AttemptState.RUNNING, AttemptState.COMPLETED),
    (AttemptState.RUNNING, AttemptState.ERROR),
    (AttemptState.RUNNING, AttemptState.CANCELLED),
    (AttemptState.RUNNING, AttemptState.LOST),
    (DeliveryState.OWED, DeliveryState.DELIVERED),
    (DeliveryState.OWED, DeliveryState.GIVEN_UP),
    (DeliveryState.OWED, DeliveryState.VOID),
    (DeliveryState.DELIVERED, DeliveryState.OWED),
    (DeliveryState.GIVEN_UP, DeliveryState.OWED),
    (EngineState.CLOSED, EngineState.STARTING),
    (EngineState.STARTING, EngineState.READY),
    (EngineState.STARTING, EngineState.CLOSED),
    (EngineState.READY, EngineState.WORKING),
    (EngineState.READY, EngineState.CLOSED),
    (EngineState.WORKING, EngineState.READY),
    (EngineState.WORKING, EngineState.CLOSED),
}

EVERY_PAIR = [pair for kind in MOVES for pair in product(kind, kind)]


@dataclass
class Thing:
    """Something with a state."""

    state: StrEnum


@pytest.mark.parametrize(("state", "wanted"), EVERY_PAIR, ids=lambda s: f"{type(s).__name__}.{s}")
def test_a_thing_moves_only_as_the_table_says(state: StrEnum, wanted: StrEnum) -> None:
    thing = Thing(state)

    if (state, wanted) in LEGAL:
        move_to(thing, wanted)
    else:
        with pytest.raises(IllegalMove, match=f"{state} cannot become {wanted}"):
            move_to(thing, wanted)

    assert thing.state is (wanted if (state, wanted) in LEGAL else state)


def test_every_kind_of_state_has_a_row_for_each_of_its_members() -> None:
    assert {kind: set(kind) for kind in MOVES} == {kind: set(rows) for kind, rows in MOVES.items()}


def test_nothing_follows_from_an_ended_job() -> None:
    assert set(ENDED) == {JobState.COMPLETED, JobState.ERROR, JobState.CANCELLED}
