"""Webhooks at the doors: asking for them in every spelling, wrong addresses, and seeing what became of them."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import Client as WsgiClient

from app.api.a1111.root import AtTheRoot
from app.api.application import make_application
from app.core import deliveries, images, jobs, webhooks
from app.core.deliveries import Answer, Parcel
from app.core.errors import Unreadable
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState
from app.core.webhooks import Target
from app.settings import Settings
from app.vault import FernetVault
from tests.api.test_a1111 import drawing
from tests.builders import MODEL, a_machine, a_model, an_upload, claim, finish, the_job
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client, client_of

ORDER = {"model_id": MODEL, "prompt": "a red circle"}
URL = "https://hooks.example.org/ready?token=in-the-query"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "a-key-that-nobody-may-see"


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with one model."""
    a_model(fleet)
    return client


def order(client: Client, **more: Any) -> UUID:
    answer = client.post("/v1/jobs", json=ORDER | more)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json["job_id"])


def drawn(fleet: Fleet, job_id: UUID) -> None:
    """Let a machine draw a job."""
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job_id) is not None
    images.receive(fleet, an_upload(the_job(fleet, job_id)))
    finish(fleet, the_job(fleet, job_id))


def seen(client: Client, job_id: UUID) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}/deliveries")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


def take(fleet: Fleet, host: str = "hooks.example.org:443") -> Parcel | None:
    with fleet.transaction() as tx:
        return deliveries.take(tx, host)


def taken(fleet: Fleet) -> Parcel:
    parcel = take(fleet)
    assert parcel is not None
    return parcel


def answer(fleet: Fleet, parcel: Parcel, status: int | None = None, **more: Any) -> str:
    with fleet.transaction() as tx:
        state = deliveries.record(tx, parcel, Answer(fleet.clock(), 0.25, status, **more))
        assert state is not None
        return state.value


def target_of(fleet: Fleet, parcel: Parcel) -> Target:
    return webhooks.unseal(fleet.vault, parcel.sealed)


@pytest.mark.parametrize(
    ("body", "secret", "key"),
    [
        ({"webhook": {"url": URL}}, None, None),
        ({"webhook": {"url": URL, "secret": SECRET}}, SECRET, None),
        ({"webhook": {"url": URL, "secret": SECRET, "key": KEY}}, SECRET, KEY),
        ({"webhookUrl": URL, "webhookKey": KEY}, None, KEY),
        ({"webhook_url": URL, "webhook_key": KEY}, None, KEY),
        ({"webhookUrl": URL, "webhookSecret": KEY}, None, KEY),
        ({"webhook_url": URL, "webhook_secret": KEY}, None, KEY),
        ({"webhookUrl": URL, "webhookSecretKey": KEY}, None, KEY),
        ({"webhook_url": URL, "webhook_secret_key": KEY}, None, KEY),
        ({"webhookUrl": URL, "webhook_url": URL, "webhookKey": None}, None, None),
    ],
)
def test_a_webhook_is_ordered_in_every_spelling(
    stocked: Client, fleet: Fleet, body: dict[str, Any], secret: str | None, key: str | None
) -> None:
    job_id = order(stocked, **body)
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    assert target_of(fleet, taken(fleet)) == Target(URL, secret, key)


