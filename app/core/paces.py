"""Paces: how fast each kind of device draws with each model, learnt from what was drawn, and how good promises were."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.extras import STRENGTH, Hires, read
from app.core.fleet import Transaction
from app.core.lifecycle import JobState
from app.core.tables import Attempt, Job, Pace

SMALLEST_MEGAPIXELS = 0.25
"""A step of a picture smaller than 512 x 512 takes a GPU no less: it waits for its kernels to be launched."""

NEWEST_WEIGHS = 0.1
"""How much of a pace the newest sample makes up: what is older than some twenty pictures hardly counts."""

SURE_AFTER = 3
"""So many samples, and one that differs wildly is taken for an accident."""

WILDLY = 3.0
"""A sample counts for no more than so many times the pace, and for no less than that part of it."""

SHORTEST_LOAD = 0.05
"""Seconds; what is faster was a look into the cache, not a load."""

LAST_PROMISES = 200
"""So many completed jobs say how good promises are."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an order asks of a device."""

    pictures: int
    steps: float | None
    """Of one picture at its size; a second pass over a larger one counts for as many as take as long."""
    megapixels: float | None
    """Of one picture; None, as with the steps: whatever the driver takes for its default."""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Work":
        """Read it from an order."""
        width, height = spec.get("width"), spec.get("height")
        size = max(SMALLEST_MEGAPIXELS, width * height / 1e6) if width and height else None
        return cls(int(spec.get("n") or 1), _steps_of(spec), size)

    @property
    def units(self) -> float | None:
        """Return the steps times megapixels of one picture; None where the order leaves one of them open."""
        return self.steps * self.megapixels if self.steps and self.megapixels else None


