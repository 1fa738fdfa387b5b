"""A beat whose life can be seen from outside: it touches a file whenever the broker took a message of it."""

from typing import Any

from celery.beat import Scheduler


class PulsingScheduler(Scheduler):  # type: ignore[misc]  # celery has no types
    """Celery's own scheduler, in memory because the schedule is in the code, with a pulse.

    A beat that runs and reaches no broker leaves none, and that is what a health check wants to know.
    """

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002  # celery's signature
        """Send what is due, and leave a pulse."""
        sent = super().apply_async(entry, producer=producer, advance=advance, **options)
        if path := self.app.conf.beat_file:
            path.touch()
        return sent
