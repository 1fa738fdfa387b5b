"""Orders as streams: previews of the picture while it is drawn, then the picture."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app import pictures
from app.api.door import Problem
from app.api.openai import translate
from app.api.openai.endings import refusal_of
from app.api.openai.placing import Placed
from app.api.openai.schemas import AUTO
from app.api.streaming import KEEP_ALIVE, KEEP_ALIVE_SECONDS, LOOK_SECONDS, GoOn
from app.core import images, jobs
from app.core.errors import FleetError
from app.core.fleet import Fleet
from app.core.lifecycle import ENDED
from app.core.tables import Job

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Story:
    """What is told of one order."""

    fleet: Fleet
    kind: str
    """How its events begin: image_generation or image_edit."""
    order: Mapping[str, Any]
    placed: Placed
    seconds: float
    """For so long its client waits."""
    go_on: GoOn
    sent: int = 0
    """Previews that were told."""
    newest: bytes = b""
    """The last one of them."""

    def told(self) -> Iterator[str]:
        """Tell it to its end; what nobody hears to the end is left behind."""
        is_over = False
        try:
            yield KEEP_ALIVE  # the client learns that its order was taken: no header leaves before the first byte
            yield from self._partials()
            with self.fleet.reading() as session:
                job = jobs.get(session, self.placed.job_id)
            yield from self._end(job)
            is_over = job.state in ENDED
        except (FleetError, SQLAlchemyError, OSError) as exc:
            log.warning("a stream of job %s ends: %s", self.placed.job_id, type(exc).__name__)
            yield _error(Problem(500, "internal_error", f"job {self.placed.job_id} goes on, and cannot be seen now"))
        finally:
            if not is_over:
                with suppress(SQLAlchemyError):  # then the same request draws once more, which is all that is lost
                    self.placed.leave()

    def _partials(self) -> Iterator[str]:
        """Tell previews as they come, until the job has ended, or nobody waits for it any longer."""
        until, said_at = time.monotonic() + self.seconds, time.monotonic()
        while self.go_on() and time.monotonic() < until:
            with self.fleet.reading() as session:
                state = jobs.state_of(session, self.placed.job_id)
            if state in ENDED:
                return
            if (preview := self._due()) and (partial := self._partial(preview)):
                yield partial
                said_at = time.monotonic()
            if time.monotonic() - said_at >= KEEP_ALIVE_SECONDS:
                yield KEEP_ALIVE
                said_at = time.monotonic()
            time.sleep(LOOK_SECONDS)

    def _due(self) -> bytes | None:
        """Return a preview that was not told yet, where so much is drawn that its turn has come."""
        wanted = self.order.get("partial_images") or 0
        progress = self.fleet.live.progress(self.placed.job_id) if self.sent < wanted else None
        if progress is None or progress.fraction < (self.sent + 1) / (wanted + 1):
            return None
        preview = self.fleet.live.preview(self.placed.job_id)
        return preview if preview != self.newest else None

    def _partial(self, preview: bytes) -> str | None:
        """Tell a preview; None where it cannot be read, and the picture comes all the same."""
        self.newest = preview
        with self.fleet.reading() as session:
            spec = jobs.get(session, self.placed.job_id).spec
        size = (spec["width"], spec["height"]) if spec["width"] and spec["height"] else None
        try:
            data = pictures.as_large_as(preview, size, spec["image_format"])
        except pictures.BROKEN:
            log.warning("job %s: its preview cannot be read", self.placed.job_id, exc_info=True)
            return None
        body = self._event("partial_image", data, f"{size[0]}x{size[1]}" if size else AUTO)
        self.sent += 1
        return _text(body | {"partial_image_index": self.sent - 1})

    def _end(self, job: Job) -> Iterator[str]:
        refused = refusal_of(job)
        if refused is not None:
            yield _error(refused.problem)
            return
        user = translate.user_of(self.order)
        for image in jobs.shown_images(job):
            body = self._event("completed", images.read(self.fleet, image), translate.size_of(image))
            more = {"usage": translate.NOTHING_COUNTED, "seed": image.seed, "job_id": str(job.id)}
            yield _text(body | more | ({"safety_identifier": user} if user else {}))

    def _event(self, what: str, data: bytes, size: str) -> dict[str, Any]:
        return translate.event_to_json(f"{self.kind}.{what}", self.order, data, size, self.fleet.clock())


def _text(event: Mapping[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _error(problem: Problem) -> str:
    """Tell a problem: the status of the answer cannot say it any more."""
    return _text({"type": "error", **translate.say(problem)})
