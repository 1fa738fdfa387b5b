"""The broker as Celery sees it: one way to make an app, and the dispatcher that rings the queues."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.exceptions import SecurityWarning
from kombu.exceptions import KombuError, OperationalError
from kombu.transport import TRANSPORT_ALIASES

from app import tracing
from app.core.dispatch import TOP_PRIORITY, Message
from app.settings import Settings

log = logging.getLogger(__name__)

TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "app.redis_transport:Transport"))

VISIBILITY_TIMEOUT = 3600
"""Seconds until Redis hands an unacknowledged message out again. Nothing depends on it: a machine that is lost gives
its jobs back through its silence, and a second message for the same job is refused at the claim."""

NO_SUCH_QUEUE = "404"
"""AMQP 0-9-1's reply code for a queue that does not exist."""

QueueOrder = Callable[[], Any]
"""Makes what says which queue is asked first, with the methods of kombu.utils.scheduling.round_robin_cycle."""


def without_secrets(url: str) -> str:
    """Return where a broker is, for people: without user, password and options; of several addresses each."""
    parts = [urlsplit(each) for each in url.split(";")]
    return ", ".join(f"{each.scheme}://{each.netloc.rpartition('@')[2] or each.path}" for each in parts)


def make_celery(settings: Settings, name: str = "imagefleet", queue_order: QueueOrder | None = None) -> Celery:
    """Make a Celery app for this broker; every process of ours makes its own. Its queues take turns by default."""
    # Celery warns root of pickled messages; ours are JSON and nothing else is accepted.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery = Celery(name, broker=settings.broker_url, set_as_current=False)
    celery.conf.update(_configuration(queue_order))
    return celery


def _configuration(queue_order: QueueOrder | None) -> dict[str, Any]:
    return {
        # A message is settled when its job has ended here; with one slot and no prefetching a busy machine holds none.
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        # The row is the truth about a job; a result backend would be a second one.
        "task_ignore_result": True,
        "worker_pool": "threads",  # a fork after any torch operation hangs; solo loses jobs on cold shutdown
        "worker_concurrency": 1,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_pool_acquire_timeout": 5,
        "accept_content": ["json"],
        "task_serializer": "json",
        "timezone": "UTC",
        # The row is committed before the bell rings: a broker that is away must not make a request wait.
        "task_publish_retry": False,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 25,
            # Without it kombu waits six seconds and tries again before it says that a broker is away.
            "max_retries": 0,
            "unacked_mutex_expire": 10,
            "priority_steps": [0, 3, 6, 9],
            # kombu takes a class, or whatever makes what a class would make, where it takes a name.
            "queue_order_strategy": queue_order or "round_robin",
        },
    }


class CeleryDispatcher:
    """Sends messages by task name, so that the server never imports what a machine runs."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def send(self, messages: Iterable[Message]) -> int:
        """Send what can be sent; the first failure ends the attempt, the sweeper rings for the rest."""
        sent = 0
        for message in messages:
            try:
                self._celery.send_task(
                    message.task,
                    args=[str(message.job_id)],
                    queue=message.queue,
                    # Redis calls 0 the highest, RabbitMQ 9; ours is 9.
                    priority=TOP_PRIORITY - message.priority if self._is_redis else message.priority,
                    ignore_result=True,
                    headers=tracing.carried(),
                )
            except (OperationalError, KombuError, OSError) as exc:
                log.warning("job %s: the broker did not take its message: %s", message.job_id, exc)
                break
            sent += 1
        return sent

    def depth(self, queue: str) -> int | None:
        """Count what waits in a queue, over all its priorities; None when the broker does not answer."""
        return self.depths([queue]).get(queue)

    def depths(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Count what waits in many queues: on Redis in one round trip, elsewhere one by one."""
        try:
            with self._celery.connection_for_write() as connection:
                if self._is_redis:
                    return _lengths(connection.default_channel, queues)
                return {queue: _declared(connection, queue) for queue in queues}
        except connection_errors(self._celery) as exc:
            named = ", ".join(queues[:5]) + (f" and {len(queues) - 5} others" if len(queues) > 5 else "")
            log.warning("the broker did not say how much waits in %s: %s", named, exc)
            return {}

    @property
    def _is_redis(self) -> bool:
        return str(self._celery.conf.broker_url or "").startswith(("redis", "rediss", "valkey"))


def _lengths(channel: Any, queues: Sequence[str]) -> Mapping[str, int]:
    """Ask Redis for the lengths of all lists at once; kombu keeps each priority of a queue in a list of its own."""
    lists = [(queue, channel._q_for_pri(queue, step)) for queue in queues for step in channel.priority_steps]  # noqa: SLF001  # kombu names them
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        for _, key in lists:
            pipe.llen(key)
        found = dict.fromkeys(queues, 0)
        for (queue, _), length in zip(lists, pipe.execute(), strict=True):
            found[queue] += int(length)
        return found


def _declared(connection: Any, queue: str) -> int:
    """Ask AMQP how long a queue is; one that does not exist is empty, and the question closes its channel."""
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors as exc:
            if str(getattr(exc, "reply_code", "")) == NO_SUCH_QUEUE:
                return 0
            raise


class NoBroker:
    """For commands that change the catalogue and ring no bells."""

    def send(self, messages: Iterable[Message]) -> int:  # noqa: ARG002  # the port's signature
        """Send nothing; the sweeper of the running server will."""
        return 0

    def depth(self, queue: str) -> int | None:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return None

    def depths(self, queues: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002  # as above
        """Know nothing."""
        return {}


def connection_errors(celery: Celery) -> tuple[type[BaseException], ...]:
    """Return what may be raised when the broker is away."""
    connection = celery.connection_for_write()
    return (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
