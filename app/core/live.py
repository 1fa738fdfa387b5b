"""What is true only for the moment: progress, previews, wishes to cancel and to skip. Never the truth about a job.

Pure: machines import this module too. The store behind the port may vanish at any time; then pictures are still
drawn and jobs still end, only nobody sees them move.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

HISTORY_SECONDS = 600
"""How long the progress of an ended job can still be read: a client that lost its connection is back by then."""

LARGEST_PREVIEW = 256 * 1024
"""Bytes; a larger preview is not kept. Ours have some kilobytes, and the store's memory belongs to everybody."""

POSITION = re.compile(r"\d{1,19}(-\d{1,19})?", re.ASCII)
"""A moment of a history: milliseconds and a number. Nineteen digits always fit the 64 bits that stores have."""


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
    together: int = 1
    """How many pictures are being drawn at once, this one and those behind it."""

    @property
    def fraction(self) -> float:
        """Say how much is done, 0 to 1."""
        done = self.image + (self.together * self.step / self.steps if self.steps else 0.0)
        return min(1.0, done / self.images) if self.images else 0.0


@dataclass(frozen=True, slots=True)
class Skipped:
    """What somebody asked to skip: one picture, or those that are drawn at once with it, of one attempt.

    A wish that comes late means nothing that is drawn after it.
    """

    attempt: int
    image: int
    """As in Progress."""


def is_position(text: str) -> bool:
    """Say whether this can be a position in a history; the empty text stands before all."""
    return text == "" or POSITION.fullmatch(text) is not None


class LiveStore(Protocol):
    """Where machines leave progress and find wishes to cancel."""

    def report(self, job_id: UUID, progress: Progress, preview: bytes | None = None) -> bool:
        """Leave progress and, now and then, a small JPEG; return whether the attempt should stop.

        It should when somebody asked to cancel the job, or when a later attempt has reported: then this one has lost
        the job, nothing of it is kept, and a machine that woke up late learns it with its next step.
        """

    def is_unwanted(self, job_id: UUID) -> bool:
        """Say whether somebody asked to cancel the job; nothing is written."""

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress; None when there is none, or the store is away."""

    def progress_of_each(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Progress]:
        """Read the newest progress of many jobs at once, of those that have any."""

    def history(self, job_id: UUID, after: str = "") -> list[tuple[str, Progress]]:
        """Read all progress that was left behind this position, oldest first, each with its own position.

        A position is what `is_position` accepts. Positions only grow, also across a store that was emptied.
        """

    def preview(self, job_id: UUID) -> bytes | None:
        """Read the newest preview of the newest attempt, a JPEG."""

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Let the running attempt know that nobody wants its pictures any more."""

    def ask_to_skip(self, job_id: UUID, shown: Progress) -> None:
        """Let the running attempt know that what is being drawn at this moment of it should be left as it is."""

    def skipped(self, job_id: UUID) -> Skipped | None:
        """Read which picture somebody asked to skip last; None when nobody did, or the store is away."""

    def forget(self, job_id: UUID) -> None:
        """Drop what was kept for a job that has ended; its history stays for HISTORY_SECONDS, for those who return."""
