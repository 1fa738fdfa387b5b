"""What the server and the machines say to each other through the broker: task names, queue names, the bell.

Pure: machines import this module too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

GENERATE = "imagefleet.generate"
ENGINES = "imagefleet.engines"
SWEEP = "imagefleet.sweep"
DELIVER = "imagefleet.deliver"
ENRICH = "imagefleet.enrich"
TIDY = "imagefleet.tidy"

TOP_PRIORITY = 9
"""Priorities go from 0 to this one, which comes first."""

CONTROL_QUEUE = "control"
WEBHOOK_QUEUE = "webhooks"


def model_queue(model_id: str) -> str:
    """Name the queue of the jobs for one model; only machines that hold its proof consume it."""
    return f"model.{model_id}"


def engine_queue(engine_id: str) -> str:
    """Name the queue of the jobs for one engine."""
    return f"engine.{engine_id}"


def machine_queue(machine_id: str) -> str:
    """Name the private queue of one machine, the only one it consumes at its start."""
    return f"machine.{machine_id}"


@dataclass(frozen=True, slots=True)
class Message:
    """A bell: it tells a queue to look at a job, and carries nothing that must not be lost."""

    task: str
    queue: str
    job_id: UUID
    """What to look at; of the task ENGINES it is an engine's."""
    priority: int = 0
    """0 to 9, 9 first. Brokers differ in which end they call high; the dispatcher translates."""


class Dispatcher(Protocol):
    """Where messages leave for the broker."""

    def send(self, messages: Iterable[Message]) -> int:
        """Send what can be sent and return how many went; never raises for a broker that is away."""

    def depth(self, queue: str) -> int | None:
        """Count the messages that wait in a queue; None when the broker does not answer."""

    def depths(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Count what waits in many queues at once; those of which the broker said nothing are missing."""
