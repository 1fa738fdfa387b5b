"""Progress without waiting: what a step says is only noted, and a thread beside the drawing carries it away.

A denoising step must not pay for the way to the live store, which may be fifty milliseconds long, nor for a store that
hangs. The same thread asks whether the pictures are still wanted.
"""

import logging
import threading
import time
from dataclasses import replace
from typing import Self
from uuid import UUID

from app.core.live import LiveStore, Progress, Skipped
from tasks.machine.drivers.contract import Step
from tasks.machine.encode import encode_preview

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often it is asked whether anybody still wants the pictures: half of the 200 ms that a cancelled job may go on."""

TELL_SECONDS = 0.25
"""Progress is told four times a second at most, and at once where a phase or a picture begins."""

JOIN_SECONDS = 3.0
"""A store that hangs is left alone after so long; its answer is of no use any more."""


class Reporter:
    """Tells how far one attempt is, from its start to its end: as long as its `with` block lasts, or as it is told."""

    def __init__(self, live: LiveStore, key: tuple[UUID, int], images: int, preview_seconds: float) -> None:
        """Take a preview at most every `preview_seconds`; 0: none."""
        self._live = live
        self._job_id, self._attempt = key
        self._images = images
        self._preview_seconds = preview_seconds
        self._preview_at = time.monotonic() + preview_seconds
        self._step: Step | None = None
        self._furthest = Progress(self._attempt, "starting", images=images)
        self._urgent = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"reporter {self._job_id}", daemon=True)
        self.unwanted = False
        """Somebody asked to cancel the job."""
        self._skipped: Skipped | None = None

    def __enter__(self) -> Self:
        """Begin to carry away what is noted."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the last news, and be silent from now on."""
        self.end()

    def start(self) -> None:
        """Begin to carry away what is noted."""
        self._thread.start()

    def end(self) -> None:
        """Tell the last news, and be silent from now on."""
        self.finish()
        self.join()

    def note(self, step: Step) -> None:
        """Note where the drawing is; costs the drawing microseconds."""
        before = self._step
        self._step = step
        if before is None or (before.phase, before.image) != (step.phase, step.image):
            self._urgent.set()

    def is_skipped(self, image: int) -> bool:
        """Say whether somebody asked to leave this picture as it is; costs the drawing microseconds."""
        return self._skipped is not None and self._skipped == Skipped(self._attempt, image)

    def note_phase(self, phase: str) -> None:
        """Note what happens from now on, as far on as the drawing is."""
        if self._step is not None:
            self.note(replace(self._step, phase=phase, preview=None))

    def finish(self) -> None:
        """Let the thread tell the last news and end; does not wait for it."""
        self._ending = True
        self._urgent.set()

    def join(self) -> None:
        """Wait until nothing is told any more."""
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        told: Step | None = None
        told_at = 0.0
        is_last = False
        while not is_last:
            is_urgent = self._urgent.wait(LOOK_SECONDS)
            self._urgent.clear()
            is_last = self._ending
            step, now = self._step, time.monotonic()
            is_news = step is not None and step is not told
            try:
                if step is not None and is_news and (is_urgent or now - told_at >= TELL_SECONDS):
                    told, told_at = step, now
                    self._tell(step)
                elif not is_last:
                    self.unwanted = self._live.is_unwanted(self._job_id) or self.unwanted
                    if step is not None and step.skip is not None:
                        self._skipped = self._live.skipped(self._job_id)
            except Exception:  # the outermost edge of this thread: a picture must not fail because nobody sees it grow
                log.exception("job %s: telling progress failed once", self._job_id)

    def _tell(self, step: Step) -> None:
        now = Progress(self._attempt, step.phase, step.step, step.steps, step.image, self._images, step.images)
        if now.fraction < self._furthest.fraction:
            # Drawn again with less memory, or gone over a second time: nobody wants to see that as a step back.
            now = replace(self._furthest, phase=step.phase)
        self._furthest = now
        wish = self._live.report(self._job_id, now, self._preview_of(step))
        self.unwanted = wish or self.unwanted

    def _preview_of(self, step: Step) -> bytes | None:
        if step.preview is None or not self._preview_seconds or time.monotonic() < self._preview_at:
            return None
        self._preview_at = time.monotonic() + self._preview_seconds
        try:
            return encode_preview(step.preview())
        except Exception:
            # A pipeline whose latents we misunderstand still draws; asking again would only fill the log.
            log.exception("job %s: no preview could be made, and no other is tried", self._job_id)
            self._preview_seconds = 0.0
            return None