@pytest.mark.parametrize("body", [{}, {"webhookUrl": None, "webhookKey": None}, {"webhook": None}, {"webhook_url": ""}])
def test_without_an_address_nothing_is_owed(stocked: Client, fleet: Fleet, body: dict[str, Any]) -> None:
    job_id = order(stocked, **body)
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    assert seen(stocked, job_id) == {"url": None, "events": [], "deliveries": []}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("hooks.example.org", "https://"),
        ("https://", "https://"),
        ("https:///path", "https://"),
        ("https://user:pa55word@example.org/", "a user or a password"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/\r\nX: y", "spaces"),
        ("https://example.org/" + "a" * 2000, "2000"),
        ("https://example.org:99999/", "no address"),
        ("http://127.0.0.1/", "own network"),
        ("http://127.1/", "own network"),
        ("http://2130706433/", "own network"),
        ("http://0x7f000001/", "own network"),
        ("http://017700000001/", "own network"),
        ("http://localhost:9/", "own network"),
        ("http://LOCALHOST/", "own network"),
        ("http://a.localhost/", "own network"),
        ("http://0.0.0.0/", "own network"),
        ("http://10.1.2.3/", "own network"),
        ("http://172.16.0.1/", "own network"),
        ("http://192.168.1.1/", "own network"),
        ("http://100.64.0.1/", "own network"),
        ("http://169.254.169.254/latest/meta-data/", "own network"),
        ("http://224.0.0.1/", "own network"),
        ("http://[::1]/", "own network"),
        ("http://[fd00::1]/", "own network"),
        ("http://[fe80::1%25eth0]/", "own network"),
        ("http://[ff02::1]/", "own network"),
        ("http://[::ffff:127.0.0.1]/", "own network"),
        ("http://[::ffff:10.0.0.1]/", "own network"),
        ("http://[64:ff9b::7f00:1]/", "own network"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_address_that_cannot_be_is_refused_at_once(stocked: Client, url: str, why: str) -> None:
    for body in ({"webhook": {"url": url}}, {"webhookUrl": url}):
        answer = stocked.post("/v1/jobs", json=ORDER | body)

        assert answer.status_code == 422, url
        assert why in answer.json["error"]["message"]
        assert "pa55word" not in answer.text
    assert stocked.get("/v1/jobs").json["jobs"] == []


def test_private_addresses_are_taken_where_the_operator_allows_them(fleet: Fleet, settings: Settings) -> None:
    a_model(fleet)
    client = client_of(make_application(fleet, replace(settings, webhook_allow_private=True)))

    assert order(client, webhookUrl="http://127.0.0.1:9/hook")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"webhook": {"secret": SECRET}}, "webhook"),
        ({"webhookKey": KEY}, "webhook_url"),
        ({"webhook": {"url": URL, "secret": "whsec_not/base64!"}}, "webhook.secret"),
        ({"webhook": {"url": URL, "secret": "whsec_"}}, "webhook.secret"),
        ({"webhook": {"url": URL, "secret": "x" * 501}}, "webhook.secret"),
        ({"webhookUrl": URL, "webhookKey": "two\r\nlines"}, "webhookKey"),
        ({"webhookUrl": URL, "webhookKey": "schlüssel"}, "webhookKey"),
        ({"webhook": {"url": URL, "events": ["finished"]}}, "webhook.events"),
        ({"webhookUrl": URL, "webhook_url": URL + "&other"}, "webhook"),
        ({"webhook": {"url": URL}, "webhookUrl": URL + "&other"}, "webhook"),
        ({"webhook": {"url": URL, "colour": "red"}}, "webhook"),
        ({"webhook": URL}, "webhook"),
        ({"webhookUrl": 7}, "webhookUrl"),
    ],
)
def test_a_wrong_webhook_is_refused_by_field_without_its_value(
    stocked: Client, body: dict[str, Any], field: str
) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER | body)

    assert answer.status_code == 422
    assert [name for name in answer.json["error"]["fields"] if name.startswith(field)]
    assert not [word for word in (SECRET, KEY, "not/base64", "schlüssel", "in-the-query") if word in answer.text]


def test_the_synchronous_side_takes_webhooks_and_never_echoes_their_secrets(
    fleet: Fleet, settings: Settings, dispatcher: RecordingDispatcher
) -> None:
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])
    application = make_application(fleet, replace(settings, fleet_url="http://main:8000"))
    body = {"prompt": "a cat", "webhookUrl": URL, "webhookKey": KEY, "webhook_secret": KEY}

    with drawing(fleet, dispatcher):
        said = WsgiClient(AtTheRoot(application)).post("/sdapi/v1/txt2img", json=body)

    assert said.status_code == 200, said.text
    assert not [word for word in (KEY, "in-the-query") if word in said.text]
    parcel = taken(fleet)
    assert target_of(fleet, parcel) == Target(URL, None, KEY)
    assert parcel.body["data"]["url"] == f"http://main:8000/v1/jobs/{parcel.job_id}"