def _steps_of(spec: Mapping[str, Any]) -> float | None:
    """Count the steps that are taken: a strength leaves the first ones out, the high-res fix has some of its own."""
    asked = spec.get("steps")
    if not asked:
        return None
    begins_with = spec.get("image") is not None
    strength = spec.get("strength")
    taken = asked * (STRENGTH if strength is None else strength) if begins_with else asked
    if hires := spec.get("hires"):
        second = read(Hires, hires)
        taken += (second.steps or asked) * second.strength * second.scale**2
    return float(taken)


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of a model on a kind of device, or on several of them together. Seconds."""

    step: float | None
    """Of one denoising step, per megapixel."""
    picture: float | None
    """Of denoising one picture, whatever its size."""
    loading: float
    other: float
    job: float
    """Of a whole job, without loading."""
    samples: int

    def denoising(self, work: Work) -> float:
        """Estimate the denoising of all pictures of an order."""
        if self.step is not None and work.units is not None:
            return self.step * work.units * work.pictures
        return (self.picture or 0.0) * work.pictures if self.picture is not None else self.job

    def seconds(self, work: Work) -> float:
        """Estimate a whole order, without loading the model."""
        if self.picture is None and (self.step is None or work.units is None):
            return self.job
        return self.denoising(work) + self.other * work.pictures


def known_of(session: Session, model_ids: Iterable[str]) -> dict[tuple[str, str], Known]:
    """Return what is known of these models, by model and device; under the device "" of all devices together."""
    rows = session.execute(_PACES, {"model_ids": list(set(model_ids))}).all()
    found = {(pace.model_id, pace.device): _known([pace]) for pace in rows}
    by_model: dict[str, list[Any]] = {}
    for pace in rows:
        by_model.setdefault(pace.model_id, []).append(pace)
    return found | {(model_id, ""): _known(paces) for model_id, paces in by_model.items()}


# Made once: it is asked for every job that is accepted, and making it takes longer than asking it.
_PACES = select(
    Pace.model_id,
    Pace.device,
    Pace.step_seconds,
    Pace.picture_seconds,
    Pace.loading_seconds,
    Pace.other_seconds,
    Pace.job_seconds,
    Pace.samples,
).where(Pace.model_id.in_(bindparam("model_ids", expanding=True)))


def _known(paces: Sequence[Any]) -> Known:
    def mean(name: str) -> float | None:
        values = [value for pace in paces if (value := getattr(pace, name)) is not None]
        return sum(values) / len(values) if values else None

    return Known(
        step=mean("step_seconds"),
        picture=mean("picture_seconds"),
        loading=mean("loading_seconds") or 0.0,
        other=mean("other_seconds") or 0.0,
        job=mean("job_seconds") or 0.0,
        samples=sum(pace.samples for pace in paces),
    )


def learn(tx: Transaction, job: Job, attempt: Attempt) -> None:
    """Learn from an attempt that completed its job; nothing is learnt where another one teaches at this moment.

    A job of a batch has had its part of the machine's time: so long each of those that wait keeps it. How long a
    picture takes by itself cannot be seen there.
    """
    if attempt.ended_at is None:
        return
    pace = _hold(tx, job.model_id, attempt.device)
    if pace is None:
        return
    work, timings = Work.of(job.spec), attempt.timings
    whole = max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())
    loading, denoising = seconds_of(timings, "loading"), seconds_of(timings, "denoising")
    pace.job_seconds = nearer(pace.job_seconds, (whole - (loading or 0.0)) / attempt.together, pace.samples)
    if denoising is not None and attempt.together == 1:
        pace.picture_seconds = nearer(pace.picture_seconds, denoising / work.pictures, pace.samples)
        if work.units is not None:
            pace.step_seconds = nearer(pace.step_seconds, denoising / work.pictures / work.units, pace.samples)
        rest = whole - denoising - (loading or 0.0) - (seconds_of(timings, "provisioning") or 0.0)
        pace.other_seconds = nearer(pace.other_seconds, rest / work.pictures, pace.samples)
    if loading is not None and loading >= SHORTEST_LOAD:
        pace.loading_seconds = nearer(pace.loading_seconds, loading, pace.samples)
    pace.samples += 1
    pace.updated_at = tx.now


def _hold(tx: Transaction, model_id: str, device: str) -> Pace | None:
    """Lock the row of a model and a device, and make it where there is none; None where somebody else holds it."""
    key = (Pace.model_id == model_id, Pace.device == device)
    # Nobody waits for a lesson: completed jobs of one model would otherwise be written one after the other.
    found = tx.session.scalars(select(Pace).where(*key).with_for_update(skip_locked=True)).one_or_none()
    if found is not None:
        return found
    if tx.session.scalar(select(Pace.samples).where(*key)) is not None:
        return None
    pace = Pace(model_id=model_id, device=device, samples=0, updated_at=tx.now)
    try:
        with tx.session.begin_nested():
            tx.session.add(pace)
    except IntegrityError:
        return None
    return pace


def seconds_of(timings: Mapping[str, Any], phase: str) -> float | None:
    """Read what a machine says that a phase took; None for what is no time. A machine may say anything."""
    value = timings.get(phase)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0 else None


def nearer(known: float | None, sample: float, samples: int) -> float:
    """Move a pace of so many samples towards a new one: a mean of the first ones, a moving one of the last ones.

    Both are seconds. It is deaf to accidents: a sample that differs wildly counts for no more than WILDLY says.
    """
    sample = max(0.0, sample)
    if known is None:
        return sample
    if samples >= SURE_AFTER and known > 0:
        sample = min(max(sample, known / WILDLY), known * WILDLY)
    return known + max(NEWEST_WEIGHS, 1 / (samples + 1)) * (sample - known)


@dataclass(frozen=True, slots=True)
class Record:
    """How far promises were from the truth."""

    samples: int
    p50: float
    """Half of them were no more than so many seconds off."""
    p90: float
    relative_p50: float
    """The same, as a part of the time from order to end."""
    relative_p90: float


def record_of(session: Session, model_id: str) -> Record | None:
    """Compare the last promises for a model with what came true; None where there were none."""
    query = (
        select(Job.created_at, Job.promised_at, Job.ended_at)
        .where(Job.model_id == model_id, Job.state == JobState.COMPLETED)
        .order_by(Job.ended_at.desc())
        .limit(LAST_PROMISES)
    )
    rows = [row for row in session.execute(query) if row.promised_at is not None]
    if not rows:
        return None
    off = sorted(abs((row.ended_at - row.promised_at).total_seconds()) for row in rows)
    moment = timedelta(milliseconds=1)
    relative = sorted(abs(row.ended_at - row.promised_at) / max(row.ended_at - row.created_at, moment) for row in rows)
    return Record(
        samples=len(rows),
        p50=percentile(off, 0.5),
        p90=percentile(off, 0.9),
        relative_p50=percentile(relative, 0.5),
        relative_p90=percentile(relative, 0.9),
    )


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest of some sorted values that `part` of them do not exceed (nearest rank)."""
    return values[max(0, math.ceil(part * len(values)) - 1)]
