"""Finished work on the machine's own disk until the API has it: nothing is drawn for nothing.

Nothing is ever dropped to make room. A machine whose spool is full takes no more jobs until the API has taken what is
there; where the disk itself is full, finished work stays in memory meanwhile.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from tasks.machine.client import FleetClient
from tasks.machine.errors import Fenced, Refused

log = logging.getLogger(__name__)

LETTER = "outcome.json"
"""Written last: a folder without it is work that was interrupted."""

KEPT_SECONDS = 1.0
"""Waiting for less than this is no waiting: it is counted with the uploading."""

Key = tuple[UUID, int]
"""A job and the number of the attempt."""

Unsent = dict[int, tuple[Mapping[str, Any], bytes]]
"""What is to be said about each picture that the API does not have yet, and its file, by its position in the job."""


class Parcel(Protocol):
    """The outcome of one attempt, with those of its pictures that the API does not have yet."""

    @property
    def key(self) -> Key:
        """Name the attempt."""

    def letter(self) -> dict[str, Any]:
        """Return what is written on it: {"images", "positions", "outcome", "at"}; FileNotFoundError when it is gone."""

    def data(self, position: int) -> bytes:
        """Return a picture's file."""

    def drop(self) -> None:
        """Throw it away."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A parcel on disk: it survives the end of the process."""

    folder: Path
    key: Key

    def letter(self) -> dict[str, Any]:
        """Read what is written on it."""
        letter: dict[str, Any] = json.loads((self.folder / LETTER).read_text(encoding="utf-8"))
        return letter

    def data(self, position: int) -> bytes:
        """Read a picture's file."""
        return (self.folder / str(position)).read_bytes()

    def drop(self) -> None:
        """Delete it."""
        (self.folder / LETTER).unlink(missing_ok=True)  # first: what remains of it is no parcel any more
        shutil.rmtree(self.folder)


@dataclass(frozen=True, slots=True)
class Held:
    """A parcel in memory, where the disk takes no more."""

    key: Key
    written: Mapping[str, Any]
    files: Mapping[int, bytes]
    held: dict[Key, "Held"]

    def letter(self) -> dict[str, Any]:
        """Return what is written on it."""
        return dict(self.written)

    def data(self, position: int) -> bytes:
        """Return a picture's file."""
        return self.files[position]

    def drop(self) -> None:
        """Let go of it."""
        self.held.pop(self.key, None)


class Spool:
    """The parcels of one machine."""

    def __init__(self, folder: Path, most_bytes: int = 2 * 10**9) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._held: dict[Key, Held] = {}
        self.refused = 0
        """How many parcels nobody wanted any more."""
        folder.mkdir(parents=True, exist_ok=True)
        self.clear_interrupted()

    def put(self, key: Key, images: Unsent, outcome: Mapping[str, Any]) -> Parcel:
        """Keep the outcome of an attempt; after this it survives a crash, unless the disk is full."""
        letter = {
            "images": [about for about, _ in images.values()],
            "positions": list(images),
            "outcome": dict(outcome),
            "at": time.time(),
        }
        job_id, attempt = key
        folder = self._folder / f"{job_id}.{attempt}"
        try:
            folder.mkdir(exist_ok=True)
            for position, (_, data) in images.items():
                _write(folder / str(position), data)
            _write(folder / f"{LETTER}.part", json.dumps(letter).encode())
            (folder / f"{LETTER}.part").replace(folder / LETTER)
        except OSError as exc:
            log.error(  # noqa: TRY400  # the reason is the message
                "job %s: attempt %d is kept in memory only, and no more jobs are taken until the API has it: "
                "%s cannot be written (%s); make room there",
                job_id,
                attempt,
                folder,
                exc,
            )
            shutil.rmtree(folder, ignore_errors=True)
            self._held[key] = Held(key, letter, {position: data for position, (_, data) in images.items()}, self._held)
            return self._held[key]
        return Kept(folder, key)

    def keys(self) -> set[Key]:
        """Name the attempts whose outcome still has to be delivered."""
        return {parcel.key for parcel in self.parcels()}

    def parcels(self) -> Iterator[Parcel]:
        """Return what still has to be delivered."""
        for folder in sorted(self._folder.iterdir()):
            if (folder / LETTER).exists():
                job_id, _, attempt = folder.name.rpartition(".")
                yield Kept(folder, (UUID(job_id), int(attempt)))
        yield from list(self._held.values())

    def is_full(self) -> bool:
        """Say whether so much waits to be delivered that nothing should be added."""
        if self._held:
            return True
        sizes = 0
        for folder in self._folder.iterdir():
            for path in folder.iterdir():
                try:
                    sizes += path.stat().st_size
                except FileNotFoundError:  # delivered meanwhile
                    continue
        return sizes >= self._most_bytes

    def clear_interrupted(self) -> None:
        """Drop what an earlier process had not finished writing; its job goes to another attempt."""
        for folder in self._folder.iterdir():
            if not (folder / LETTER).exists():
                shutil.rmtree(folder)

    def deliver(self, parcel: Parcel, client: FleetClient, before_end: Callable[[], None] = lambda: None) -> str | None:
        """Bring a parcel to the API and drop it; returns what became of the job, None when nobody wants it.

        `before_end` is called when only the ending is left to be told. Raises FleetAway, and then keeps the parcel.
        """
        job_id, attempt = parcel.key
        try:
            letter = parcel.letter()
        except FileNotFoundError:  # delivered a moment ago
            return None
        began = time.time()
        outcome = dict(letter["outcome"])
        try:
            outcome = self._bring_pictures(parcel, letter, client)
            before_end()
            timings = _added(outcome.get("timings", {}), _seconds(letter["at"], began))
            status = client.finish(job_id, attempt, {**outcome, "timings": timings})
        except Refused as exc:
            self.refused += 1
            log.warning("job %s: what attempt %d brought was refused: %s", job_id, attempt, exc)
            status = None
        parcel.drop()
        return status

    def _bring_pictures(self, parcel: Parcel, letter: Mapping[str, Any], client: FleetClient) -> dict[str, Any]:
        """Deliver the pictures; where one can never be taken, the outcome becomes that error."""
        outcome = dict(letter["outcome"])
        job_id, attempt = parcel.key
        try:
            # Before pictures went home one by one, a parcel had all of them.
            positions = letter.get("positions", range(len(letter["images"])))
            for position, about in zip(positions, letter["images"], strict=True):
                client.deliver(job_id, attempt, position, about, parcel.data(position))
        except Fenced:
            raise
        except Refused as exc:
            log.warning("job %s: a picture of attempt %d was refused: %s", job_id, attempt, exc)
            ended = {"state": "error", "error_code": "delivery_refused", "error": f"a picture was refused: {exc}"}
            return {**outcome, **ended}
        return outcome


def _seconds(put_at: float, began: float) -> dict[str, float]:
    """Divide the time since the parcel was made up into waiting and uploading; the clock may have been set back."""
    now = time.time()
    if began - put_at < KEPT_SECONDS:
        return {"uploading": round(max(0.0, now - put_at), 4)}
    return {"kept": round(began - put_at, 4), "uploading": round(max(0.0, now - began), 4)}


def _added(timings: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    return {**timings, **{phase: round(timings.get(phase, 0.0) + seconds, 4) for phase, seconds in more.items()}}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
