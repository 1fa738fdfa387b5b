"""For how long things are kept. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Keeping:
    """Days; 0: for ever. Nothing is deleted that nobody asked to be deleted."""

    jobs: int = 0
    """After their end, with their pictures and deliveries; those with a favourite picture stay."""
    images: int = 0
    """After they were drawn; favourites stay, and so do the jobs."""
    deliveries: int = 0
    """After they were delivered or given up."""
    inputs: int = 0
    """After a job last asked for them."""
    leftovers: int = 0
    """What nobody can see: pictures of attempts that did not complete their job, files without a row."""
    visitors: int = 0
    """What clients have set for themselves, after they last set or ordered anything."""
    machines: int = 0
    """After they last checked in, with what they held; drained ones stay."""

    @staticmethod
    def before(days: int, now: datetime) -> datetime | None:
        """Return the moment before which things are old; None: they are kept for ever."""
        return now - timedelta(days=days) if days else None
