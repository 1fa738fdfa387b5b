"""The states things can be in, and the one table of legal moves for each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol, TypeVar

from app.core.errors import IllegalMove


class JobState(StrEnum):
    """Where a job is on its way to pictures."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """What became of one try of a job on one machine."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"


class HoldingState(StrEnum):
    """How far a machine is with a model."""

    WANTED = "wanted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    READY = "ready"
    ERROR = "error"


class DeliveryState(StrEnum):
    """What became of an event that is owed to a webhook."""

    OWED = "owed"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    VOID = "void"
    """A later event of the same job was sent first; this one would only confuse."""


class EngineState(StrEnum):
    """Whether an engine is in a machine's memory; in the words of seed 000."""

    CLOSED = "Closed"
    STARTING = "Starting"
    READY = "Ready"
    WORKING = "Working"


State = TypeVar("State", bound=StrEnum)
Moves = Mapping[State, frozenset[State]]

JOB_MOVES: Moves[JobState] = {
    JobState.QUEUED: frozenset({JobState.PROCESSING, JobState.CANCELLED, JobState.ERROR}),
    JobState.PROCESSING: frozenset(
        {JobState.QUEUED, JobState.COMPLETED, JobState.ERROR, JobState.CANCELLED},
    ),
    JobState.COMPLETED: frozenset(),
    JobState.ERROR: frozenset(),
    JobState.CANCELLED: frozenset(),
}

ATTEMPT_MOVES: Moves[AttemptState] = {
    AttemptState.RUNNING: frozenset(set(AttemptState) - {AttemptState.RUNNING}),
    AttemptState.COMPLETED: frozenset(),
    AttemptState.ERROR: frozenset(),
    AttemptState.CANCELLED: frozenset(),
    AttemptState.LOST: frozenset(),
}

DELIVERY_MOVES: Moves[DeliveryState] = {
    DeliveryState.OWED: frozenset({DeliveryState.DELIVERED, DeliveryState.GIVEN_UP, DeliveryState.VOID}),
    DeliveryState.DELIVERED: frozenset({DeliveryState.OWED}),  # an operator may have it sent again
    DeliveryState.GIVEN_UP: frozenset({DeliveryState.OWED}),
    DeliveryState.VOID: frozenset(),
}

ENGINE_MOVES: Moves[EngineState] = {
    EngineState.CLOSED: frozenset({EngineState.STARTING}),
    EngineState.STARTING: frozenset({EngineState.READY, EngineState.CLOSED}),
    EngineState.READY: frozenset({EngineState.WORKING, EngineState.CLOSED}),
    EngineState.WORKING: frozenset({EngineState.READY, EngineState.CLOSED}),
}

MOVES: Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]] = {
    JobState: JOB_MOVES,  # type: ignore[dict-item]  # a mapping is invariant in its key
    AttemptState: ATTEMPT_MOVES,  # type: ignore[dict-item]  # as above
    DeliveryState: DELIVERY_MOVES,  # type: ignore[dict-item]  # as above
    EngineState: ENGINE_MOVES,  # type: ignore[dict-item]  # as above
}

ENDED = frozenset(state for state, onward in JOB_MOVES.items() if not onward)
"""The states of a job from which nothing follows."""


class Stateful(Protocol[State]):
    """Anything whose `state` moves by one of the tables above."""

    state: State


def move_to(thing: Stateful[State], state: State) -> None:
    """Bring `thing` into `state`; the only place that assigns a state.

    Raises IllegalMove when the table does not allow it.
    """
    if state not in MOVES[type(state)][thing.state]:
        raise IllegalMove(f"a {type(thing).__name__.lower()} that is {thing.state} cannot become {state}")
    thing.state = state
