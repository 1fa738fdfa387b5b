"""v1: what the client of one job may expect: when it is done, how it is coming along, where its time went."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.api.v1.translate import UrlFor
from app.core import forecasts, paces, timeline
from app.core.fleet import Limits
from app.core.forecasts import Forecast
from app.core.lifecycle import JobState
from app.core.live import Progress
from app.core.tables import Job


def of_job(
    session: Session, job: Job, ahead: int | None, progress: Progress | None, limits: Limits, now: datetime
) -> dict[str, Any]:
    """Say when a job will be done, and where its time went so far; `ahead` counts the jobs before one that waits."""
    return {
        "eta": _eta(session, job, ahead, progress, limits, now),
        "promised_at": job.promised_at,
        "timings": _timings(job, now),
    }


def preview_url(job: Job, url: UrlFor) -> str | None:
    """Return where the preview of a running job is."""
    return url(f"/v1/jobs/{job.id}/preview") if job.state == JobState.PROCESSING else None


def _eta(
    session: Session, job: Job, ahead: int | None, progress: Progress | None, limits: Limits, now: datetime
) -> dict[str, Any] | None:
    forecast = forecasts.of_job(session, job, ahead, progress, limits, now)
    if forecast is None:
        return None
    return _forecast_to_json(forecast, now) | _record_to_json(session, job.model_id)


def _forecast_to_json(forecast: Forecast, now: datetime) -> dict[str, Any]:
    seconds = forecast.seconds
    return {
        "seconds": None if seconds is None else round(seconds, 1),
        "at": None if seconds is None else now + timedelta(seconds=seconds),
        "basis": forecast.basis,
    }


def _record_to_json(session: Session, model_id: str) -> dict[str, Any]:
    record = paces.record_of(session, model_id)
    if record is None:
        return {"error_p50": None, "error_p90": None, "relative_p50": None, "relative_p90": None, "promises": 0}
    return {
        "error_p50": round(record.p50, 2),
        "error_p90": round(record.p90, 2),
        "relative_p50": round(record.relative_p50, 3),
        "relative_p90": round(record.relative_p90, 3),
        "promises": record.samples,
    }


def _timings(job: Job, now: datetime) -> dict[str, float]:
    """Add up the seconds of all attempts by phase."""
    spent = defaultdict(float, queued=sum(timeline.waits(job, now)))
    for attempt in job.attempts:
        for phase, seconds in attempt.timings.items():
            spent[phase] += seconds
    return {phase: round(seconds, 3) for phase, seconds in spent.items()}
