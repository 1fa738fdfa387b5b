"""What happens to all jobs, as one stream that can be resumed, and as a list for those who poll."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from app.api import waiting
from app.api.application import make_application
from app.api.v1 import feed as feed_routes
from app.api.v1 import telling
from app.core import feed, images, jobs
from app.core.feed import SETTLED_SECONDS, Feed, Spot
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState
from app.core.live import Progress
from app.core.tables import Job
from app.settings import Settings
from tests.builders import MODEL, a_job, a_machine, a_running_job, an_upload, claim, finish
from tests.support.fakes import Clock
from tests.support.web import Client, client_of


class Stream:
    """The open stream of all jobs, read event by event."""

    def __init__(self, client: Client, last_event_id: str = "", **more: Any) -> None:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self.answer = client.get("/v1/events", headers=headers | more.pop("headers", {}), **more)
        assert self.answer.status_code == 200, self.answer.text
        self._texts: Iterator[Any] = iter(self.answer.response)
        self.retry = next(self._texts).decode()
        self.began = self.next()

    def next(self) -> dict[str, Any]:
        """Return the next event."""
        lines = dict(line.split(": ", 1) for line in next(self._texts).decode().splitlines() if line)
        body: dict[str, Any] = json.loads(lines["data"])
        assert (lines.get("id"), lines["event"]) == (body.get("id"), body["event"])
        return body

    def close(self) -> None:
        """Go away."""
        self.answer.close()


def in_short(event: dict[str, Any]) -> tuple[str, str]:
    if event["event"] == "progress":
        return event["job_id"], f"{event['attempt']}/{event['step']}"
    return event["job_id"], f"{event['event']} {event.get('status', '')}".strip()


def told(feed: Feed) -> list[tuple[Any, str]]:
    return [(news.job.id, news.event.kind.value) for news in feed.look()]


def poll(client: Client, last_event_id: str | None = None, **more: Any) -> dict[str, Any]:
    query = {"last_event_id": last_event_id} if last_event_id else {}
    answer = client.get("/v1/timeline", query_string=query, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def a_finished_job(fleet: Fleet, **more: Any) -> Job:
    job = a_running_job(fleet, **more)
    images.receive(fleet, an_upload(job))
    return finish(fleet, job)


WHO = ("alice", "bob", "ops")
LIFE = ["queued", "attempt_started", "attempt_ended", "ended"]


def test_a_stream_tells_of_all_jobs_as_it_happens(client: Client, fleet: Fleet, clock: Clock) -> None:
    before = a_job(fleet, prompt="from before")
    clock.advance(1)
    stream = Stream(client)

    job = a_job(fleet)
    seen = [in_short(stream.next())]
    a_machine(fleet, ready_for=[MODEL])
    claim(fleet, job.id)
    seen.append(in_short(stream.next()))
    fleet.live.report(before.id, Progress(1, "denoising", step=1, steps=10))
    seen.append(in_short(stream.next()))
    images.receive(fleet, an_upload(before))
    finish(fleet, before)
    seen += [in_short(stream.next()), in_short(stream.next())]

    # The machine is given the job that has waited longest.
    assert seen == [
        (str(job.id), "queued"),
        *((str(before.id), what) for what in ("attempt_started", "1/1", "attempt_ended", "ended completed")),
    ]


def test_a_client_that_comes_back_misses_nothing_of_any_job(client: Client, fleet: Fleet, clock: Clock) -> None:
    running, waiting_job = a_running_job(fleet), a_job(fleet)
    clock.advance(60)
    stream = Stream(client)
    stream.close()

    clock.advance(60)
    images.receive(fleet, an_upload(running))
    finish(fleet, running)
    clock.advance(60)
    claim(fleet, waiting_job.id)
    clock.advance(60)
    finish(fleet, waiting_job, AttemptState.LOST, error_code="handed_back", error="the machine was stopped")
    clock.advance(60)
    new = a_job(fleet)
    clock.advance(60)

    back = Stream(client, stream.began["id"])
    found = [in_short(back.next()) for _ in range(6)]
    assert found == [
        (str(running.id), "attempt_ended"),
        (str(running.id), "ended completed"),
        *((str(waiting_job.id), what) for what in ("attempt_started", "attempt_ended", "queued")),
        (str(new.id), "queued"),
    ]


@pytest.mark.parametrize("how", ["header", "query"])
def test_every_id_is_a_place_to_go_on_from(client: Client, fleet: Fleet, clock: Clock, how: str) -> None:
    begin = poll(client)["last_event_id"]
    for _ in range(3):
        a_finished_job(fleet)
        clock.advance(60)
    back = Stream(client, begin)
    whole = [back.next() for _ in range(3 * len(LIFE))]
    back.close()
    assert [event["event"] for event in whole] == 3 * LIFE

    for known, last in enumerate(whole):
        given = {"last_event_id": last["id"]} if how == "header" else {"query_string": {"last_event_id": last["id"]}}
        again = Stream(client, **given)
        missing = {(each["job_id"], each["number"]) for each in whole[known + 1 :]}
        while missing:
            event = again.next()
            assert event["event"] != "alive", f"nothing more comes, and {missing} have not come"
            missing.discard((event["job_id"], event["number"]))
        again.close()


def test_what_is_committed_late_is_told_all_the_same(fleet: Fleet, clock: Clock) -> None:
    """A transaction that began earlier may end later than others: what it did must not lie behind the reader."""
    late = a_running_job(fleet)
    reader = Feed(fleet, None)
    moment = clock.now
    clock.advance(5)
    early = a_job(fleet)
    assert told(reader) == [(early.id, "queued")]

    later, clock.now = clock.now, moment
    finish(fleet, late, AttemptState.LOST)
    clock.now = later

    assert told(reader) == [(late.id, "attempt_ended"), (late.id, "queued")]
    assert told(reader) == []


def test_a_feed_that_stays_open_tells_nothing_twice(fleet: Fleet, clock: Clock) -> None:
    reader = Feed(fleet, None)
    found = []
    for _ in range(4):
        a_finished_job(fleet)
        for _ in range(3):
            found += told(reader)
            clock.advance(SETTLED_SECONDS / 4)

    assert [what for _, what in found] == 4 * LIFE
    assert len(set(found)) == len(found)


def test_much_is_caught_up_with_piece_by_piece(
    client: Client, fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_AT_ONCE", 2)
    place = poll(client)["last_event_id"]
    wanted = []
    for number in range(5):
        clock.advance(60)
        wanted.append(str(a_job(fleet, prompt=f"number {number}").id))
    clock.advance(60)

    found, answers, more = [], 0, True
    while more:
        answer = poll(client, place)
        found += [event["job_id"] for event in answer["events"]]
        place, more, answers = answer["last_event_id"], answer["more"], answers + 1

    assert found == wanted
    assert answers > 2


def test_jobs_that_were_ordered_in_one_moment_are_all_caught_up_with(
    fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_AT_ONCE", 2)
    spot = Spot.at(clock.now)
    wanted = sorted(a_job(fleet).id for _ in range(5))
    clock.advance(60)
    later = a_job(fleet).id
    clock.advance(60)
    reader = Feed(fleet, None, spot)

    assert [job_id for job_id, _ in told(reader)] == wanted
    assert [job_id for job_id, _ in told(reader)] == [later]


def test_of_jobs_that_began_in_one_moment_the_same_ones_are_seen_moving(
    fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_RUNNING", 3)
    running = sorted(a_running_job(fleet).id for _ in range(6))
    reader = Feed(fleet, None)
    for job_id in running:
        fleet.live.report(job_id, Progress(1, "denoising", step=1, steps=10))

    assert [job_id for job_id, _ in reader.progress()] == running[:3]
    assert reader.progress() == []


def test_polling_tells_the_same_as_the_stream(client: Client, fleet: Fleet, clock: Clock) -> None:
    stream, place = Stream(client), poll(client)["last_event_id"]
    job = a_finished_job(fleet)
    streamed = [stream.next() for _ in LIFE]
    stream.close()
    clock.advance(60)

    answer = poll(client, place)

    def bare(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in event.items() if name != "id"} for event in events]

    assert bare(answer["events"]) == bare(streamed)
    assert {event["job_id"] for event in streamed} == {str(job.id)}
    assert poll(client, answer["last_event_id"])["events"] == []


def test_progress_is_told_when_it_changes_and_leaves_the_place_as_it_is(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, Progress(1, "denoising", step=3, steps=10, image=1, images=2))
    stream = Stream(client)

    event = stream.next()

    assert (event["job_id"], event["event"], event["progress"]) == (str(job.id), "progress", 0.65)
    assert "id" not in event
    assert poll(client)["events"] == [event]


def test_a_client_hears_of_its_own_jobs_and_an_operator_of_all(fleet: Fleet, settings: Settings, clock: Clock) -> None:
    tokens = ("alice:client:a-lice", "bob:client:b-ob", "ops:operator:o-ps")
    client = client_of(make_application(fleet, replace(settings, api_tokens=tokens)))
    heard = {
        name: {"Authorization": f"Bearer {token.rpartition(':')[2]}"} for name, token in zip(WHO, tokens, strict=True)
    }
    places = {name: poll(client, headers=headers)["last_event_id"] for name, headers in heard.items()}
    hers = str(a_job(fleet, terms=Terms(owner="alice")).id)
    clock.advance(1)
    his = str(a_job(fleet, terms=Terms(owner="bob")).id)

    found = {
        name: [event["job_id"] for event in poll(client, places[name], headers=headers)["events"]]
        for name, headers in heard.items()
    }

    assert found == {"alice": [hers], "bob": [his], "ops": [hers, his]}
    assert client.get("/v1/events").status_code == 401


@pytest.mark.parametrize("wrong", ["x", "1-", "1:2", "-1", "1" * 17])
def test_an_id_that_is_none_is_refused_in_words(client: Client, wrong: str) -> None:
    answers = [client.get(path, query_string={"last_event_id": wrong}) for path in ("/v1/events", "/v1/timeline")]
    answers.append(client.get("/v1/events", headers={"Last-Event-ID": wrong}))

    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert all("no id of an event" in json.dumps(answer.json) for answer in answers)


def test_an_id_from_the_future_silences_nobody(client: Client, fleet: Fleet, clock: Clock) -> None:
    stream = Stream(client, str(int(clock.now.timestamp() * 1_000_000) + 10**12))

    job = a_job(fleet)

    assert in_short(stream.next()) == (str(job.id), "queued")


def test_watchers_leave_half_of_the_seats_to_those_who_wait(application: Flask, fleet: Fleet) -> None:
    waiting.open_room(application, 4)
    client, job = client_of(application), a_job(fleet)
    first, second = Stream(client), Stream(client)

    refused = client.get("/v1/events")
    of_one_job = [client.get(f"/v1/jobs/{job.id}/events").status_code for _ in range(2)]
    first.close()

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "poll http://localhost/v1/timeline" in refused.json["error"]["message"]
    assert of_one_job == [200, 200]
    assert Stream(client).began["event"] == "began"
    second.close()


def test_a_stream_that_is_quiet_says_that_it_lives_and_ends_some_time(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "KEEP_ALIVE_SECONDS", 0)
    stream = Stream(client)

    assert stream.next() == {"event": "alive"}
    monkeypatch.setattr(feed_routes, "LONGEST_SECONDS", 0)
    with pytest.raises(StopIteration):
        for _ in range(3):
            stream.next()


def test_pages_are_told_to_come_back_at_different_moments(client: Client) -> None:
    found = {Stream(client).retry for _ in range(3)}

    assert len(found) > 1


def test_a_reader_holds_no_connection_between_looks(client: Client, fleet: Fleet) -> None:
    stream = Stream(client)
    a_job(fleet)
    stream.next()

    status = str(fleet.engine.pool.status())

    assert "Current Checked out connections: 0" in status or "checked out" not in status.lower()


def test_every_change_of_a_job_is_noted_in_its_row(fleet: Fleet, clock: Clock) -> None:
    """The feed finds jobs by it: whatever adds an event to a timeline must move it."""
    job = a_job(fleet)
    reader = Feed(fleet, None)
    a_machine(fleet, ready_for=[MODEL])
    seen = []
    for change in (
        lambda: claim(fleet, job.id),
        lambda: finish(fleet, job, AttemptState.LOST),
        lambda: claim(fleet, job.id),
        lambda: _cancel(fleet, job),
    ):
        clock.advance(60)
        change()
        seen.append([what for _, what in told(reader)])

    assert seen == [["attempt_started"], ["attempt_ended", "queued"], ["attempt_started"], ["attempt_ended", "ended"]]


def _cancel(fleet: Fleet, job: Job) -> None:
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
