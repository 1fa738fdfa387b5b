"""What happens to a job, as a stream that can be resumed, as a list for those who poll, and its preview."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from app.api import waiting
from app.api.application import make_application
from app.api.v1 import telling
from app.core import images, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState
from app.core.live import Progress
from app.core.tables import Job
from app.live import NoLive
from app.settings import Settings
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_running_job, an_upload, claim, finish
from tests.support.fakes import Clock, MemoryLive
from tests.support.web import Client, client_of

PREVIEW = b"\xff\xd8\xff a small picture"


def step(number: int, attempt: int = 1) -> Progress:
    return Progress(attempt, "denoising", step=number, steps=10)


class Stream:
    """An open stream of events, read event by event."""

    def __init__(self, client: Client, job: Job, last_event_id: str = "", **more: Any) -> None:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self.answer = client.get(f"/v1/jobs/{job.id}/events", headers=headers, **more)
        assert self.answer.status_code == 200, self.answer.text
        self._texts: Iterator[Any] = iter(self.answer.response)

    def text(self) -> str:
        """Return what comes next, an event or a comment."""
        return f"{next(self._texts).decode()}"

    def next(self) -> dict[str, Any]:
        """Return the next event."""
        while True:
            lines = dict(line.split(": ", 1) for line in self.text().splitlines() if line and not line.startswith(":"))
            if "data" in lines:
                body: dict[str, Any] = json.loads(lines["data"])
                assert (lines["id"], lines["event"]) == (body["id"], body["event"])
                return body

    def rest(self) -> list[dict[str, Any]]:
        """Return all events up to the end of the stream."""
        found = []
        try:
            while True:
                found.append(self.next())
        except StopIteration:
            return found

    def close(self) -> None:
        """Go away."""
        self.answer.close()


def in_short(event: dict[str, Any]) -> str:
    if event["event"] == "progress":
        return f"{event['attempt']}/{event['step']}"
    return f"{event['event']} {event.get('status', '')}".strip()


def a_finished_life(fleet: Fleet, clock: Clock) -> Job:
    """Let a job be lost once, and then be drawn."""
    job = a_running_job(fleet)
    fleet.live.report(job.id, step(1))
    clock.advance(5)
    finish(fleet, job, AttemptState.LOST, error_code="handed_back", error="the machine was stopped")
    clock.advance(1)
    claim(fleet, job.id)
    for number in (1, 2):
        fleet.live.report(job.id, step(number, attempt=2))
    clock.advance(5)
    images.receive(fleet, an_upload(job, attempt=2))
    return finish(fleet, job, attempt=2, timings={"loading": 1.5, "denoising": 3.0})


LIFE = [
    "queued", "attempt_started", "1/1", "attempt_ended", "queued", "attempt_started", "2/1", "2/2", "attempt_ended",
    "ended completed",
]  # fmt: skip


def test_a_stream_tells_a_job_as_it_happens_and_ends_with_it(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    stream = Stream(client, job)

    told = [stream.text(), in_short(stream.next())]
    a_machine(fleet, ready_for=[MODEL])
    claim(fleet, job.id)
    told.append(in_short(stream.next()))
    fleet.live.report(job.id, step(1))
    told.append(in_short(stream.next()))
    images.receive(fleet, an_upload(job))
    finish(fleet, job)

    assert told == ["retry: 2000\n\n", "queued", "attempt_started", "1/1"]
    assert [in_short(event) for event in stream.rest()] == ["attempt_ended", "ended completed"]


def test_a_stream_is_one_that_proxies_pass_on(client: Client, fleet: Fleet) -> None:
    answer = Stream(client, a_completed_job(fleet)).answer

    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_events_carry_what_a_client_wants_to_know(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_finished_life(fleet, clock)

    found = Stream(client, job).rest()

    assert [in_short(event) for event in found] == LIFE
    started, progress, lost, ended = found[1], found[2], found[3], found[-1]
    assert (started["attempt"], started["machine_id"], "at" in started) == (1, "gpu-1", True)
    assert (progress["progress"], progress["phase"], progress["steps"]) == (0.1, "denoising", 10)
    assert (lost["state"], lost["error"]["code"], lost["timings"]) == ("lost", "handed_back", {"queued": 0.0})
    assert found[-2]["timings"] == {"queued": 1.0, "loading": 1.5, "denoising": 3.0}
    assert client.get(ended["images"][0]["url"]).status_code == 200


@pytest.mark.parametrize("how", ["header", "query", "header before query"])
def test_a_client_that_comes_back_gets_exactly_what_came_later(
    client: Client, fleet: Fleet, clock: Clock, how: str
) -> None:
    job = a_finished_life(fleet, clock)
    whole = Stream(client, job).rest()

    for known, event in enumerate(whole[:-1]):
        header = event["id"] if how.startswith("header") else ""
        query = {} if how == "header" else {"last_event_id": event["id"] if how == "query" else whole[0]["id"]}
        assert Stream(client, job, header, query_string=query).rest() == whole[known + 1 :]


def test_state_events_are_not_lost_when_the_live_store_is_emptied_in_the_middle(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, step(1))
    stream = Stream(client, job)
    last = [stream.next() for _ in range(3)][-1]
    stream.close()

    assert isinstance(fleet.live, MemoryLive)
    fleet.live.lose_everything()
    fleet.live.report(job.id, step(2))
    finish(fleet, job, AttemptState.LOST)
    claim(fleet, job.id)
    fleet.live.lose_everything()
    finish(fleet, job, AttemptState.ERROR, attempt=2, permanent=True, error_code="cannot_draw", error="no such layer")

    found = Stream(client, job, last["id"]).rest()
    assert [in_short(event) for event in found] == [
        "attempt_ended", "queued", "attempt_started", "attempt_ended", "ended error",
    ]  # fmt: skip
    assert found[-1]["error"] == {"code": "cannot_draw", "message": "no such layer"}


def test_state_events_come_without_any_live_store(fleet: Fleet, settings: Settings) -> None:
    bare = replace(fleet, live=NoLive())
    job = a_completed_job(bare)

    found = Stream(client_of(make_application(bare, settings)), job).rest()

    assert [in_short(event) for event in found] == [*LIFE[:2], "attempt_ended", "ended completed"]


def test_whoever_knows_the_end_is_told_not_to_come_back(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)
    last = Stream(client, job).rest()[-1]["id"]

    answer = client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": last})

    assert (answer.status_code, answer.data) == (204, b"")


def test_an_id_that_the_job_never_had_gets_everything(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)

    assert len(Stream(client, job, "99:").rest()) == len(Stream(client, job).rest())


@pytest.mark.parametrize("wrong", ["x", "1", "1:x", "1:(1", "-1:"])
@pytest.mark.parametrize("route", ["events", "timeline"])
def test_an_id_that_is_none_is_refused_in_words(client: Client, fleet: Fleet, route: str, wrong: str) -> None:
    path = f"/v1/jobs/{a_completed_job(fleet).id}/{route}"

    answers = [client.get(path, query_string={"last_event_id": wrong})]
    if route == "events":
        answers.append(client.get(path, headers={"Last-Event-ID": wrong}))

    if wrong == "1":  # without a position: it is one of ours all the same
        assert all(answer.status_code == 200 for answer in answers)
    else:
        assert all(answer.status_code == 422 for answer in answers)
        assert all("no id of an event" in answer.json["error"]["message"] for answer in answers)


@pytest.mark.parametrize("route", ["events", "timeline", "preview", "explain"])
def test_an_unknown_job_has_nothing_to_tell(client: Client, route: str) -> None:
    answer = client.get(f"/v1/jobs/{uuid4()}/{route}")

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "job_not_found")


def test_polling_gives_the_events_of_the_stream(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_finished_life(fleet, clock)

    whole = client.get(f"/v1/jobs/{job.id}/timeline").json

    assert whole["events"] == Stream(client, job).rest()
    assert whole["last_event_id"] == whole["events"][-1]["id"]
    assert whole["is_over"] is True


def test_polling_goes_on_where_it_ended(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, step(1))
    found, last = [], None
    for number in range(2, 5):
        answer = client.get(f"/v1/jobs/{job.id}/timeline", query_string={"last_event_id": last} if last else {}).json
        found += [in_short(event) for event in answer["events"]]
        last = answer["last_event_id"]
        assert answer["is_over"] is False
        fleet.live.report(job.id, step(number))

    assert found == ["queued", "attempt_started", "1/1", "1/2", "1/3"]


def test_a_stream_without_news_says_that_it_lives(
    client: Client, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "KEEP_ALIVE_SECONDS", 0)
    stream = Stream(client, a_job(fleet))
    stream.next()

    assert stream.text() == ": still here\n\n"


def test_streams_have_seats_and_whoever_gets_none_is_told_to_poll(application: Flask, fleet: Fleet) -> None:
    waiting.open_room(application, 2)
    client, job = client_of(application), a_job(fleet)
    first, second = Stream(client, job), Stream(client, job)
    second.next()

    refused = client.get(f"/v1/jobs/{job.id}/events")
    first.close()
    second.close()
    again = Stream(client, job)

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert f"poll http://localhost/v1/jobs/{job.id}/timeline" in refused.json["error"]["message"]
    assert again.next()["event"] == "queued"


def test_a_head_of_a_stream_takes_no_seat_for_long(application: Flask, fleet: Fleet) -> None:
    waiting.open_room(application, 1)
    client, job = client_of(application), a_job(fleet)

    for _ in range(3):
        client.head(f"/v1/jobs/{job.id}/events").close()

    assert Stream(client, job).next()["event"] == "queued"


def test_a_stream_ends_when_its_process_is_to_stop(application: Flask, fleet: Fleet) -> None:
    is_open = [True]
    waiting.open_room(application, 1, lambda: is_open[0])
    stream = Stream(client_of(application), a_job(fleet))
    stream.next()

    is_open[0] = False

    assert stream.rest() == []


def test_a_stream_holds_no_connection_of_the_database_between_looks(client: Client, fleet: Fleet) -> None:
    stream = Stream(client, a_job(fleet))
    stream.next()

    status = str(fleet.engine.pool.status())

    assert "Current Checked out connections: 0" in status or "checked out" not in status.lower()


def test_a_preview_is_shown_while_the_job_runs(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, step(3), PREVIEW)

    url = client.get(f"/v1/jobs/{job.id}").json["preview_url"]
    answer = client.get(url)

    assert (answer.status_code, answer.mimetype, answer.data) == (200, "image/jpeg", PREVIEW)
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_preview_that_is_not_there_is_404_in_words(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    while_it_runs = client.get(f"/v1/jobs/{job.id}/preview")
    fleet.live.report(job.id, step(3), PREVIEW)
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    ended = client.get(f"/v1/jobs/{job.id}/preview")

    assert (while_it_runs.status_code, while_it_runs.json["error"]["code"]) == (404, "no_preview")
    assert "after some of its steps" in while_it_runs.json["error"]["message"]
    assert ended.status_code == 404
    assert "is cancelled" in ended.json["error"]["message"]
    assert client.get(f"/v1/jobs/{job.id}").json["preview_url"] is None


def test_progress_stays_out_of_the_database(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    before = client.get(f"/v1/jobs/{job.id}").json

    for number in range(10):
        fleet.live.report(job.id, step(number), PREVIEW)
    assert isinstance(fleet.live, MemoryLive)
    fleet.live.lose_everything()

    assert client.get(f"/v1/jobs/{job.id}").json == before