def test_an_ending_is_owed_once_with_what_the_job_became(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    job_id = order(stocked, webhook={"url": URL})
    drawn(fleet, job_id)

    parcel = taken(fleet)
    shown = stocked.get(f"/v1/jobs/{job_id}").json

    assert take(fleet) is None
    assert (parcel.body["type"], parcel.body["status"], parcel.body["uuid"]) == (
        "job.completed",
        "completed",
        str(job_id),
    )
    same = {name: value for name, value in shown.items() if name in parcel.body["data"]}
    assert {"job_id", "status", "images", "parameters", "error", "url", "ended_at"} <= same.keys()
    assert {name: parcel.body["data"][name] for name in same} == same
    assert [m.queue for m in dispatcher.sent if m.task == "imagefleet.deliver"] == ["webhooks"]


def test_errors_and_cancels_are_endings_too(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    failed = order(stocked, webhook={"url": URL})
    clock.advance(1)
    cancelled = order(stocked, webhook={"url": URL})
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, failed) is not None
    finish(fleet, the_job(fleet, failed), AttemptState.ERROR, error_code="bad_lora", error="no", permanent=True)
    stocked.post(f"/v1/jobs/{cancelled}/cancel")

    bodies = [taken(fleet).body, taken(fleet).body]

    assert {body["type"] for body in bodies} == {"job.error", "job.cancelled"}
    (error,) = [body["data"]["error"] for body in bodies if body["type"] == "job.error"]
    assert error == {"code": "bad_lora", "message": "no"}


def test_addresses_in_an_event_begin_as_the_client_reaches_us_or_as_the_operator_says(
    fleet: Fleet, settings: Settings
) -> None:
    a_model(fleet)
    public = client_of(make_application(fleet, replace(settings, public_url="https://pics.example.org/fleet")))
    plain = client_of(make_application(fleet, settings))
    for client in (public, plain):
        answer = client.post("/v1/jobs", json=ORDER | {"webhookUrl": URL}, headers={"Host": "inner.localhost:8000"})
        client.post(f"/v1/jobs/{answer.json['job_id']}/cancel")

    urls = {taken(fleet).body["data"]["url"].rpartition("/")[0], taken(fleet).body["data"]["url"].rpartition("/")[0]}

    assert urls == {"https://pics.example.org/fleet/v1/jobs", "http://inner.localhost:8000/v1/jobs"}


def test_progress_is_owed_where_it_was_asked_for_and_void_once_the_end_is_owed(stocked: Client, fleet: Fleet) -> None:
    job_id = order(stocked, webhook={"url": URL, "events": ["processing", "job.queued", "completed", "error"]})
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job_id) is not None
    begun = taken(fleet)
    assert (begun.body["type"], begun.body["data"]["status"]) == ("job.processing", "processing")
    assert answer(fleet, begun, 500) == "owed"
    finish(fleet, the_job(fleet, job_id), AttemptState.LOST)
    assert claim(fleet, job_id) is not None
    finish(fleet, the_job(fleet, job_id), AttemptState.ERROR, attempt=2, error="no", permanent=True)

    ended = taken(fleet)

    assert ended.body["type"] == "job.error"
    assert take(fleet) is None
    listed = seen(stocked, job_id)["deliveries"]
    assert [(each["event"], each["state"]) for each in listed] == [
        ("job.processing", "void"),
        ("job.queued", "void"),
        ("job.processing", "void"),
        ("job.error", "owed"),
    ]
    assert listed[0]["reason"] == "'error' came later"


def test_no_event_is_sent_while_an_earlier_one_of_its_job_is_on_its_way(
    stocked: Client, fleet: Fleet, clock: Clock
) -> None:
    job_id = order(stocked, webhook={"url": URL, "events": ["processing", "cancelled"]})
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job_id) is not None
    begun = taken(fleet)
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    clock.advance(deliveries.HOLD_SECONDS - 1)

    assert take(fleet) is None

    assert answer(fleet, begun, 503) == "void"
    assert taken(fleet).event == "cancelled"


def test_an_ending_waits_for_no_sender_that_died(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    job_id = order(stocked, webhook={"url": URL, "events": ["processing", "cancelled"]})
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job_id) is not None
    begun = taken(fleet)
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    clock.advance(deliveries.HOLD_SECONDS + 1)

    assert taken(fleet).event == "cancelled"
    assert answer(fleet, begun, 503) == "void"


def test_a_try_whose_sender_died_is_made_again_under_the_same_id_and_counted(
    stocked: Client, fleet: Fleet, clock: Clock
) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    first = taken(fleet)
    assert take(fleet) is None
    clock.advance(deliveries.HOLD_SECONDS + 1)

    second = taken(fleet)
    late = answer(fleet, first, 500)

    assert (second.delivery_id, second.number) == (first.delivery_id, 2)
    assert late == "owed"
    clock.advance(30)
    assert take(fleet) is None  # what the late one said changes nothing: the second is on its way
    assert answer(fleet, second, 204) == "delivered"
    (listed,) = seen(stocked, job_id)["deliveries"]
    assert [(each["number"], each["status"]) for each in listed["tries"]] == [(1, 500), (2, 204)]


