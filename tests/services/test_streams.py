"""Streams of events through the real web server and a real live store, while their parts are taken away."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests

from app.bootstrap import make_fleet
from app.core import images
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState
from app.core.live import Progress
from app.settings import Settings
from tests.builders import MODEL, a_job, a_machine, a_running_job, an_upload, claim, finish
from tests.support.broker import BrokerServer
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.servers import Web

SEATS = 2


@pytest.fixture
def web(database_url: str, tmp_path: Path, broker_url: str) -> Iterator[Web]:
    """Run a web server with few threads over a migrated database."""
    server = Web(tmp_path / "web", broker_url, DATABASE_URL=database_url, WEB_THREADS=str(2 * SEATS))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def fleet(database_url: str, tmp_path: Path, broker_url: str) -> Iterator[Fleet]:
    """Return the same fleet as the web server has, for what machines do."""
    settings = Settings(data_dir=tmp_path / "web", database_url=database_url, broker_url=broker_url).completed()
    made = make_fleet(settings)
    yield made
    made.engine.dispose()


def read(web: Web, job_id: UUID, last: str = "", most: int = 1000) -> list[dict[str, Any]]:
    """Read events until there are so many, or the stream ends or breaks."""
    found: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": last} if last else {}
    try:
        with requests.get(
            f"{web.url}/v1/jobs/{job_id}/events", headers=headers, stream=True, timeout=WAIT_SECONDS
        ) as answer:
            assert answer.status_code == 200, answer.text
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    found.append(json.loads(line.removeprefix(b"data: ")))
                if len(found) >= most:
                    break
    except requests.RequestException:
        pass
    return found


def in_short(event: dict[str, Any]) -> str:
    if event["event"] == "progress":
        return f"{event['attempt']}/{event['step']}"
    return f"{event['event']} {event.get('status', '')}".strip()


def step(number: int, attempt: int = 1) -> Progress:
    return Progress(attempt, "denoising", step=number, steps=10)


def test_nothing_is_lost_when_the_live_store_is_emptied_and_the_server_is_killed(
    web: Web, fleet: Fleet, broker_server: BrokerServer
) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, step(1))
    first = read(web, job.id, most=3)

    broker_server.clear()
    fleet.live.report(job.id, step(2))
    finish(fleet, job, AttemptState.LOST, error="handed back")
    second = read(web, job.id, first[-1]["id"], most=3)
    web.kill()
    claim(fleet, job.id)
    fleet.live.report(job.id, step(1, attempt=2))
    broker_server.clear()
    images.receive(fleet, an_upload(job, attempt=2))
    finish(fleet, job, attempt=2)
    web.start()
    third = read(web, job.id, second[-1]["id"])

    assert [in_short(event) for event in first] == ["queued", "attempt_started", "1/1"]
    assert [in_short(event) for event in second] == ["1/2", "attempt_ended", "queued"]
    assert [in_short(event) for event in third] == ["attempt_started", "attempt_ended", "ended completed"]
    assert requests.get(third[-1]["images"][0]["url"], timeout=WAIT_SECONDS).content.startswith(b"\x89PNG")
    again = requests.get(f"{web.url}/v1/jobs/{job.id}/events?last_event_id={third[-1]['id']}", timeout=WAIT_SECONDS)
    assert again.status_code == 204


def test_events_arrive_while_the_stream_is_open(web: Web, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    with requests.get(f"{web.url}/v1/jobs/{job.id}/events", stream=True, timeout=WAIT_SECONDS) as answer:
        lines = (line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data: "))
        seen = [json.loads(next(lines).removeprefix(b"data: ")) for _ in range(2)]
        fleet.live.report(job.id, step(4))
        seen.append(json.loads(next(lines).removeprefix(b"data: ")))
        images.receive(fleet, an_upload(job))
        finish(fleet, job)
        seen += [json.loads(line.removeprefix(b"data: ")) for line in lines]

    assert [in_short(event) for event in seen] == [
        "queued", "attempt_started", "1/4", "attempt_ended", "ended completed",
    ]  # fmt: skip


def test_progress_of_a_job_that_has_ended_is_still_there_for_who_comes_back(web: Web, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    for number in (1, 2, 3):
        fleet.live.report(job.id, step(number))
    first = read(web, job.id, most=3)
    finish(fleet, job, AttemptState.ERROR, permanent=True)
    fleet.live.forget(job.id)

    second = read(web, job.id, first[-1]["id"])

    assert [in_short(event) for event in second] == ["1/2", "1/3", "attempt_ended", "ended error"]


def test_a_client_that_goes_away_gives_back_its_seat(web: Web, fleet: Fleet) -> None:
    job = a_job(fleet)
    host, port = web.url.removeprefix("http://").split(":")
    open_streams = []
    for _ in range(SEATS):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(f"GET /v1/jobs/{job.id}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(4096)
        open_streams.append(connection)

    full = requests.get(f"{web.url}/v1/jobs/{job.id}/events", timeout=WAIT_SECONDS)
    others = requests.get(f"{web.url}/v1/jobs/{job.id}", timeout=WAIT_SECONDS)
    open_streams[0].close()

    assert (full.status_code, others.status_code) == (503, 200)
    assert "poll" in full.json()["error"]["message"]
    wait_until(lambda: is_streamed(web, job.id), "a seat is free")
    open_streams[1].close()


def is_streamed(web: Web, job_id: UUID) -> bool:
    """Say whether there is a seat, and give it back at once."""
    with requests.get(f"{web.url}/v1/jobs/{job_id}/events", stream=True, timeout=WAIT_SECONDS) as answer:
        return answer.status_code == 200


def test_streams_end_when_the_server_is_told_to_stop(web: Web, fleet: Fleet) -> None:
    job = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])
    with requests.get(f"{web.url}/v1/jobs/{job.id}/events", stream=True, timeout=WAIT_SECONDS) as answer:
        lines = answer.iter_lines(chunk_size=1)
        seen = next(line for line in lines if line.startswith(b"data: "))
        web.stop()
        rest = [line for line in lines if line]

    assert json.loads(seen.removeprefix(b"data: "))["event"] == "queued"
    assert rest == []
