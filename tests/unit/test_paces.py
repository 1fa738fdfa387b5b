"""Paces are learnt from what was drawn; promises made from them are kept, on one machine and on several."""

import heapq
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.core import attempts, check_in, forecasts, images, jobs, paces
from app.core.errors import NotClaimable
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, HoldingState
from app.core.live import Progress
from app.core.machines import HoldingReport, Report
from app.core.paces import Known, Work
from app.core.spec import GenerationSpec
from app.core.tables import Job, Pace
from tests.builders import BOOT, MODEL, a_job, a_machine, a_running_job, an_upload, claim, finish, the_job
from tests.support.fakes import Clock

H200 = {"type": "cuda", "name": "NVIDIA H200"}
ORDER: dict[str, Any] = {"steps": 20, "width": 1000, "height": 1000}
"""One megapixel."""


@pytest.mark.parametrize(
    ("order", "steps"),
    [
        ({}, 20),
        ({"image": "a" * 64}, 15),
        ({"image": "a" * 64, "strength": 0.5}, 10),
        ({"strength": 0.5}, 20),
        ({"hires": {"scale": 2.0, "strength": 0.5}}, 20 + 20 * 0.5 * 4),
        ({"hires": {"scale": 2.0, "strength": 0.5, "steps": 10}}, 20 + 10 * 0.5 * 4),
        ({"steps": None, "hires": {}}, None),
    ],
)
def test_an_order_is_as_much_work_as_the_steps_that_it_takes(order: dict[str, Any], steps: float | None) -> None:
    assert Work.of(ORDER | order).steps == steps


def draw(
    fleet: Fleet, clock: Clock, *, seconds: float = 5.0, timings: dict[str, float] | None = None, **order: Any
) -> None:
    """Let a job be drawn by a machine of a known kind."""
    job = a_job(fleet, **(ORDER | order))
    a_machine(fleet, device=H200, ready_for=[MODEL])
    claim(fleet, job.id)
    clock.advance(seconds)
    for position in range(job.spec["n"]):
        images.receive(fleet, an_upload(job, position=position))
    finish(fleet, job, timings=timings or {})


def learnt(fleet: Fleet) -> Pace:
    with fleet.reading() as session:
        return session.scalars(select(Pace)).one()


def test_a_completed_job_teaches_the_pace_of_its_device(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, seconds=10, n=2, timings={"loading": 3, "denoising": 6, "encoding": 0.2, "uploading": 0.1})

    pace = learnt(fleet)

    assert (pace.model_id, pace.device, pace.samples) == (MODEL, "NVIDIA H200", 1)
    assert pace.step_seconds == pytest.approx(6 / 2 / 20)
    assert pace.picture_seconds == pytest.approx(3)
    assert pace.loading_seconds == pytest.approx(3)
    assert pace.other_seconds == pytest.approx((10 - 3 - 6) / 2)
    assert pace.job_seconds == pytest.approx(7)


def test_what_was_loaded_already_teaches_nothing_of_loading(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, timings={"loading": 4, "denoising": 1})
    draw(fleet, clock, timings={"loading": 0.001, "denoising": 1})

    assert learnt(fleet).loading_seconds == pytest.approx(4)


def test_an_order_that_leaves_size_or_steps_open_teaches_the_seconds_of_a_picture(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, timings={"denoising": 4}, steps=None)

    pace = learnt(fleet)
    assert pace.step_seconds is None
    assert pace.picture_seconds == pytest.approx(4)


def test_one_accident_hardly_changes_a_pace(fleet: Fleet, clock: Clock) -> None:
    for _ in range(6):
        draw(fleet, clock, timings={"denoising": 2})
    draw(fleet, clock, seconds=3000, timings={"denoising": 2000})
    after_the_accident = learnt(fleet).picture_seconds or 0
    draw(fleet, clock, seconds=9, timings={"denoising": 8})

    assert 2 < after_the_accident < 2.7
    assert after_the_accident < (learnt(fleet).picture_seconds or 0) < 8


def test_a_lasting_change_changes_a_pace() -> None:
    pace: float | None = None
    for samples, seconds in enumerate([2] * 6 + [2000] + [8] * 60):
        pace = paces.nearer(pace, seconds, samples)

    assert pace == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("timings", [{}, {"denoising": -1}, {"denoising": "x"}, {"denoising": None, "loading": None}])
def test_timings_that_say_nothing_do_no_harm(fleet: Fleet, clock: Clock, timings: dict[str, Any]) -> None:
    draw(fleet, clock, seconds=5, timings=timings)

    pace = learnt(fleet)
    assert pace.picture_seconds is None
    assert pace.job_seconds == pytest.approx(5)


def test_a_failed_attempt_teaches_nothing(fleet: Fleet) -> None:
    job = a_running_job(fleet)

    finish(fleet, job, AttemptState.ERROR, permanent=True, timings={"denoising": 0.1})

    with fleet.reading() as session:
        assert session.scalars(select(Pace)).all() == []