def test_what_a_dead_sender_delivered_after_all_counts(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    first = taken(fleet)
    clock.advance(deliveries.HOLD_SECONDS + 1)
    second = taken(fleet)

    assert answer(fleet, first, 200) == "delivered"
    assert answer(fleet, second, 500) == "delivered"


def test_an_event_that_kills_its_senders_is_given_up(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    for _ in range(deliveries.MOST_TRIES):
        assert take(fleet) is not None
        clock.advance(deliveries.HOLD_SECONDS + 1)

    assert take(fleet) is None
    (listed,) = seen(stocked, job_id)["deliveries"]
    assert (listed["state"], len(listed["tries"])) == ("given_up", deliveries.MOST_TRIES)


def test_failures_are_tried_again_later_and_later_and_at_last_given_up(
    stocked: Client, fleet: Fleet, clock: Clock
) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    began, waits = clock.now, []

    for number in range(1, deliveries.MOST_TRIES + 1):
        parcel = taken(fleet)
        assert parcel.number == number
        state = answer(fleet, parcel, None, error="it cannot be connected to")
        (listed,) = seen(stocked, job_id)["deliveries"]
        if state == "owed":
            before = clock.now
            clock.advance(0.001)
            assert take(fleet) is None
            clock.now = _moment(listed["next_try_at"])
            waits.append((clock.now - before).total_seconds())

    assert state == "given_up"
    assert take(fleet) is None
    assert len(waits) == deliveries.MOST_TRIES - 1 >= 9
    assert clock.now - began >= timedelta(hours=2)
    assert listed["reason"] == "the last of 12 tries: it cannot be connected to"


def _moment(text_: str) -> datetime:
    return datetime.fromisoformat(text_)


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(600.0, 600, 600), (10**9, 3600, 3600), (0.0, 2.5, 5), (None, 2.5, 5)]
)
def test_a_receiver_may_ask_for_patience_within_bounds(
    stocked: Client, fleet: Fleet, clock: Clock, asked: float | None, least: float, most: float
) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    answer(fleet, taken(fleet), 429, retry_after=asked)

    (listed,) = seen(stocked, job_id)["deliveries"]
    assert least <= (_moment(listed["next_try_at"]) - clock.now).total_seconds() <= most


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_receiver_that_does_not_want_it_is_left_alone(stocked: Client, fleet: Fleet, status: int) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    assert answer(fleet, taken(fleet), status) == "given_up"

    assert seen(stocked, job_id)["deliveries"][0]["reason"] == f"the receiver answered {status}"


def test_everything_is_seen_and_nothing_secret(stocked: Client, fleet: Fleet) -> None:
    job_id = order(stocked, webhook={"url": URL, "secret": SECRET, "key": KEY, "events": ["cancelled"]})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    answer(fleet, taken(fleet), 503, error="it answered 503")

    listed = seen(stocked, job_id)

    assert (listed["url"], listed["events"]) == ("https://hooks.example.org/ready", ["cancelled"])
    (delivery,) = listed["deliveries"]
    assert (delivery["event"], delivery["state"], delivery["ended_at"]) == ("job.cancelled", "owed", None)
    assert [(each["number"], each["status"], each["seconds"], each["error"]) for each in delivery["tries"]] == [
        (1, 503, 0.25, "it answered 503")
    ]
    everything = json.dumps([listed, stocked.get(f"/v1/jobs/{job_id}").json, stocked.get("/v1/jobs").json])
    assert not [word for word in (SECRET, KEY, "in-the-query") if word in everything]


