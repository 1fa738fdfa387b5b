"""Delivering to a real receiver over real sockets: good ones, bad ones, and those that are none of our business."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.core import deliveries, jobs
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.tables import Delivery
from app.core.webhooks import HookRequest
from app.vault import FernetVault
from tasks.control.deliver import IN_A_ROW, Courier
from tasks.control.lanes import Lanes
from tasks.control.post import Patience, Poster
from tests.builders import a_job, a_machine, claim
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.processes import WAIT_SECONDS, free_port, wait_until
from tests.support.receiver import (
    KEY,
    SECRET,
    Behaviour,
    Receiver,
    a_receiver,
    drip,
    flood,
    hang,
    hang_up,
    status,
    wait_for,
)

PATIENT = Patience(*[WAIT_SECONDS] * 3)
"""Of who is to wait for an answer, however late the computer comes to it."""

HURRIED: dict[Behaviour, Patience] = {hang: replace(PATIENT, read=0.5), drip: replace(PATIENT, total=1.0)}
"""The real numbers are five, ten and fifteen seconds; what is cut off is cut off in the same way."""

SECRETS = (SECRET, KEY, "a-token-in-the-query")


@pytest.fixture
def clock() -> Clock:
    """Return a clock that shows the real time until a test moves it: verifiers refuse old timestamps."""
    return Clock(datetime.now(UTC))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    with a_receiver() as receiver:
        yield receiver


@pytest.fixture
def courier(fleet: Fleet) -> Courier:
    """Return a courier who goes to loopback too."""
    return Courier(fleet, Poster(allow_private=True, patience=PATIENT))


def ended(fleet: Fleet, hook: HookRequest) -> UUID:
    """Order with this hook, and cancel."""
    job = a_job(fleet, terms=Terms(hook=hook))
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    return job.id


def log_of(fleet: Fleet, job_id: UUID) -> list[Delivery]:
    with fleet.reading() as session:
        return list(deliveries.of_job(session, job_id)[1])


def the_delivery(fleet: Fleet, job_id: UUID) -> Delivery:
    (delivery,) = log_of(fleet, job_id)
    return delivery


def go_on(courier: Courier, clock: Clock, job_id: UUID) -> None:
    """Let time pass until the next try, and ring."""
    clock.now = max(clock.now, the_delivery(courier.fleet, job_id).next_try_at)
    courier.run(job_id)


def test_an_event_arrives_once_and_can_be_verified(fleet: Fleet, courier: Courier, receiver: Receiver) -> None:
    job_id = ended(fleet, receiver.hook())

    for _ in range(3):  # bells may come twice
        courier.run(job_id)

    (got,) = receiver.got
    assert Webhook(SECRET).verify(got.body, dict(got.headers)) == got.said
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(got.body, dict(got.headers))
    assert (got.said["type"], got.said["data"]["job_id"]) == ("job.cancelled", str(job_id))
    assert (got.headers["x-webhook-key"], got.headers["content-type"]) == (KEY, "application/json")
    assert got.path == "/ready?token=a-token-in-the-query"
    delivery = the_delivery(fleet, job_id)
    assert (got.id, delivery.state, [each.status for each in delivery.tries]) == (str(delivery.id), "delivered", [204])


def test_without_a_secret_it_is_not_signed(fleet: Fleet, courier: Courier, receiver: Receiver) -> None:
    courier.run(ended(fleet, receiver.hook(secret=None, key=None)))

    (got,) = receiver.got
    assert "webhook-id" in got.headers
    assert not {"webhook-signature", "x-webhook-key"} & got.headers.keys()


@pytest.mark.parametrize(
    ("trouble", "code", "words"),
    [
        (status(500), 500, "it answered 500"),
        (status(429), 429, "it answered 429"),
        (status(301, Location="/elsewhere"), 301, "redirects are not followed"),
        (status(307, Location="/elsewhere"), 307, "redirects are not followed"),
        (hang, None, "no answer"),
        (drip, None, "no answer within 1 s"),
        (hang_up, None, "the connection broke"),
    ],
    ids=["500", "429", "301", "307", "hang", "drip", "hang_up"],
)
def test_trouble_is_written_down_and_it_is_tried_again_under_the_same_id_and_signed_anew(
    fleet: Fleet, receiver: Receiver, clock: Clock, trouble: Behaviour, code: int | None, words: str
) -> None:
    hurried = Courier(fleet, Poster(allow_private=True, patience=HURRIED.get(trouble, PATIENT)))
    receiver.plan = [trouble, trouble]
    job_id = ended(fleet, receiver.hook())

    hurried.run(job_id)
    wait_for(receiver, 1)  # who was cut off may have come later than that
    delivery = the_delivery(fleet, job_id)
    (first,) = delivery.tries
    assert (delivery.state, first.status) == ("owed", code)
    assert words in (first.error or "no answer")
    hurried.run(job_id)
    assert len(receiver.got) == 1  # its time has not come

    go_on(hurried, clock, job_id)
    wait_for(receiver, 2)
    go_on(Courier(fleet, Poster(allow_private=True, patience=PATIENT)), clock, job_id)

    assert the_delivery(fleet, job_id).state == "delivered"
    assert len(receiver.got) == 3
    assert len({got.id for got in receiver.got}) == 1
    assert len({got.headers["webhook-timestamp"] for got in receiver.got}) == 3
    assert len({got.headers["webhook-signature"] for got in receiver.got}) == 3
    assert {got.path for got in receiver.got} == {"/ready?token=a-token-in-the-query"}


def test_a_dead_receiver_is_called_ten_times_over_two_hours_and_then_given_up(
    fleet: Fleet, courier: Courier, clock: Clock, receiver: Receiver
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    job_id = ended(fleet, receiver.hook(url=f"http://{nobody}/", host=nobody))
    began = clock.now

    for _ in range(deliveries.MOST_TRIES):
        go_on(courier, clock, job_id)

    delivery = the_delivery(fleet, job_id)
    assert (delivery.state, len(delivery.tries)) == ("given_up", deliveries.MOST_TRIES)
    assert delivery.tries[-1].at - began >= timedelta(hours=2)
    assert "cannot be connected to" in (delivery.reason or "")


def test_gone_is_gone(fleet: Fleet, courier: Courier, receiver: Receiver, clock: Clock) -> None:
    receiver.plan = [status(410)]
    job_id = ended(fleet, receiver.hook())

    courier.run(job_id)
    clock.advance(86_400)
    courier.run(job_id)

    assert len(receiver.got) == 1
    assert the_delivery(fleet, job_id).state == "given_up"


def test_retry_after_is_kept_to(fleet: Fleet, courier: Courier, receiver: Receiver, clock: Clock) -> None:
    receiver.plan = [status(503, Retry_After="120")]
    job_id = ended(fleet, receiver.hook())

    courier.run(job_id)

    assert the_delivery(fleet, job_id).next_try_at - clock.now == timedelta(seconds=120)


def test_an_answer_without_end_is_not_read(fleet: Fleet, courier: Courier, receiver: Receiver) -> None:
    receiver.plan = [flood]
    job_id = ended(fleet, receiver.hook())

    courier.run(job_id)

    assert the_delivery(fleet, job_id).state == "delivered"
    wait_until(receiver.over.is_set, "the flood ends")
    assert receiver.sent_bytes < 32 * 2**20  # what the kernel buffers goes out whether it is read or not


def test_a_handshake_that_never_ends_is_cut_off(fleet: Fleet, receiver: Receiver) -> None:
    courier = Courier(fleet, Poster(allow_private=True, patience=HURRIED[drip]))
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it takes the connection, and says no TLS
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        job_id = ended(fleet, receiver.hook(url=f"https://{address}/", host=address))
        courier.run(job_id)

    assert the_delivery(fleet, job_id).tries[0].error == "no answer within 1 s"


PRIVATE = [
    "127.0.0.1",
    "0.0.0.0",
    "::1",
    "::ffff:127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "fd00::1",
    "fe80::1",
    "224.0.0.1",
    "64:ff9b::7f00:1",
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_into_our_network_is_refused_where_the_socket_opens(
    fleet: Fleet, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """DNS rebinding: the name was public when it was ordered, and is looked up again when the socket opens."""
    resolve_to(monkeypatch, address)
    hook = receiver.hook(url=f"http://rebound.example.org:{receiver.port}/", host="rebound.example.org:80")
    job_id = ended(fleet, hook)

    Courier(fleet, Poster(allow_private=False)).run(job_id)

    assert receiver.got == []
    (tried,) = the_delivery(fleet, job_id).tries
    assert "not on the public internet" in (tried.error or "")
    assert address not in (tried.error or "")  # what our resolver knows is not told


def test_a_name_may_lead_there_where_the_operator_allows_it(
    fleet: Fleet, courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    hook = receiver.hook(url=f"http://rebound.example.org:{receiver.port}/", host="rebound.example.org:80")

    courier.run(ended(fleet, hook))

    assert [got.headers["host"] for got in receiver.got] == [f"rebound.example.org:{receiver.port}"]


def resolve_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Answer for one name as a resolver would that an attacker controls; all other names are as they are."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return real(address if host == "rebound.example.org" else host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_environments_proxies_are_not_used(
    fleet: Fleet, courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        courier.run(ended(fleet, receiver.hook()))

    assert (len(receiver.got), len(proxy.got)) == (1, 0)


def test_of_many_couriers_exactly_one_delivers_each_event(fleet: Fleet, receiver: Receiver) -> None:
    job_ids = [ended(fleet, receiver.hook()) for _ in range(40)]
    rivals = [Courier(fleet, Poster(allow_private=True, patience=PATIENT)) for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: rivals[number % 4].run(job_ids[number % 40]), range(160)))

    assert Counter(got.said["uuid"] for got in receiver.got) == Counter(str(job_id) for job_id in job_ids)
    assert len({got.id for got in receiver.got}) == len(job_ids)


def test_one_bell_is_enough_for_all_that_a_host_is_owed_and_others_come_between(
    fleet: Fleet, courier: Courier, receiver: Receiver, dispatcher: RecordingDispatcher
) -> None:
    job_ids = [ended(fleet, receiver.hook()) for _ in range(IN_A_ROW + 5)]
    bells = len(dispatcher.sent)

    courier.run(job_ids[0])

    assert len(receiver.got) == IN_A_ROW
    (again,) = dispatcher.sent[bells:]
    courier.run(again.job_id)
    assert len(receiver.got) == len(job_ids)


def test_a_host_that_is_silent_does_not_hold_up_the_others(fleet: Fleet, receiver: Receiver) -> None:
    with a_receiver() as silent:
        silent.plan = [hang] * 50
        courier = Courier(fleet, Poster(allow_private=True, patience=PATIENT), Lanes())
        stuck = [ended(fleet, silent.hook()) for _ in range(12)]
        good = [ended(fleet, receiver.hook()) for _ in range(12)]
        with ThreadPoolExecutor(6) as pool:  # fewer threads than the silent host has events
            for job_id in stuck:
                pool.submit(courier.run, job_id)
            wait_until(lambda: len(silent.got) == 4, "the silent host has all of its lanes")
            for job_id in good:
                pool.submit(courier.run, job_id)
            wait_until(lambda: len(receiver.got) == len(good), "the other host gets its events")
            assert len(silent.got) == 4
            silent.open.set()


def test_an_ending_is_not_overtaken_by_progress_that_is_on_its_way(
    fleet: Fleet, courier: Courier, receiver: Receiver
) -> None:
    held = threading.Event()

    def slow(handler: Any, got_by: Receiver) -> None:
        held.wait(WAIT_SECONDS)
        status(500)(handler, got_by)

    receiver.plan = [slow]
    job = a_job(fleet, terms=Terms(hook=receiver.hook(events=("processing", "cancelled"))))
    a_machine(fleet, ready_for=[job.model_id])
    assert claim(fleet, job.id) is not None
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(courier.run, job.id)
        wait_until(lambda: len(receiver.got) == 1, "the progress is on its way")
        with fleet.transaction() as tx:
            jobs.cancel(tx, job.id, fleet)
        pool.submit(courier.run, job.id).result()
        assert receiver.types() == ["job.processing"]
        held.set()
        first.result()

    assert receiver.types() == ["job.processing", "job.cancelled"]  # the progress failed, and is not tried again
    assert [each.state.value for each in log_of(fleet, job.id)] == ["void", "delivered"]


def test_a_secret_that_cannot_be_read_is_a_reason_to_give_up_and_breaks_nothing_else(
    fleet: Fleet, receiver: Receiver, tmp_path: Path
) -> None:
    lost, fine = ended(fleet, receiver.hook()), ended(replace(fleet, vault=other(tmp_path)), receiver.hook())

    Courier(replace(fleet, vault=other(tmp_path)), Poster(allow_private=True, patience=PATIENT)).run(lost)

    assert [got.said["uuid"] for got in receiver.got] == [str(fine)]
    delivery = the_delivery(fleet, lost)
    assert (delivery.state, [each.status for each in delivery.tries]) == ("given_up", [None])
    assert "SECRET_KEY" in (delivery.reason or "")


def other(folder: Path) -> FernetVault:
    return FernetVault(["another key"], folder / "no-file")


def test_no_log_line_says_a_secret(
    fleet: Fleet, courier: Courier, receiver: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.plan = [status(500), hang, hang_up, drip, status(302, Location="https://example.org/")]
    job_id = ended(fleet, receiver.hook())

    for number, trouble in enumerate(list(receiver.plan), 1):
        hurried = Courier(fleet, Poster(allow_private=True, patience=HURRIED.get(trouble, PATIENT)))
        go_on(hurried, clock, job_id)
        wait_for(receiver, number)
    go_on(courier, clock, job_id)

    assert the_delivery(fleet, job_id).state == "delivered"
    assert caplog.text.count(f"job {job_id}: delivery") == 6
    assert not [secret for secret in SECRETS if secret in caplog.text]
