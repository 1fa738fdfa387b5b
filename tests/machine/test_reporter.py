"""Progress costs the drawing nothing, and arrives all the same."""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from PIL import Image

from app.core.live import Progress
from tasks.machine import reporter as reporters
from tasks.machine.drivers.contract import Step
from tasks.machine.encode import PREVIEW_BYTES, encode_preview
from tasks.machine.reporter import Reporter
from tests.support.fakes import MemoryLive
from tests.support.processes import WAIT_SECONDS, wait_until


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the last news for as long as a busy computer takes."""
    monkeypatch.setattr(reporters, "JOIN_SECONDS", WAIT_SECONDS)


class SlowLive(MemoryLive):
    """A live store at the end of a line that nothing comes through before `open` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.asked = 0

    def report(self, job_id: UUID, progress: Progress, preview: bytes | None = None) -> bool:
        """Wait for the line."""
        self.asked += 1
        wait_until(lambda: self.is_open, "the line is open")
        return super().report(job_id, progress, preview)


def step(
    number: int, phase: str = "denoising", image: int = 0, preview: Callable[[], Image.Image] | None = None
) -> Step:
    return Step(phase, number, 1000, image, preview)


def test_noting_a_step_waits_for_nothing_and_only_the_newest_is_told() -> None:
    live, job_id = SlowLive(), uuid4()
    with Reporter(live, (job_id, 1), 1, 0) as reporter:
        reporter.note(step(0))
        wait_until(lambda: live.asked, "the first is on its way")

        for number in range(1, 500):  # it would never come to an end if a step waited for the store
            reporter.note(step(number))
        live.is_open = True

    assert [moment.step for _, moment in live.history(job_id)] == [0, 499]


def test_a_phase_and_a_picture_that_begin_are_told_at_once() -> None:
    live, job_id = MemoryLive(), uuid4()
    told = [step(0, "loading"), step(0), step(0, image=1), step(0, "encoding", 1)]
    with Reporter(live, (job_id, 1), 2, 0) as reporter:
        for each in told:
            reporter.note(each)
            wait_until(lambda: live.progress(job_id) == as_told(each), "it is told")  # noqa: B023  # called at once

    assert [moment for _, moment in live.history(job_id)] == [as_told(each) for each in told]


def as_told(each: Step) -> Progress:
    return Progress(1, each.phase, each.step, each.steps, each.image, 2)


def test_steps_are_told_four_times_a_second_at_most() -> None:
    live, job_id = MemoryLive(), uuid4()
    with Reporter(live, (job_id, 1), 1, 0) as reporter:
        began = time.monotonic()
        reporter.note(step(0))
        wait_until(lambda: live.progress(job_id), "the first is told")
        for number in range(1, 100):
            reporter.note(step(number))
            time.sleep(0.01)
        seconds = time.monotonic() - began

    moments = [moment.step for _, moment in live.history(job_id)]
    assert 2 <= len(moments) <= 4 * seconds + 2
    assert moments[-1] == 99


def test_a_wish_to_cancel_is_noticed_without_any_step() -> None:
    live, job_id = MemoryLive(), uuid4()
    with Reporter(live, (job_id, 1), 1, 0) as reporter:
        before = reporter.unwanted
        live.ask_to_cancel(job_id)
        wait_until(lambda: reporter.unwanted, "it is noticed")

    assert before is False


def test_a_wish_to_skip_is_noticed_and_means_that_one_picture_of_that_one_attempt() -> None:
    live, job_id = MemoryLive(), uuid4()
    with Reporter(live, (job_id, 2), 2, 0) as reporter:
        reporter.note(replace(step(1), skip=lambda: None))
        live.ask_to_skip(job_id, Progress(1, "denoising"))  # of an attempt that has ended
        live_before = reporter.is_skipped(0)
        live.ask_to_skip(job_id, Progress(2, "denoising"))
        wait_until(lambda: reporter.is_skipped(0), "it is noticed")
        other = reporter.is_skipped(1)

    assert (live_before, other) == (False, False)


def test_nothing_is_told_any_more_once_it_has_ended() -> None:
    live, job_id = MemoryLive(), uuid4()
    with Reporter(live, (job_id, 1), 1, 0) as reporter:
        reporter.note(step(1))

    reporter.note(step(2, "encoding"))
    time.sleep(0.3)

    assert [moment.step for _, moment in live.history(job_id)] == [1]


@pytest.mark.parametrize(("preview_seconds", "are_made"), [(0.0, False), (600.0, False), (0.2, True)])
def test_previews_are_made_as_seldom_as_wished(preview_seconds: float, are_made: bool) -> None:
    live, job_id, made = MemoryLive(), uuid4(), list[int]()

    def preview() -> Image.Image:
        made.append(1)
        return Image.new("RGB", (8, 8), "red")

    began = time.monotonic()
    with Reporter(live, (job_id, 1), 1, preview_seconds) as reporter:
        for number in range(100):
            reporter.note(step(number, preview=preview))
            time.sleep(0.01)
    seconds = time.monotonic() - began

    assert len(made) <= (seconds / preview_seconds + 1 if are_made else 0)
    assert bool(made) == are_made
    assert (live.preview(job_id) is not None) == are_made


def test_a_preview_that_cannot_be_made_harms_nothing_and_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    live, job_id, tried = MemoryLive(), uuid4(), list[int]()

    def broken() -> Image.Image:
        tried.append(1)
        raise ValueError("what shape is this?")

    with Reporter(live, (job_id, 1), 1, 0.01) as reporter:
        for number in range(60):
            reporter.note(step(number, preview=broken))
            time.sleep(0.01)

    assert len(tried) == 1
    assert "no preview could be made" in caplog.text
    progress = live.progress(job_id)
    assert progress is not None
    assert progress.step == 59


@pytest.mark.parametrize("size", [(8, 8), (1024, 1024), (2048, 512)])
def test_previews_are_small(size: tuple[int, int]) -> None:
    loud = Image.effect_noise(size, 100).convert("RGB")

    data = encode_preview(loud)

    with Image.open(io.BytesIO(data)) as seen:
        assert seen.format == "JPEG"
        assert max(seen.size) <= 256
    assert len(data) <= PREVIEW_BYTES
