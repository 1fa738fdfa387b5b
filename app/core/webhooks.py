"""Webhooks: who asked to be told, and the events that are owed to them. `deliveries` sees that they arrive."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.dispatch import DELIVER, WEBHOOK_QUEUE, Message
from app.core.fleet import Transaction, Vault
from app.core.lifecycle import ENDED, JobState
from app.core.spec import shown
from app.core.tables import Delivery, Hook, Image, Job

EVENTS: Sequence[str] = tuple(state.value for state in JobState)
"""What can be told of a job, by the state it comes into. `queued` tells that it went back; the order's answer tells
that it was accepted."""

ENDINGS = frozenset(state.value for state in ENDED)


@dataclass(frozen=True, slots=True)
class HookRequest:
    """Where a client wants to hear of its job. It shows none of its secrets."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    """Signs what is sent, and is itself never sent."""
    key: str | None = field(default=None, repr=False)
    """Is sent in a header, as seed 002 wants it; signs as well where there is no secret."""
    events: Sequence[str] = ()
    """Empty: the endings."""
    shown: str = ""
    """The address without what may be a secret."""
    host: str = ""
    """host:port."""
    base_url: str = ""
    """Under which address the client reaches us; it ends with a slash."""
    sealed: str | None = field(default=None, repr=False)
    """All of the above that is secret, where it is known only encrypted."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an event goes, with its secrets."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)


def attach(tx: Transaction, job: Job, wanted: HookRequest) -> None:
    """Keep where a job's client wants to hear of it; raises NoVault where nothing can be encrypted."""
    tx.session.add(
        Hook(
            job_id=job.id,
            url=wanted.shown,
            host=wanted.host,
            sealed=wanted.sealed or _seal(tx.vault, Target(wanted.url, wanted.secret, wanted.key)),
            events=list(wanted.events),
            base_url=wanted.base_url,
        ),
    )


def _seal(vault: Vault, target: Target) -> str:
    return vault.seal(json.dumps({"url": target.url, "secret": target.secret, "key": target.key}))


def unseal(vault: Vault, sealed: str) -> Target:
    """Read where a hook leads; raises Unreadable when it was encrypted with another key."""
    return Target(**json.loads(vault.unseal(sealed)))


def request_of(session: Session, job: Job) -> HookRequest | None:
    """Return a job's hook as another job can be ordered with it; its secrets stay encrypted."""
    hook = session.get(Hook, job.id)
    if hook is None:
        return None
    return HookRequest(
        url="", events=tuple(hook.events), shown=hook.url, host=hook.host, base_url=hook.base_url, sealed=hook.sealed
    )


def owe(tx: Transaction, job: Job, event: str) -> None:
    """Owe an event to a job's hook, if it wants it, in the transaction that made it true. The job is locked by it."""
    hook = tx.session.get(Hook, job.id)
    if hook is None or not _wants(hook, event):
        return
    count = select(func.count()).select_from(Delivery).where(Delivery.job_id == job.id)
    tx.session.add(
        Delivery(
            job_id=job.id,
            position=tx.session.scalar(count) or 0,
            host=hook.host,
            event=event,
            body=_body(tx.session, job, hook, event, tx.now),
            created_at=tx.now,
            next_try_at=tx.now,
        ),
    )
    tx.after_commit(Message(DELIVER, WEBHOOK_QUEUE, job.id))


def owe_begun(tx: Transaction, job_id: UUID) -> None:
    """Owe the news that a machine draws a job, for a verb that has not loaded it."""
    hook = tx.session.get(Hook, job_id)
    if hook is not None and _wants(hook, JobState.PROCESSING):
        owe(tx, tx.session.get_one(Job, job_id, populate_existing=True), JobState.PROCESSING)


def _wants(hook: Hook, event: str) -> bool:
    return event in (hook.events or ENDINGS)


def _body(session: Session, job: Job, hook: Hook, event: str, now: datetime) -> dict[str, Any]:
    """Say it as Standard Webhooks recommends, with seed 002's names for the job and its state beside."""
    return {
        "type": f"job.{event}",
        "timestamp": now.isoformat(),
        "uuid": str(job.id),
        "status": event,
        "data": _job_to_json(job, _pictures(session, job), hook.base_url),
    }


def _pictures(session: Session, job: Job) -> Sequence[Image]:
    if job.state != JobState.COMPLETED:
        return []
    query = select(Image).where(Image.job_id == job.id, Image.attempt == job.attempt)
    return session.scalars(query.order_by(Image.position)).all()


def _job_to_json(job: Job, pictures: Sequence[Image], base_url: str) -> Mapping[str, Any]:
    """Show a job with the names that the v1 dialect has for it, and absolute addresses."""
    error = {"code": job.error_code or "error", "message": job.error or "no reason was given"}
    return {
        "job_id": str(job.id),
        "status": job.state.value,
        "model_id": job.model_id,
        "attempt": job.attempt,
        "images": [_picture_to_json(image, base_url) for image in pictures],
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "ended_at": _moment(job.ended_at),
        "parameters": shown(job.spec),
        "error": error if job.error_code or job.error else None,
        "url": f"{base_url}v1/jobs/{job.id}",
    }


def _picture_to_json(image: Image, base_url: str) -> Mapping[str, Any]:
    return {
        "image_id": str(image.id),
        "url": f"{base_url}v1/images/{image.id}",
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "size_bytes": image.size_bytes,
        "notes": (image.receipt or {}).get("notes", []),
    }


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
