"""OpenAI clients that wait, in vain and not, and their streams: what becomes of an order nobody waits for any more."""

import base64
import io
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from openai import APIError, OpenAI, RateLimitError
from PIL import Image

from app.api import waiting
from app.api.application import make_application
from app.api.openai import streams
from app.core import images
from app.core.fleet import Fleet
from app.core.live import Progress
from app.core.tables import IdempotencyKey, Job
from app.settings import Settings
from tests.builders import MODEL, a_job, a_picture, an_upload, claim, finish
from tests.support.fakes import MONDAY
from tests.support.openai_door import GENERATE, NOT_WAITING, ORDER, USAGE, a_served_fleet, count, newest
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.web import Client, client_of, serving

PREVIEW = a_picture("gray", "JPEG")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def served(fleet: Fleet) -> Fleet:
    """Return a fleet with a machine that is ready for its model."""
    return a_served_fleet(fleet)


@pytest.fixture
def hasty(served: Fleet, settings: Settings) -> Flask:
    """Return an application that lets clients wait for a second."""
    return make_application(served, replace(settings, openai_wait_seconds=1))


def draw(fleet: Fleet, job: Job) -> None:
    """Draw a job as a machine does."""
    claim(fleet, job.id)
    images.receive(fleet, an_upload(job))
    finish(fleet, job)


def test_who_waited_in_vain_gets_the_picture_of_the_first_order_and_then_another_one(
    served: Fleet, hasty: Flask
) -> None:
    client = client_of(hasty)
    late = client.post(GENERATE, json=ORDER)
    job = newest(served)
    draw(served, job)

    again = client.post(GENERATE, json=ORDER)
    other = client.post(GENERATE, json=ORDER, headers=NOT_WAITING)

    assert (late.status_code, late.headers["Retry-After"]) == (504, "1")
    assert (late.json["error"]["code"], late.json["error"]["job_id"]) == ("too_slow", str(job.id))
    assert "OPENAI_WAIT_SECONDS" in late.json["error"]["message"]
    assert (again.status_code, again.json["job_id"]) == (200, str(job.id))
    assert (other.status_code, other.json["job_id"]) == (202, str(newest(served).id))
    assert newest(served).id != job.id


def test_openais_client_comes_back_by_itself_and_draws_nothing_twice(served: Fleet, hasty: Flask) -> None:
    with serving(hasty) as url, ThreadPoolExecutor(1) as pool:
        client = OpenAI(base_url=f"{url}/openai/v1", api_key="none is needed", max_retries=50)
        answer = pool.submit(client.images.generate, model=MODEL, prompt="a red circle")
        wait_until(lambda: count(served, IdempotencyKey), "its first request has waited in vain")
        draw(served, newest(served))
        (picture,) = answer.result(WAIT_SECONDS).data or []

    assert base64.b64decode(picture.b64_json or "") == a_picture()
    assert count(served, Job) == 1


def test_the_order_of_a_client_that_went_away_is_taken_up_when_it_comes_back(served: Fleet, application: Flask) -> None:
    body = json.dumps(ORDER).encode()
    with serving(application) as url:
        address = urlsplit(url)
        head = [f"POST {GENERATE} HTTP/1.1", f"Host: {address.netloc}", "Content-Type: application/json"]
        with socket.create_connection((address.hostname or "", address.port or 0)) as gone:
            gone.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            wait_until(lambda: count(served, Job), "it has ordered")
        wait_until(lambda: count(served, IdempotencyKey), "the server has seen that it is gone")

    again = client_of(application).post(GENERATE, json=ORDER, headers=NOT_WAITING)

    assert again.json["job_id"] == str(newest(served).id)
    assert count(served, Job) == 1


def test_who_knows_of_waiting_is_told_where_to_ask_and_its_next_order_is_another_one(
    served: Fleet, application: Flask
) -> None:
    client = client_of(application)

    found = [client.post(GENERATE, json=ORDER, headers={"Prefer": "wait=1"}) for _ in range(2)]

    assert [(answer.status_code, answer.headers["Preference-Applied"]) for answer in found] == [(202, "wait=1")] * 2
    assert count(served, Job) == 2


def test_who_sends_a_key_comes_back_by_that(served: Fleet, hasty: Flask) -> None:
    client, headers = client_of(hasty), {"Idempotency-Key": "mine"}
    client.post(GENERATE, json=ORDER, headers=headers)
    job = newest(served)
    draw(served, job)

    assert client.post(GENERATE, json=ORDER, headers=NOT_WAITING).json["job_id"] != str(job.id)
    assert client.post(GENERATE, json=ORDER, headers=headers).json["job_id"] == str(job.id)


@pytest.mark.parametrize("stream", [False, True])
def test_where_all_seats_are_taken_nothing_is_ordered(served: Fleet, application: Flask, *, stream: bool) -> None:
    waiting.open_room(application, 1)

    with application.app_context(), waiting.waiting_room().seat():
        answer = client_of(application).post(GENERATE, json=ORDER | {"stream": stream})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert count(served, Job) == 0


