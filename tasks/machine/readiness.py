"""Readiness: a model's queue is consumed exactly while its proof is valid.

The gate stands between the receipts on disk and Celery's consumer. Celery's own thread does all joining and leaving;
`follow` may be called from any thread.
"""

import logging
import threading
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

from app.core.dispatch import model_queue

log = logging.getLogger(__name__)


class QueueGate:
    """Knows which model queues this worker consumes, and changes it."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._wanted: frozenset[str] = frozenset()
        self._joined: frozenset[str] = frozenset()
        # A signal handler may want to leave the queues while the same thread holds it.
        self._lock = threading.RLock()

    @property
    def joined(self) -> frozenset[str]:
        """Return the models whose queues are consumed at this moment."""
        return self._joined

    def follow(self, ready: frozenset[str]) -> None:
        """Consume the queues of these models and of no others."""
        self._wanted = ready
        with self._lock:
            if self._consumer is not None:
                self._consumer.call_soon(self._apply)

    def attach(self, consumer: Any) -> None:
        """Begin to steer a consumer; a new one is made each time the broker was lost."""
        with self._lock:
            self._consumer = consumer
        consumer.call_soon(self._apply)

    def detach(self) -> None:
        """Let go of a consumer that stops."""
        with self._lock:
            self._consumer = None
        self._joined = frozenset()

    def _apply(self) -> None:
        """Run in the consumer's own thread."""
        consumer = self._consumer
        if consumer is None or consumer.task_consumer is None:
            return
        for model_id in sorted(self._wanted - self._joined):
            consumer.add_task_queue(model_queue(model_id))
            log.info("ready for %s: joined its queue", model_id)
        for model_id in sorted(self._joined - self._wanted):
            consumer.cancel_task_queue(model_queue(model_id))
            log.warning("no longer ready for %s: left its queue", model_id)
        self._joined = self._wanted


def gate_step(gate: QueueGate) -> type[bootsteps.StartStopStep]:
    """Make the bootstep that hands Celery's consumer to the gate."""

    class GateStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
        """Attach after the consumer can take queues, detach before it goes."""

        requires = (Tasks,)

        def start(self, parent: Any) -> None:
            gate.attach(parent)

        def stop(self, parent: Any) -> None:  # noqa: ARG002  # celery's signature
            gate.detach()

    return GateStep
