"""What is true only for the moment: progress, previews, the wish to cancel. Never the truth about a job.

Pure: machines import this module too. The store behind the port may vanish at any time; then pictures are still
drawn and jobs still end, only nobody sees them move.
"""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one attempt is."""

    attempt: int
    phase: str
    """One of `loading`, `denoising`, `encoding`, `uploading`."""
    step: int = 0
    steps: int = 0
    image: int = 0
    """Which picture of the job is being drawn, from 0."""
    images: int = 1

    @property
    def fraction(self) -> float:
        """Say how much is done, 0 to 1."""
        done = self.image + (self.step / self.steps if self.steps else 0.0)
        return min(1.0, done / self.images) if self.images else 0.0


class LiveStore(Protocol):
    """Where machines leave progress and find wishes to cancel."""

    def report(self, job_id: UUID, progress: Progress) -> bool:
        """Leave progress, and return whether somebody asked to cancel the job."""

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress; None when there is none, or the store is away."""

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Let the running attempt know that nobody wants its pictures any more."""

    def forget(self, job_id: UUID) -> None:
        """Drop all that was kept for a job that has ended."""
