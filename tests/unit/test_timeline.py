"""A job's life as numbered events: they follow from the rows, only ever grow, and hold progress in its right place."""

from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import deadlines, images, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.live import Progress
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Job
from app.core.timeline import Event, Kind, Place, Reader, events_of, news, waits
from tests.builders import MODEL, a_job, a_machine, a_model, a_running_job, an_upload, claim, finish, the_job
from tests.support.fakes import MONDAY, Clock, MemoryLive

LOST = AttemptState.LOST


def told(fleet: Fleet, job_id: UUID) -> list[str]:
    """Return a job's events in short."""
    return [in_short(event) for event in events_of(the_job(fleet, job_id))]


def in_short(event: Event) -> str:
    if event.attempt is None:
        return event.kind.value
    end = f" {event.attempt.state.value}" if event.kind is Kind.ATTEMPT_ENDED else ""
    return f"{event.kind.value} {event.attempt.number} {event.attempt.machine_id}{end}"


def step(number: int, attempt: int = 1) -> Progress:
    return Progress(attempt, "denoising", step=number, steps=20)


def test_a_job_that_has_it_all_tells_it_in_order_and_never_changes_what_it_told(fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    seen = [told(fleet, job.id)]

    def note() -> None:
        seen.append(told(fleet, job.id))
        clock.advance(1)

    for number, end in enumerate([LOST, AttemptState.ERROR, AttemptState.COMPLETED], start=1):
        machine_id = a_machine(fleet, f"gpu-{number}", ready_for=[MODEL])
        claim(fleet, job.id, machine_id)
        note()
        if end == AttemptState.COMPLETED:
            images.receive(fleet, an_upload(job, attempt=number, machine_id=machine_id))
        finish(fleet, job, end, attempt=number, machine_id=machine_id)
        note()

    assert seen[-1] == [
        "queued",
        "attempt_started 1 gpu-1",
        "attempt_ended 1 gpu-1 lost",
        "queued",
        "attempt_started 2 gpu-2",
        "attempt_ended 2 gpu-2 error",
        "queued",
        "attempt_started 3 gpu-3",
        "attempt_ended 3 gpu-3 completed",
        "ended",
    ]
    for earlier, later in pairwise(seen):
        assert later[: len(earlier)] == earlier
        assert len(later) > len(earlier)


def test_a_running_job_that_is_cancelled_ends_with_its_attempt(fleet: Fleet) -> None:
    job = a_running_job(fleet)

    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)

    assert told(fleet, job.id)[1:] == ["attempt_started 1 gpu-1", "attempt_ended 1 gpu-1 cancelled", "ended"]


def test_a_job_that_is_cancelled_while_it_waits_again_had_come_back_first(fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    finish(fleet, job, LOST)
    before = told(fleet, job.id)

    clock.advance(1)
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)

    assert told(fleet, job.id) == [*before, "ended"]
    assert before[-2:] == ["attempt_ended 1 gpu-1 lost", "queued"]


def test_a_job_that_fails_for_good_does_not_come_back(fleet: Fleet) -> None:
    job = a_running_job(fleet)

    finish(fleet, job, AttemptState.ERROR, permanent=True, error_code="cannot_draw", error="no")

    assert told(fleet, job.id)[-2:] == ["attempt_ended 1 gpu-1 error", "ended"]


