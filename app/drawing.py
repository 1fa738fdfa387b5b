"""Drawing from the command line: order, watch, call off, save."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from app.client import ENDED, POLL_SECONDS, ApiClient, ApiError

SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

AWAY_SECONDS = 60.0
"""How long a server may be restarted while its job is waited for; the job is safe there."""

Job = Mapping[str, Any]


class UnknownModel(Exception):  # it reads as what happened
    """No such model is in the catalogue; the message names near ones."""


class Cancelled(Exception):  # not an error: somebody wished it
    """Ctrl-C: the message says what became of the job."""

    def __init__(self, job: Job, message: str) -> None:
        super().__init__(message)
        self.job = job


class Watcher(Protocol):
    """Who is told how far a job is."""

    def see(self, job: Job) -> None:
        """Show what is known of the job now."""

    def say(self, message: str) -> None:
        """Say something beside it."""


@dataclass(slots=True)
class Drawing:
    """One order on its way."""

    api: ApiClient
    order: Mapping[str, Any]
    watcher: Watcher
    job: Job = field(default_factory=dict)
    _key: str = field(default_factory=lambda: uuid4().hex)
    """Sent again with it, the order is the same one: Ctrl-C may fall between the order and its answer."""

    def run(self) -> Job:
        """Order, and watch until the job has ended; returns it.

        Raises Cancelled on Ctrl-C, and ApiError when the server refuses the order or is away for long.
        """
        try:
            self._submit()
            while self.job["status"] not in ENDED:
                time.sleep(POLL_SECONDS)
                self.job = self._look()
                self.watcher.see(self.job)
        except KeyboardInterrupt:
            raise self._cancel() from None
        return self.job

    def _submit(self) -> None:
        self.job = self.api.post("v1/jobs", self.order, key=self._key)
        self.watcher.see(self.job)

    def _look(self) -> Job:
        """Ask how far the job is; a server that is being restarted is waited for."""
        path = f"v1/jobs/{self.job['job_id']}"
        deadline = time.monotonic() + AWAY_SECONDS
        is_told = False
        while True:
            try:
                return dict(self.api.get(path))
            except ApiError as exc:
                is_away = exc.status is None or exc.status >= 500 or exc.status == 429
                if not is_away or time.monotonic() > deadline:
                    raise ApiError(f"{exc}; job {self.job['job_id']} goes on there", exc.status) from exc
                if not is_told:
                    self.watcher.say(f"{exc}; asking again")
                is_told = True
                time.sleep(1.0)

    def _cancel(self) -> Cancelled:
        """Call the job off, and say what became of it."""
        if not self.job:
            self._submit()
        job_id = self.job["job_id"]
        try:
            self.job = self.api.post(f"v1/jobs/{job_id}/cancel", {})
        except ApiError as exc:
            return Cancelled(self.job, f"job {job_id} could not be cancelled: {exc}")
        return Cancelled(self.job, f"job {job_id} is cancelled")


def choose_model(api: ApiClient, wanted: str | None) -> str:
    """Return the model that is wanted, or else the first that a machine is ready for.

    Raises UnknownModel with near names, and ApiError for an empty catalogue.
    """
    drawable = [model for model in api.get("v1/models")["models"] if model["kind"] == "checkpoint"]
    if not drawable:
        raise ApiError("the catalogue is empty: add a model with `imagefleet models add`")
    ids = [str(model["id"]) for model in drawable]
    if wanted in ids:
        return wanted
    if wanted is not None:
        near = get_close_matches(wanted, ids) or [each for each in ids if wanted.lower() in each.lower()]
        raise UnknownModel(
            f"there is no model {wanted!r} to draw with; "
            + (f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ids[:10])}")
        )
    return next((str(model["id"]) for model in drawable if model["availability"] == "ready"), ids[0])


def reason_of(job: Job) -> str:
    """Say why a job that has ended has no pictures."""
    error = job.get("error")
    return f"job {job['job_id']} is {job['status']}: {error['message'] if error else 'no reason was given'}"


def save(folder: Path, api: ApiClient, job: Job) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Fetch the pictures of a job, and yield each with the path under which it now lies; nothing is overwritten."""
    for position, image in enumerate(job["images"]):
        name = f"{str(job['job_id'])[:8]}-{position}"
        yield _write(folder, name, SUFFIXES[image["media_type"]], api.picture(image)), image


def _write(folder: Path, name: str, suffix: str, data: bytes) -> Path:
    """Write a file under a name that no other file has; it arrives whole or not at all."""
    part = folder / f".{name}-{os.getpid()}.part"
    try:
        part.write_bytes(data)
        for path in _free_names(folder, name, suffix):
            with suppress(FileExistsError):
                os.link(part, path)  # unlike a rename it replaces nothing
                return path
        raise AssertionError("the names above never end")
    finally:
        part.unlink(missing_ok=True)


def _free_names(folder: Path, name: str, suffix: str) -> Iterator[Path]:
    yield folder / f"{name}.{suffix}"
    again = 2
    while True:
        yield folder / f"{name}-{again}.{suffix}"
        again += 1
