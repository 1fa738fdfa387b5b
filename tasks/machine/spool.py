"""Finished work on the machine's own disk until the API has it: nothing is drawn for nothing."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tasks.machine.client import FleetClient
from tasks.machine.errors import Refused

log = logging.getLogger(__name__)

LETTER = "outcome.json"
"""Written last: a folder without it is work that was interrupted."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The outcome of one attempt with its pictures, on disk."""

    folder: Path
    job_id: UUID
    attempt: int

    def images(self) -> list[dict[str, Any]]:
        """Return what is to be said about each picture."""
        images: list[dict[str, Any]] = self._letter()["images"]
        return images

    def outcome(self) -> dict[str, Any]:
        """Return how the attempt ended."""
        outcome: dict[str, Any] = self._letter()["outcome"]
        return outcome

    def _letter(self) -> dict[str, Any]:
        letter: dict[str, Any] = json.loads((self.folder / LETTER).read_text(encoding="utf-8"))
        return letter


class Spool:
    """The parcels of one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.clear_interrupted()

    def put(
        self,
        key: tuple[UUID, int],
        images: Sequence[tuple[Mapping[str, Any], bytes]],
        outcome: Mapping[str, Any],
    ) -> Parcel:
        """Keep the outcome of an attempt; after this it survives a crash."""
        job_id, attempt = key
        folder = self._folder / f"{job_id}.{attempt}"
        folder.mkdir(exist_ok=True)
        for position, (_, data) in enumerate(images):
            (folder / str(position)).write_bytes(data)
        letter = {"images": [about for about, _ in images], "outcome": dict(outcome)}
        part = folder / f"{LETTER}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(letter, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / LETTER)
        return Parcel(folder, job_id, attempt)

    def keys(self) -> set[tuple[UUID, int]]:
        """Name the attempts whose outcome still has to be delivered."""
        return {(parcel.job_id, parcel.attempt) for parcel in self.parcels()}

    def parcels(self) -> Iterator[Parcel]:
        """Return what still has to be delivered."""
        for folder in sorted(self._folder.iterdir()):
            if (folder / LETTER).exists():
                job_id, _, attempt = folder.name.rpartition(".")
                yield Parcel(folder, UUID(job_id), int(attempt))

    def clear_interrupted(self) -> None:
        """Drop what an earlier process had not finished writing; its job goes to another attempt."""
        for folder in self._folder.iterdir():
            if not (folder / LETTER).exists():
                shutil.rmtree(folder)

    def deliver(self, parcel: Parcel, client: FleetClient) -> str | None:
        """Bring a parcel to the API and drop it; returns what became of the job, None when nobody wants it.

        Raises FleetAway, and then keeps it.
        """
        try:
            for position, about in enumerate(parcel.images()):
                data = (parcel.folder / str(position)).read_bytes()
                client.deliver(parcel.job_id, parcel.attempt, position, about, data)
            status = client.finish(parcel.job_id, parcel.attempt, parcel.outcome())
        except Refused as exc:
            log.warning("job %s: what attempt %d brought was refused: %s", parcel.job_id, parcel.attempt, exc)
            status = None
        shutil.rmtree(parcel.folder)
        return status