# SQLite has one writer at a time: there nobody holds the row meanwhile.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_nobody_waits_for_a_lesson(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, timings={"denoising": 1})

    with fleet.transaction() as tx:
        tx.session.scalars(select(Pace).with_for_update()).one()
        draw(fleet, clock, timings={"denoising": 1})

    assert learnt(fleet).samples == 1


@given(
    drawers=st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 50)), min_size=1, max_size=5),
    ahead=st.integers(0, 3000),
)
def test_a_forecast_is_never_earlier_than_what_all_machines_together_can_do(
    drawers: Sequence[tuple[float, float]], ahead: int
) -> None:
    known = [forecasts.Drawer(free, a_known(job)) for free, job in drawers]

    done = forecasts.play(known, ahead, Work(1, None, None))
    later = forecasts.play(known, ahead + 1, Work(1, None, None))

    assert done is not None
    assert later is not None
    throughput = sum(1 / job for _, job in drawers)
    slowest = max(job for _, job in drawers)
    assert done >= ahead / throughput - slowest
    # Who is one place further back begins no earlier; with a faster machine it may be done earlier all the same.
    assert later >= done - slowest


def a_known(job: float) -> Known:
    return Known(step=None, picture=None, loading=0, other=0, job=job, samples=1)


class Play:
    """Machines that draw in the time of a clock set by hand, each job in its own number of seconds."""

    def __init__(self, fleet: Fleet, clock: Clock, machines: int, loading: float) -> None:
        self.fleet, self.clock, self.loading = fleet, clock, loading
        self.names = [f"gpu-{k}" for k in range(1, machines + 1)]
        self.loaded: set[str] = set()
        self.busy: list[tuple[Any, str, UUID, int]] = []
        self.check_in()

    def check_in(self) -> None:
        """Let all machines say that they live, and what is in their memory."""
        for name in self.names:
            with self.fleet.transaction() as tx:
                device = H200 | {"loaded": [MODEL] if name in self.loaded else []}
                running = frozenset((job_id, number) for _, who, job_id, number in self.busy if who == name)
                holding = HoldingReport(model_id=MODEL, state=HoldingState.READY)
                check_in.check_in(
                    tx, Report(machine_id=name, boot_id=BOOT, device=device, holdings=[holding], attempts=running)
                )

    def take(self) -> None:
        """Give every free machine its next job."""
        for name in sorted(set(self.names) - {who for _, who, _, _ in self.busy}):
            with self.fleet.reading() as session:
                waiting = session.scalars(select(Job.id).where(Job.state == "queued")).first()
            if waiting is None:
                return
            try:
                with self.fleet.transaction() as tx:
                    attempt = attempts.claim(tx, waiting, name, BOOT)
                    job_id, number = attempt.job_id, attempt.number
            except NotClaimable:
                return
            seconds = self.drawing(job_id) + (0 if name in self.loaded else self.loading)
            heapq.heappush(self.busy, (self.clock.now + timedelta(seconds=seconds), name, job_id, number))

    def drawing(self, job_id: UUID) -> float:
        """Return the seconds that a job takes: a tenth for each of its steps, and one for the rest."""
        return 0.1 * float(the_job(self.fleet, job_id).spec["steps"]) + 1

    def run(self, until: int = 0) -> None:
        """Draw until no more than `until` jobs are left."""
        self.take()
        while self.busy and len(self.busy) + self.waiting() > until:
            moment, name, job_id, number = heapq.heappop(self.busy)
            self.clock.now = moment
            job = the_job(self.fleet, job_id)
            images.receive(self.fleet, an_upload(job, attempt=number, machine_id=name))
            loading = 0 if name in self.loaded else self.loading
            self.loaded.add(name)
            finish(
                self.fleet,
                job,
                attempt=number,
                machine_id=name,
                timings={"loading": loading, "denoising": self.drawing(job_id) - 1, "encoding": 0.5, "uploading": 0.5},
            )
            self.check_in()
            self.take()

    def waiting(self) -> int:
        """Count the jobs that wait."""
        with self.fleet.reading() as session:
            return jobs.waiting_by_model(session).get(MODEL, 0)


@pytest.mark.parametrize("machines", [1, 2, 3])
def test_promises_for_a_queue_are_kept(fleet: Fleet, clock: Clock, machines: int) -> None:
    play = Play(fleet, clock, machines, loading=4)
    for _ in range(3):
        a_job(fleet, **ORDER)
    play.run()
    start = clock.now

    ids = []
    for steps in (20, 10, 30, 20) * 3:
        ids.append(a_job(fleet, **(ORDER | {"steps": steps})).id)
        clock.advance(0.001)  # jobs of one moment would come in the order of their ids
    play.run()

    done = [the_job(fleet, job_id) for job_id in ids]
    for job in done:
        assert job.promised_at is not None
        assert job.ended_at is not None
        off = abs((job.ended_at - job.promised_at).total_seconds())
        assert off <= max(2.0, 0.15 * (job.ended_at - start).total_seconds())
    last = [job.promised_at - start for job in done if job.promised_at][-1].total_seconds()
    assert last == pytest.approx(12 * 3 / machines, rel=0.25)
    with fleet.reading() as session:
        record = paces.record_of(session, MODEL)
    assert record is not None
    assert (record.samples, record.p50 <= record.p90 <= 5, record.relative_p50 < 0.15) == (12, True, True)


