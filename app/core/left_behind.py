"""Orders whose clients were gone before the pictures came: the same request, sent again soon, takes them up.

Many clients send a request again that was answered too late or not at all, and know no Idempotency-Key. What is kept
here is only what nobody waits for any more: whoever sends the same request while the first one is still waited for
means another order. Of several jobs that were left by the same request it does not matter which one is taken up.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from app.core import jobs
from app.core.fleet import Transaction
from app.core.lifecycle import JobState
from app.core.tables import IdempotencyKey, Job

KEPT = timedelta(minutes=2)
"""Clients come again within a minute; who comes later has seen the error, and orders anew."""


def leave(tx: Transaction, owner: str, fingerprint: str, job_id: UUID) -> None:
    """Remember that nobody waits for a job any more that this request has ordered."""
    row = _locked(tx, owner, fingerprint) or _made(tx, owner, fingerprint)
    waiting = row.job_ids if row.created_at > tx.now - KEPT else []
    row.job_ids = [*waiting, str(job_id)]
    row.created_at = tx.now


def take_up(tx: Transaction, owner: str, fingerprint: str) -> Job | None:
    """Return a job that the same request has left behind, for one who waits for it again; None where there is none."""
    row = _locked(tx, owner, fingerprint)
    if row is None or row.created_at <= tx.now - KEPT:
        return None
    found = jobs.get_each(tx.session, [UUID(each) for each in row.job_ids])
    wanted = next((job for job in found if job.state != JobState.CANCELLED), None)
    row.job_ids = [str(job.id) for job in found if job.state != JobState.CANCELLED and job is not wanted]
    return wanted


def _locked(tx: Transaction, owner: str, fingerprint: str) -> IdempotencyKey | None:
    return tx.session.get(IdempotencyKey, (owner, _key(fingerprint)), with_for_update=True)


def _made(tx: Transaction, owner: str, fingerprint: str) -> IdempotencyKey:
    row = IdempotencyKey(owner=owner, key=_key(fingerprint), fingerprint=fingerprint, job_ids=[], created_at=tx.now)
    try:
        with tx.session.begin_nested():
            tx.session.add(row)
    except IntegrityError:  # the same request was left by somebody else at this moment
        return tx.session.get_one(IdempotencyKey, (owner, _key(fingerprint)), with_for_update=True)
    return row


def _key(fingerprint: str) -> str:
    return f"left behind {fingerprint}"  # the header cannot hold spaces: no client's key is this one
