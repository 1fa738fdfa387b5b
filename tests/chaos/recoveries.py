"""How soon lost jobs ran again, and what each of them waited for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from app.core.lifecycle import AttemptState
from app.core.tables import Attempt, Job

HANDED_BACK = "handed_back"


@dataclass(frozen=True, slots=True)
class Recovery:
    """A lost attempt, and what came of its job; seconds count from the blow to its machine."""

    taken: float
    """Until the job was taken from it, which an outage of database or API makes longer."""
    again: float
    """Until the next attempt began, which waiting behind other jobs is part of."""
    others: int
    """Attempts at other jobs of its model that began while it waited: these had their turn or a higher priority."""


def recoveries(jobs: Sequence[Job], strikes: Sequence[tuple[float, str]]) -> dict[str, str]:
    """Return the lines of the table."""
    found = sorted(_recoveries(jobs, strikes), key=lambda each: each.again)
    first = [each for each in found if not each.others]
    behind = f"; {found[-1].others} jobs of its model had their turn meanwhile" if found else ""
    return {
        "lost job queued again after": _spread([each.taken for each in found]),
        "lost job running again after": _spread([each.again for each in found]) + behind,
        "of these, nobody had a turn before": f"{len(first)}: {_spread([each.again for each in first])}",
    }


def _recoveries(jobs: Sequence[Job], strikes: Sequence[tuple[float, str]]) -> Iterator[Recovery]:
    begun = [(job, attempt.started_at) for job in jobs for attempt in job.attempts]
    for job in jobs:
        for lost, following in zip(job.attempts, job.attempts[1:], strict=False):
            if lost.state == AttemptState.LOST and lost.error_code != HANDED_BACK and lost.ended_at is not None:
                struck_at = _struck_at(lost, strikes)
                others = [
                    at
                    for other, at in begun
                    if other is not job and other.model_id == job.model_id and lost.ended_at < at < following.started_at
                ]
                ended_at, started_at = lost.ended_at.timestamp(), following.started_at.timestamp()
                yield Recovery(ended_at - struck_at, started_at - struck_at, len(others))


def _struck_at(lost: Attempt, strikes: Sequence[tuple[float, str]]) -> float:
    assert lost.ended_at is not None
    since, until = lost.started_at.timestamp(), lost.ended_at.timestamp()
    return max((at for at, what in strikes if since <= at <= until and lost.machine_id in what), default=until)


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f} s (median), {max(seconds):.1f} s (longest)" if seconds else "-"