def test_a_job_past_its_deadline_tells_its_end(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    with fleet.transaction() as tx:
        spec = GenerationSpec(model_id=MODEL, prompt="a")
        job_id = jobs.submit(tx, spec, jobs.Terms(deadline_at=clock.now + timedelta(seconds=5))).id
    clock.advance(6)

    with fleet.transaction() as tx:
        deadlines.expire(tx)

    assert told(fleet, job_id) == ["queued", "ended"]


def test_what_an_attempt_knows_before_its_job_is_left_for_the_next_time() -> None:
    """The job's row is read first; its attempts may be of a later moment."""
    ended = Attempt(number=1, machine_id="gpu-1", state=AttemptState.ERROR, started_at=MONDAY, ended_at=MONDAY)
    newer = Attempt(number=2, machine_id="gpu-2", state=AttemptState.RUNNING, started_at=MONDAY)
    job = Job(state=JobState.PROCESSING, attempt=1, created_at=MONDAY, attempts=[ended, newer])

    assert [in_short(event) for event in events_of(job)] == ["queued", "attempt_started 1 gpu-1"]


def test_waiting_is_counted_before_each_attempt(fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(3)
    claim(fleet, job.id)
    clock.advance(10)
    finish(fleet, job, LOST)
    clock.advance(5)

    waiting = waits(the_job(fleet, job.id), clock.now)
    claim(fleet, job.id)
    running = waits(the_job(fleet, job.id), clock.now)

    assert waiting == [3, 5]
    assert running == [3, 5]
    assert waits(the_job(fleet, job.id)) == [3, 5]


def test_progress_stands_between_the_events_of_its_attempt(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    reader = Reader(fleet, job.id)
    fleet.live.report(job.id, step(1))
    first = reader.look()
    fleet.live.report(job.id, step(2))
    finish(fleet, job, LOST)
    claim(fleet, job.id)
    fleet.live.report(job.id, step(1, attempt=2))
    second = reader.look()

    shown = [what.step if isinstance(what, Progress) else what.kind.value for _, what in first + second]
    assert shown == [
        "queued", "attempt_started", 1, 2, "attempt_ended", "queued", "attempt_started", 1,
    ]  # fmt: skip
    assert reader.look() == []


def test_progress_of_an_attempt_that_no_event_tells_of_yet_is_kept_for_the_next_time(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    before = events_of(the_job(fleet, job.id))
    finish(fleet, job, LOST)
    claim(fleet, job.id)
    after = events_of(the_job(fleet, job.id))
    moments = [("1", step(1)), ("2", step(1, attempt=2))]

    first, place = news(Place(), before, moments)
    second, _ = news(place, after, moments[1:])

    assert place == Place(1, "1")
    assert [what for _, what in first][-1] == step(1)
    assert [what for _, what in second][-1] == step(1, attempt=2)


def test_late_progress_of_an_attempt_that_has_ended_is_passed_over(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    finish(fleet, job, LOST)
    events = events_of(the_job(fleet, job.id))

    found, place = news(Place(3, "1"), events, [("2", step(9))])

    assert found == []
    assert place == Place(3, "2")


@given(data=st.data())
def test_whoever_breaks_off_anywhere_and_returns_misses_nothing_and_gets_nothing_twice(data: st.DataObject) -> None:
    events = _events_of_three_attempts()
    attempts = data.draw(st.lists(st.integers(1, 3), max_size=12).map(sorted))
    moments = [(str(position), step(position, attempt)) for position, attempt in enumerate(attempts, start=1)]
    whole, end = news(Place(), events, moments)
    broken = data.draw(st.integers(0, len(whole)))

    place = whole[broken - 1][0] if broken else Place()
    rest, again = news(Place.parse(str(place)) if broken else place, events, _behind(moments, place))

    assert rest == whole[broken:]
    assert again == end
    assert [what.number for _, what in whole if isinstance(what, Event)] == [event.number for event in events]
    assert [what for _, what in whole if isinstance(what, Progress)] == [moment for _, moment in moments]


def _behind(moments: list[tuple[str, Progress]], place: Place) -> list[tuple[str, Progress]]:
    return [(position, moment) for position, moment in moments if int(position) > int(place.position or 0)]


def _events_of_three_attempts() -> list[Event]:
    found: list[tuple[Kind, Attempt | None]] = [(Kind.QUEUED, None)]
    for number in (1, 2, 3):
        attempt = Attempt(number=number, machine_id="gpu", started_at=MONDAY)
        found += [(Kind.ATTEMPT_STARTED, attempt), (Kind.ATTEMPT_ENDED, attempt), (Kind.QUEUED, None)]
    return [Event(number, kind, MONDAY, attempt) for number, (kind, attempt) in enumerate(found[:-1])]


@pytest.mark.parametrize(
    "text", ["", ":", "x", "-1:", "1:x", "1:1-", "1 :", "1:1:1", "1" * 10, "\N{ARABIC-INDIC DIGIT ONE}:", "1:(1"]
)
def test_what_is_no_id_of_an_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no id of an event"):
        Place.parse(text)


@pytest.mark.parametrize("text", ["0:", "3:1763712000123-0", "12:7"])
def test_the_id_of_an_event_is_read_as_it_was_written(text: str) -> None:
    assert str(Place.parse(text)) == text


def test_state_events_come_after_the_live_store_was_emptied(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    reader = Reader(fleet, job.id)
    fleet.live.report(job.id, step(1))
    reader.look()

    assert isinstance(fleet.live, MemoryLive)
    fleet.live.lose_everything()
    finish(fleet, job, AttemptState.ERROR, permanent=True)
    found = [what.kind.value for _, what in reader.look() if isinstance(what, Event)]

    assert found == ["attempt_ended", "ended"]
    assert reader.is_over