def test_too_many_orders_are_a_rate_limit_to_openais_client(served: Fleet, settings: Settings) -> None:
    full = replace(served, limits=replace(served.limits, max_queued=1))
    a_job(served)

    with serving(make_application(full, settings)) as url, pytest.raises(RateLimitError) as caught:
        client = OpenAI(base_url=f"{url}/openai/v1", api_key="none is needed", max_retries=0)
        client.images.generate(model=MODEL, prompt="x")

    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")


class Stream:
    """An open stream of events, read event by event."""

    def __init__(self, client: Client, **order: Any) -> None:
        self.answer = client.post(GENERATE, json=ORDER | {"stream": True} | order)
        assert (self.answer.status_code, self.answer.mimetype) == (200, "text/event-stream"), self.answer.text
        self._texts: Iterator[Any] = iter(self.answer.response)

    def text(self) -> str:
        """Return what comes next, an event or a comment."""
        return f"{next(self._texts).decode()}"

    def next(self) -> dict[str, Any]:
        """Return the next event; its name is also its type."""
        while (text := self.text()).startswith(":"):
            pass
        event, data = text.splitlines()[:2]
        body: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert event == f"event: {body['type']}"
        return body


def test_a_stream_tells_previews_and_then_the_picture(client: Client, served: Fleet) -> None:
    stream = Stream(client, partial_images=2, size="16x8", quality="low", output_format="webp", user="me")
    job = newest(served)
    claim(served, job.id)
    told = []
    for step, colour in ((4, "gray"), (8, "red")):
        moment = Progress(1, "denoising", step=step, steps=10)
        served.live.report(job.id, moment, a_picture(colour, "JPEG"))
        told.append(stream.next())
    images.receive(served, an_upload(job, data=a_picture(kind="WEBP"), media_type="image/webp"))
    finish(served, job)

    last = stream.next()

    common = {
        "created_at": int(MONDAY.timestamp()),
        "quality": "low",
        "background": "opaque",
        "output_format": "webp",
    }
    for number, event in enumerate(told):
        preview = Image.open(io.BytesIO(base64.b64decode(event.pop("b64_json"))))
        assert (preview.format, preview.size) == ("WEBP", (16, 8))
        own = {"type": "image_generation.partial_image", "size": "16x8", "partial_image_index": number}
        assert event == common | own
    assert base64.b64decode(last.pop("b64_json")) == a_picture(kind="WEBP")
    assert last == common | {
        "type": "image_generation.completed",
        "size": "8x8",
        "usage": USAGE,
        "safety_identifier": "me",
        "seed": 7,
        "job_id": str(job.id),
    }
    with pytest.raises(StopIteration):
        stream.text()
    assert count(served, IdempotencyKey) == 0


def test_a_preview_whose_turn_has_not_come_one_that_is_none_and_one_too_many_are_not_told(
    client: Client, served: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0)
    stream = Stream(client, partial_images=1)
    job = newest(served)
    claim(served, job.id)

    served.live.report(job.id, Progress(1, "denoising", step=1, steps=10), PREVIEW)
    early = [stream.text(), stream.text()]
    served.live.report(job.id, Progress(1, "denoising", step=5, steps=10), b"what is no picture")
    early += [stream.text(), stream.text()]
    served.live.report(job.id, Progress(1, "denoising", step=5, steps=10), PREVIEW)
    middle = stream.next()
    served.live.report(job.id, Progress(1, "denoising", step=9, steps=10), a_picture("red", "JPEG"))
    late = [stream.text(), stream.text()]

    assert {*early, *late} == {": still here\n\n"}
    assert (middle["partial_image_index"], middle["size"]) == (0, "auto")


def test_the_order_of_a_stream_that_was_left_is_taken_up(client: Client, served: Fleet) -> None:
    stream = Stream(client, partial_images=1)
    job = newest(served)
    claim(served, job.id)
    served.live.report(job.id, Progress(1, "denoising", step=5, steps=10), PREVIEW)
    stream.next()

    stream.answer.close()
    assert count(served, IdempotencyKey) == 1
    images.receive(served, an_upload(job))
    finish(served, job)

    assert Stream(client, partial_images=1).next()["job_id"] == str(job.id)


def test_a_stream_that_took_too_long_says_so_and_its_order_is_taken_up(served: Fleet, hasty: Flask) -> None:
    event = Stream(client_of(hasty)).next()

    job = newest(served)
    draw(served, job)
    assert (event["type"], event["error"]["code"], event["error"]["job_id"]) == ("error", "too_slow", str(job.id))
    assert count(served, IdempotencyKey) == 1
    assert Stream(client_of(hasty)).next()["job_id"] == str(job.id)


def test_openais_client_learns_that_a_streamed_job_was_called_off(application: Flask, served: Fleet) -> None:
    with serving(application) as url:
        client = OpenAI(base_url=f"{url}/openai/v1", api_key="none is needed")
        stream = client.images.generate(model=MODEL, prompt="x", stream=True)
        client_of(application).post(f"/v1/jobs/{newest(served).id}/cancel")
        with pytest.raises(APIError, match="was cancelled") as caught:
            list(stream)

    assert caught.value.code == "cancelled"


def test_what_cannot_be_ordered_is_refused_before_the_stream_begins(client: Client, served: Fleet) -> None:
    answer = client.post(GENERATE, json=ORDER | {"stream": True, "size": "65x64"})

    assert (answer.status_code, answer.mimetype) == (400, "application/json")
    assert count(served, Job) == 0