def test_a_model_that_is_loaded_nowhere_is_loaded_first(fleet: Fleet, clock: Clock) -> None:
    play = Play(fleet, clock, 1, loading=30)
    a_job(fleet, **ORDER)
    play.run()
    loaded = a_job(fleet, **ORDER)
    play.run()
    play.loaded.clear()
    play.check_in()
    cold = a_job(fleet, **ORDER)

    assert loaded.promised_at is not None
    assert cold.promised_at is not None
    assert (loaded.promised_at - loaded.created_at).total_seconds() == pytest.approx(3, abs=0.1)
    assert (cold.promised_at - cold.created_at).total_seconds() == pytest.approx(33, abs=0.1)


def test_nothing_is_promised_before_anything_was_measured(fleet: Fleet) -> None:
    a_machine(fleet, device=H200, ready_for=[MODEL])

    assert a_job(fleet).promised_at is None


def test_nothing_is_promised_where_no_machine_takes_jobs(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, timings={"denoising": 2})
    clock.advance(60)

    assert a_job(fleet, **ORDER).promised_at is None


def test_a_download_that_moves_is_waited_for(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, seconds=3, timings={"denoising": 2, "loading": 0})
    coming = HoldingReport(
        model_id=MODEL,
        state=HoldingState.DOWNLOADING,
        bytes_done=4 * 10**9,
        bytes_total=10 * 10**9,
        bytes_per_second=10**8,
    )
    a_machine(fleet, device=H200, holdings=[coming])

    job = a_job(fleet, **ORDER)

    assert job.promised_at is not None
    assert (job.promised_at - clock.now).total_seconds() == pytest.approx(60 + 3)


def test_the_jobs_of_one_request_are_promised_one_after_the_other(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, seconds=3, timings={"denoising": 2, "loading": 0})
    specs = [GenerationSpec(model_id=MODEL, prompt=str(k), **ORDER) for k in range(5)]

    with fleet.transaction() as tx:
        promised = [job.promised_at for job in jobs.submit_list(tx, specs)]

    assert [round((at - clock.now).total_seconds()) for at in promised if at] == [3, 6, 9, 12, 15]


def test_one_job_is_not_promised_for_behind_all_of_another_owner(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, seconds=3, timings={"denoising": 2, "loading": 0})

    def order(owner: str) -> float:
        with fleet.transaction() as tx:
            job = jobs.submit(tx, GenerationSpec(model_id=MODEL, prompt="a", steps=20), Terms(owner=owner))
            assert job.promised_at is not None
            return (job.promised_at - clock.now).total_seconds()

    many = [order("many") for _ in range(10)]

    assert many[-1] > 25
    assert order("single") < 10


def test_a_queue_that_is_too_long_to_be_counted_gets_no_promise_and_a_forecast_when_asked(
    fleet: Fleet, clock: Clock
) -> None:
    draw(fleet, clock, seconds=3, timings={"denoising": 2, "loading": 0})
    specs = [GenerationSpec(model_id=MODEL, prompt="a", **ORDER)] * (forecasts.MOST_COUNTED + 1)
    with fleet.transaction() as tx:
        jobs.submit_list(tx, specs)

    clock.advance(1)
    job = a_job(fleet, **ORDER)
    with fleet.reading() as session:
        ahead = jobs.ahead_of(session, job)
        forecast = forecasts.of_queued(session, job, ahead, fleet.limits, clock.now)

    assert job.promised_at is None
    assert ahead == forecasts.MOST_COUNTED + 1
    assert forecast.seconds == pytest.approx(3 * (ahead + 1), rel=0.01)


def test_a_running_job_is_done_when_its_steps_are(fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, seconds=11, timings={"denoising": 10, "loading": 0})
    job = a_running_job(fleet, **ORDER)
    clock.advance(4)

    def left(progress: Progress | None) -> float:
        with fleet.reading() as session:
            now = the_job(fleet, job.id)
            found = forecasts.of_running(session, now, now.attempts[0], progress, clock.now).seconds
        assert found is not None
        return found

    assert left(None) == pytest.approx(7)
    assert left(Progress(1, "denoising", step=5, steps=20)) == pytest.approx(0.75 * 10 + 1)
    assert left(Progress(1, "denoising", step=20, steps=20)) == pytest.approx(1)
    assert left(Progress(9, "denoising", step=20, steps=20)) == pytest.approx(7)
    clock.advance(100)
    assert left(None) > 0


@pytest.mark.parametrize(("part", "expected"), [(0.5, 3), (0.9, 5), (1.0, 5), (0.0, 1)])
def test_percentiles_are_values_that_were_seen(part: float, expected: float) -> None:
    assert paces.percentile([1, 2, 3, 4, 5], part) == expected
    assert paces.percentile([7], part) == 7
