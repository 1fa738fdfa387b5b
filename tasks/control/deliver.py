"""Delivering what is owed to webhooks: hold it, send it with no transaction open, keep what became of it."""

import json
import logging
import time
from dataclasses import dataclass, field
from uuid import UUID

from app import logs, tracing
from app.core import deliveries, webhooks
from app.core.deliveries import Answer, Parcel
from app.core.dispatch import DELIVER, WEBHOOK_QUEUE, Message
from app.core.errors import Unreadable
from app.core.fleet import Fleet
from app.core.webhooks import Target
from tasks.control.lanes import Lanes
from tasks.control.post import Poster
from tasks.control.signature import sign

log = logging.getLogger(__name__)

IN_A_ROW = 20
"""So many events for one host, then the other hosts' bells come first."""

AGENT = "Imagefleet-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Courier:
    """Carries events to their hooks; one for a whole process."""

    fleet: Fleet
    poster: Poster
    lanes: Lanes = field(default_factory=Lanes)

    def run(self, job_id: UUID) -> None:
        """Send what is owed to the host of this job's hook, until nothing is due or the host is silent."""
        with self.fleet.reading() as session:
            host = deliveries.host_of(session, job_id)
        if host is None or not self.lanes.enter(host):
            return
        try:
            over = self._serve(host)
        except BaseException:
            self.lanes.leave(host)
            raise
        if not over:
            self.lanes.leave(host)
            self.fleet.dispatcher.send([Message(DELIVER, WEBHOOK_QUEUE, job_id)])

    def _serve(self, host: str) -> bool:
        """Return whether the lane has been left; if not, there is more than one may send in a row."""
        for _ in range(IN_A_ROW):
            parcel = self._take(host)
            if parcel is None:
                if not self.lanes.look_again(host):
                    return True
                continue
            with (
                logs.about(job_id=parcel.job_id, delivery_id=parcel.delivery_id),
                tracing.span("webhook", "client", parcel.traceparent, job_id=parcel.job_id, attempt=parcel.number),
            ):
                answered = self._carry(parcel, host)
            self.lanes.heard(host, answered=answered)
            if not answered:  # the sweeper rings for what else is due to it
                self.lanes.leave(host)
                return True
        return False

    def _take(self, host: str) -> Parcel | None:
        with self.fleet.transaction() as tx:
            return deliveries.take(tx, host)

    def _carry(self, parcel: Parcel, host: str) -> bool:
        """Send one event and keep the result; returns whether the host answered at all."""
        answer = self._send(parcel)
        with self.fleet.transaction() as tx:
            state = deliveries.record(tx, parcel, answer)
        log.log(
            logging.INFO if answer.is_success else logging.WARNING,
            "job %s: delivery %s (%s) to %s, try %d: %s in %.2f s, %s",
            parcel.job_id,
            parcel.delivery_id,
            parcel.event,
            host,
            parcel.number,
            answer.error or answer.status,
            answer.seconds,
            state,
        )
        return answer.status is not None or answer.hopeless

    def _send(self, parcel: Parcel) -> Answer:
        now, began = self.fleet.clock(), time.monotonic()
        try:
            target = webhooks.unseal(self.fleet.vault, parcel.sealed)
        except Unreadable as exc:
            return Answer(now, 0.0, error=f"the webhook's address and secret cannot be read: {exc}", hopeless=True)
        body = json.dumps(parcel.body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = headers_of(target, str(parcel.delivery_id), int(now.timestamp()), body) | tracing.carried()
        reply = self.poster.send(target.url, headers, body)
        return Answer(now, time.monotonic() - began, reply.status, reply.error, reply.retry_after)


def headers_of(target: Target, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks, and seed 002's `X-Webhook-Key` where a key was given.

    The timestamp is that of this try: receivers refuse old ones.
    """
    headers = {
        "Content-Type": "application/json",
        "User-Agent": AGENT,
        "Accept-Encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    if signing := target.secret or target.key:
        headers["webhook-signature"] = sign(signing, message_id, timestamp, body)
    if target.key:
        headers["X-Webhook-Key"] = target.key
    return headers