def test_no_secret_lies_open_in_the_database(stocked: Client, fleet: Fleet) -> None:
    job_id = order(stocked, webhook={"url": URL, "secret": SECRET, "key": KEY})
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    with fleet.reading() as session:
        tables = ("jobs", "hooks", "deliveries", "delivery_tries", "idempotency_keys", "attempts")
        rows = [list(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table}"))]

    assert "https://hooks.example.org/ready" in str(rows)
    assert not [word for word in (SECRET, KEY, "in-the-query") if word in str(rows)]


def test_a_job_that_is_tried_again_has_the_same_webhook(stocked: Client, fleet: Fleet) -> None:
    first = order(stocked, webhook={"url": URL, "secret": SECRET, "events": ["cancelled"]})
    stocked.post(f"/v1/jobs/{first}/cancel")
    assert answer(fleet, taken(fleet), 200) == "delivered"
    again = UUID(stocked.post(f"/v1/jobs/{first}/retry").json["job_id"])
    stocked.post(f"/v1/jobs/{again}/cancel")

    parcel = taken(fleet)

    assert (parcel.job_id, target_of(fleet, parcel)) == (again, Target(URL, SECRET, None))
    with fleet.reading() as session:
        copied = webhooks.request_of(session, jobs.get(session, again))
    assert copied is not None
    assert copied.events == ("cancelled",)


def test_another_key_breaks_no_job_and_reads_no_secret(stocked: Client, fleet: Fleet, tmp_path: Any) -> None:
    job_id = order(stocked, webhook={"url": URL, "secret": SECRET})
    elsewhere = replace(fleet, vault=FernetVault(["another"], tmp_path))

    with elsewhere.transaction() as tx:
        jobs.cancel(tx, job_id, elsewhere)

    with pytest.raises(Unreadable):
        target_of(elsewhere, taken(elsewhere))


def test_a_delivery_is_sent_once_more_by_hand_under_its_old_id(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    job_id = order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    first = taken(fleet)
    path = f"/v1/jobs/{job_id}/deliveries/{first.delivery_id}/redeliver"
    assert stocked.post(path).status_code == 409
    assert answer(fleet, first, 410) == "given_up"
    bells = len(dispatcher.sent)

    answered = stocked.post(path)

    assert (answered.status_code, answered.json["state"], answered.json["reason"]) == (202, "owed", None)
    assert [message.task for message in dispatcher.sent[bells:]] == ["imagefleet.deliver"]
    second = taken(fleet)
    assert (second.delivery_id, second.number, second.body) == (first.delivery_id, 2, first.body)
    assert answer(fleet, second, 200) == "delivered"
    (listed,) = seen(stocked, job_id)["deliveries"]
    assert [each["status"] for each in listed["tries"]] == [410, 200]


def test_older_news_are_not_sent_again_while_later_ones_are_owed_and_void_ones_never(
    stocked: Client, fleet: Fleet
) -> None:
    job_id = order(stocked, webhook={"url": URL, "events": ["processing", "queued", "cancelled"]})
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job_id) is not None
    begun = taken(fleet)
    answer(fleet, begun, 410)
    finish(fleet, the_job(fleet, job_id), AttemptState.LOST)
    path = f"/v1/jobs/{job_id}/deliveries"

    assert stocked.post(f"{path}/{begun.delivery_id}/redeliver").json["error"]["code"] == "delivery_owed"

    stocked.post(f"/v1/jobs/{job_id}/cancel")
    assert answer(fleet, taken(fleet), 200) == "delivered"
    void = seen(stocked, job_id)["deliveries"][1]
    assert void["state"] == "void"
    assert stocked.post(f"{path}/{void['delivery_id']}/redeliver").status_code == 409


def test_there_is_nothing_to_see_of_what_does_not_exist(stocked: Client, fleet: Fleet) -> None:
    job_id, other = order(stocked, webhook={"url": URL}), order(stocked, webhook={"url": URL})
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    delivery_id = taken(fleet).delivery_id

    assert stocked.get(f"/v1/jobs/{uuid4()}/deliveries").status_code == 404
    assert stocked.post(f"/v1/jobs/{job_id}/deliveries/{uuid4()}/redeliver").status_code == 404
    assert stocked.post(f"/v1/jobs/{other}/deliveries/{delivery_id}/redeliver").status_code == 404


def test_the_sweeper_rings_for_what_is_due_a_few_for_each_host_and_only_what_is_missing(
    stocked: Client, fleet: Fleet, clock: Clock, dispatcher: RecordingDispatcher
) -> None:
    for host in ("a", "b"):
        for _ in range(10):
            job_id = order(stocked, webhookUrl=f"https://{host}.example.org/")
            stocked.post(f"/v1/jobs/{job_id}/cancel")
    dispatcher.lose_everything()

    assert deliveries.ring_due(fleet) == 2 * deliveries.BELLS_BY_HOST
    assert deliveries.ring_due(fleet) == 0  # they wait already

    dispatcher.lose_everything()
    for host in ("a", "b"):
        while (parcel := take(fleet, f"{host}.example.org:443")) is not None:
            answer(fleet, parcel, 500 if host == "a" else 200)
    assert deliveries.ring_due(fleet) == 0  # nothing is due
    clock.advance(60)
    assert deliveries.ring_due(fleet) == deliveries.BELLS_BY_HOST
    dispatcher.is_away = True
    assert deliveries.ring_due(fleet) == 0


def test_every_schema_of_orders_says_what_a_webhook_is(application: Flask) -> None:
    document = client_of(application).get("/openapi.json").json

    schema = document["components"]["schemas"]["JobRequest"]["properties"]

    assert {"webhook", "webhook_url", "webhookUrl", "webhook_key", "webhookKey"} <= schema.keys()
