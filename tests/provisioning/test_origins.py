"""Origins as they are: without ranges, redirecting, stalling, lying, changing under our hands."""

import threading
import time
from typing import Any

import pytest

from provisioning import passage
from provisioning import status as board
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, Provision, some_bytes
from tests.provisioning.origin import (
    Fault,
    Handler,
    Origin,
    Served,
    cut_after,
    other_bytes,
    reset,
    stall,
    status,
    web_page,
)
from tests.provisioning.test_watching import until

BODY = some_bytes(5 * MIB + 17)


def a_model(origin: Origin, fleet: Fleet, body: bytes = BODY, **how: Any) -> None:
    fleet.add("a", origin.serve("/a", body, **how), body)


def test_a_big_file_comes_in_parallel_ranges_and_every_byte_once(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    a_model(origin, fleet)

    run = provision("a")

    starts = sorted(asked.range[0] for asked in origin.requests("/a")[1:] if asked.range)
    assert run.file("a.bin").read_bytes() == BODY
    assert starts == [number * MIB for number in range(6)]
    assert origin.sent == len(BODY) + 1


def test_head_is_never_needed(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet)

    provision("a")

    assert {each.method for each in origin.asked} == {"GET"}


@pytest.mark.parametrize(
    "how",
    [
        {"ranges": False},
        {"ranges": False, "chunked": True},
        {"ranges": False, "etag": None},
        {"etag": None},
        {"etag": 'W/"weak"'},
    ],
    ids=["no ranges", "no length", "no etag nor ranges", "no etag", "weak etag"],
)
def test_plain_origins_of_every_kind_serve(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    how: dict[str, Any],
) -> None:
    a_model(origin, fleet, **how)

    run = provision("a")

    assert run.file("a.bin").read_bytes() == BODY


ACCIDENTS: dict[str, list[Fault]] = {
    "reset at once": [reset] * 3,
    "cut while probing": [cut_after(0)],
    "cut in the middle": [cut_after(0)] + [cut_after(100_000)] * 4,
    "server errors": [status(500), status(502), status(200)] + [status(503)] * 2,
    "busy": [status(429, Retry_After="0"), status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")],
    "hugging face's rate limit": [status(429, RateLimit='"resolvers";r=0;t=0')],
    "refused when asked again": [cut_after(100), status(503), status(429, Retry_After="0"), reset],
}


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize("accidents", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_accidents_on_the_way_are_survived(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    accidents: list[Fault],
    ranges: bool,
) -> None:
    a_model(origin, fleet, ranges=ranges)
    origin.fail("/a", *accidents)

    run = provision("a")

    assert run.outcome.ready == ("a",), run.outcome.failed
    assert run.file("a.bin").read_bytes() == BODY


def test_a_connection_that_stands_still_is_dropped_and_its_range_asked_for_again(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    a_model(origin, fleet)

    def stall_in_range(handler: Handler, served: Served) -> bool:
        handler.send_response(206)
        asked = handler.headers["Range"].removeprefix("bytes=")
        first, last = (int(each) for each in asked.split("-"))
        handler.send_header("Content-Range", f"bytes {asked}/{len(BODY)}")
        handler._send_head(served, served.etag, last - first + 1)
        handler.wfile.write(BODY[first : first + 100_000])
        over.wait()
        return True

    over = threading.Event()
    origin.fail("/a", lambda handler, served: False, stall_in_range)

    run = provision("a", stall_seconds=0.5)

    assert run.file("a.bin").read_bytes() == BODY  # while that connection still stands
    over.set()


def test_a_stream_that_stands_still_is_begun_again(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet, ranges=False)
    origin.fail("/a", stall(3))

    run = provision("a", stall_seconds=1.0)

    assert run.file("a.bin").read_bytes() == BODY


def test_an_origin_that_never_gives_a_byte_is_too_slow(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet)
    origin.always["/a"] = lambda handler, served: time.sleep(1.2) or True  # type: ignore[func-returns-value]

    run = provision("a", stall_seconds=0.1)

    assert run.code("a") in {"too_slow", "truncated"}
    assert not run.file("a.bin").exists()


def test_one_crawling_connection_does_not_hold_up_the_file(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passage, "STRAGGLER_SECONDS", 1.0)
    body = some_bytes(8 * MIB)
    a_model(origin, fleet, body)

    def crawl(handler: Handler, served: Served) -> bool:
        slow = Served(body, etag=served.etag, bytes_per_second=2_000)  # it would take longer than any test may
        handler.serve(slow)
        return True

    origin.fail("/a", lambda handler, served: False, crawl)

    run = provision("a")

    assert run.outcome.ready == ("a",)


def test_content_that_changes_between_ranges_is_begun_again(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    old = some_bytes(len(BODY), seed=7)
    a_model(origin, fleet)
    old_once = other_bytes(old, etag='"old"')
    origin.fail("/a", old_once, old_once, old_once)

    run = provision("a")

    assert run.file("a.bin").read_bytes() == BODY


def test_content_that_never_stops_changing_is_given_up(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet)
    count = iter(range(10_000))

    def restless(handler: Handler, served: Served) -> bool:
        handler.serve(served, etag=f'"{next(count)}"')
        return True

    origin.always["/a"] = restless

    run = provision("a")

    assert run.code("a") == "upstream_changed"


def test_a_wrong_content_range_is_not_written(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet)

    def shifted(handler: Handler, served: Served) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 5-{MIB + 4}/{len(BODY)}")
        handler._send_head(served, served.etag, MIB)
        handler.wfile.write(BODY[5 : MIB + 5])
        return True

    origin.fail("/a", lambda handler, served: False, shifted, shifted)

    run = provision("a")

    assert run.file("a.bin").read_bytes() == BODY


def test_content_encoding_that_nobody_asked_for_is_undone(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    import gzip  # noqa: PLC0415 - for this test alone

    a_model(origin, fleet)

    def zipped(handler: Handler, served: Served) -> bool:
        body = gzip.compress(BODY)
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler._send_head(served, served.etag, len(body))
        handler.wfile.write(body)
        return True

    origin.always["/a"] = zipped

    run = provision("a")

    assert run.file("a.bin").read_bytes() == BODY


def test_too_long_and_too_short_promises_never_make_a_file(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    a_model(origin, fleet, ranges=False)

    def short(handler: Handler, served: Served) -> bool:
        handler.send_response(200)
        handler._send_head(served, served.etag, len(BODY) + 100)
        handler.wfile.write(BODY)
        handler.close_connection = True
        return True

    origin.always["/a"] = short

    run = provision("a")

    assert run.code("a") in {"truncated", "too_slow"}
    assert not run.file("a.bin").exists()


def test_expired_signatures_are_asked_for_again(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    with Origin() as cdn:
        cdn.serve("/signed", BODY)
        fleet.add("a", origin.serve("/a", b"", redirect=f"{cdn.url}/signed?sig=1"), BODY)
        good = 0

        def expires(handler: Handler, served: Served) -> bool:
            nonlocal good
            good += 1
            if good % 3 == 0:
                handler._plain(403)
                return True
            return False

        cdn.always["/signed"] = expires

        run = provision("a")

    assert run.file("a.bin").read_bytes() == BODY
    assert len(origin.requests("/a")) > 1


def test_a_redirect_is_followed_once_and_remembered(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    with Origin() as cdn:
        cdn.serve("/signed", BODY)
        fleet.add("a", origin.serve("/a", b"", redirect=f"{cdn.url}/signed?sig=1"), BODY)

        run = provision("a", connections=1)

    assert run.outcome.ready == ("a",)
    assert len(origin.requests("/a")) == 1


@pytest.mark.parametrize("target", ["/a", "ftp://example.com/x", "http://[::bad", "s3://b/key"])
def test_redirects_that_lead_nowhere_are_told(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    target: str,
) -> None:
    fleet.add("a", origin.serve("/a", b"", redirect=target), BODY)

    run = provision("a")

    assert run.code("a") == "bad_redirect"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(404), "gone_upstream"),
        (status(410), "gone_upstream"),
        (status(401), "forbidden"),
        (status(403), "forbidden"),
        (status(451), "gone_upstream"),
        (web_page(200), "web_page"),
        (web_page(404), "gone_upstream"),
    ],
)
def test_what_no_retry_can_change_is_told_at_once(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    fault: Fault,
    code: str,
) -> None:
    a_model(origin, fleet)
    origin.always["/a"] = fault

    run = provision("a")

    assert run.code("a") == code
    assert len(origin.asked) == 1


def test_an_origin_that_denies_the_first_byte_of_a_file_is_broken(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    a_model(origin, fleet)
    origin.always["/a"] = status(416)

    run = provision("a", allow_unverified=True)

    assert run.code("a") == "origin_broken"


def test_an_origin_that_is_not_there_is_no_route(fleet: Fleet, provision: Provision) -> None:
    fleet.add("a", "http://127.0.0.1:9/a", BODY)
    fleet.add("b", "http://no-such-host.invalid/b", BODY)

    run = provision("a", "b")

    assert run.code("a") == run.code("b") == "no_route"


def test_an_origin_that_hangs_does_not_keep_other_models_waiting(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    settings: Settings,
) -> None:
    body = some_bytes(1000)
    fleet.add("slow", origin.serve("/slow", BODY), BODY)
    fleet.add("quick", origin.serve("/quick", body), body)

    def hang(handler: Handler, served: Served) -> bool:
        until(lambda: quick_is("ready"))
        return False

    def quick_is(state: str) -> bool:
        found = board.read(settings.models_dir).models.get("quick")
        return found is not None and found.state == state

    origin.fail("/slow", hang)

    run = provision("slow", "quick")

    ready_at = {str(e.model_id): n for n, e in enumerate(run.events) if e.fields.get("state") == "ready"}
    assert ready_at["quick"] < ready_at["slow"]
