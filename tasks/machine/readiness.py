"""Readiness: a model's queue is consumed exactly while its proof is valid, an engine's while it is in memory.

The gate stands between the receipts on disk and Celery's consumer. Celery's own thread does all joining and leaving;
`follow` may be called from any thread.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

from app.core.dispatch import engine_queue, model_queue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Joined:
    """What is consumed."""

    models: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset()

    def queues(self) -> dict[str, str]:
        """Return the queues, each with what people call what it leads to."""
        models = {model_queue(model_id): model_id for model_id in self.models}
        return models | {engine_queue(engine_id): f"engine {engine_id}" for engine_id in self.engines}


NOTHING = Joined()


class QueueGate:
    """Knows which queues of models and engines this worker consumes, and changes it."""

    def __init__(self, on_joined: Callable[[str], None] = lambda _model_id: None) -> None:
        """`on_joined` is told of each model whose queue is consumed from now on."""
        self._on_joined = on_joined
        self._consumer: Any = None
        self._wanted = NOTHING
        self._joined = NOTHING
        # A signal handler may want to leave the queues while the same thread holds it.
        self._lock = threading.RLock()

    @property
    def joined(self) -> frozenset[str]:
        """Return the models whose queues are consumed at this moment."""
        return self._joined.models

    @property
    def joined_engines(self) -> frozenset[str]:
        """Return the engines whose queues are consumed at this moment."""
        return self._joined.engines

    @property
    def is_attached(self) -> bool:
        """Say whether there is a consumer to steer: there is none while the broker is away."""
        return self._consumer is not None

    def follow(self, ready: frozenset[str], engines: frozenset[str] = frozenset()) -> None:
        """Consume the queues of these models and engines and of no others."""
        self._wanted = Joined(ready, engines)
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
        self._joined = NOTHING

    def _apply(self) -> None:
        """Run in the consumer's own thread."""
        consumer = self._consumer
        if consumer is None or consumer.task_consumer is None:
            return
        wanted = self._wanted
        now, before = wanted.queues(), self._joined.queues()
        for queue in sorted(now.keys() - before.keys()):
            consumer.add_task_queue(queue)
            log.info("ready for %s: joined its queue", now[queue])
        for queue in sorted(before.keys() - now.keys()):
            consumer.cancel_task_queue(queue)
            log.warning("no longer ready for %s: left its queue", before[queue])
        for model_id in wanted.models - self._joined.models:
            self._on_joined(model_id)
        self._joined = wanted


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
