"""News by one stream: what the page shows after the network, the server or the stream itself was away."""

import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.line import Line, cuttable
from tests.support.processes import wait_until
from tests.web.conftest import TOKEN
from tests.web.fleet import RunningFleet
from tests.web.studio import Studio, enter, expect_drawn, expect_state

CUT_SECONDS = 10.0


@pytest.fixture
def line(fleet: RunningFleet) -> Iterator[Line]:
    address = urlsplit(fleet.url)
    with cuttable(str(address.hostname), int(address.port or 0)) as line:
        yield line


@pytest.fixture
def far(studio: Studio, line: Line) -> Studio:
    """Return the page at the end of a line that can be cut; `fleet` asks the server itself."""
    return replace(studio, fleet=replace(studio.fleet, url=f"http://127.0.0.1:{line.port}"))


def id_of(fleet: RunningFleet, prompt: str) -> str:
    """Find the newest job of a prompt."""
    found = fleet.get("/v1/jobs?limit=100")["jobs"]
    return str(next(job["job_id"] for job in found if job["parameters"]["prompt"] == prompt))


def polls_of(requests: list[str], job_id: str) -> int:
    return sum(url.endswith(f"/v1/jobs/{job_id}") for url in requests)


def test_nothing_is_lost_when_the_network_drops_for_ten_seconds(far: Studio, line: Line, fleet: RunningFleet) -> None:
    nowhere = fleet.add_model("held-by-nobody")
    far.open().choose("fields")
    far.slide_to(100)
    running = far.send("being drawn when it drops", count="2")
    expect_state(running, "processing")
    waiting = far.send("waiting when it drops", count="1")
    refused = far.send("wrong, and ended before", width="100")
    expect_state(refused, "error")
    far.choose(nowhere)
    cancelled = far.send("cancelled by somebody else", width="192")
    expect_state(cancelled, "queued")

    line.cut()
    began = time.monotonic()
    expect(far.page.locator("#link-state")).to_contain_text("No connection")
    expect(running).to_contain_text("No connection. Trying again")
    fleet.post(f"/v1/jobs/{id_of(fleet, 'cancelled by somebody else')}/cancel", {})
    fleet.wait_for(id_of(fleet, "being drawn when it drops"))
    fleet.wait_for(id_of(fleet, "waiting when it drops"))
    expect_state(waiting, "queued")  # as far as the page knows
    time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
    line.mend()

    for card, state in ((running, "completed"), (waiting, "completed"), (cancelled, "cancelled"), (refused, "error")):
        expect_state(card, state)
        expect(card.locator(".trouble")).to_be_hidden()
    expect(running.locator("img")).to_have_count(2)
    expect_drawn(far.page.locator("#gallery img").first, 192, 128)
    expect(far.page.locator("#link-state")).to_be_hidden()
    assert far.page.title() == "Imagefleet"  # nothing is thought to be under way


def test_a_stream_comes_back_after_the_network_and_tells_of_what_follows(far: Studio, line: Line) -> None:
    streams = far.heard("request")
    far.open().choose("fields")
    far.slide_to(150)
    card = far.send("a long way through a bad line", count="16")
    expect_state(card, "processing")
    wait_until(lambda: any("/v1/events" in each.url for each in streams), "the page asks for the stream")

    line.cut()
    expect(card).to_contain_text("No connection")
    streams.clear()
    line.mend()

    expect(card.locator(".trouble")).to_be_hidden()
    wait_until(
        lambda: _wait(far) and any("/v1/events" in each.url for each in streams), "the stream is asked for again"
    )
    card.get_by_role("button", name="Cancel").click()
    expect_state(card, "cancelled")


def test_the_server_may_be_restarted_while_the_page_is_open(studio: Studio) -> None:
    studio.open().choose("fields")
    studio.slide_to(150)
    card = studio.send("drawn while the server goes", count="2")
    expect_state(card, "processing")
    (web,) = (
        each for each in psutil.Process(studio.fleet.pid).children() if "python:app.server" in " ".join(each.cmdline())
    )

    web.kill()

    expect_state(card, "completed")
    expect(card.locator("img")).to_have_count(2)
    expect(studio.page.locator("#link-state")).to_be_hidden()
    expect_state(studio.send("and it goes on", steps="4", count="1"), "completed")


def test_while_a_stream_tells_of_a_job_it_is_hardly_asked_for(studio: Studio) -> None:
    asked = studio.heard("request")
    studio.open().choose("fields")
    studio.slide_to(100)
    card = studio.send("told by the stream", count="4")
    expect(card).to_contain_text("picture 2 of 4")
    job_id = id_of(studio.fleet, "told by the stream")
    before = polls_of([each.url for each in asked], job_id)

    expect(card).to_contain_text("picture 3 of 4")  # after 100 steps, each of which changed the card

    assert polls_of([each.url for each in asked], job_id) - before <= 1
    expect_state(card, "completed")
    assert sum("/v1/events" in each.url for each in asked) == 1  # one for all jobs


def test_a_page_that_gets_no_stream_asks_instead(studio: Studio) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": {"code": "unavailable", "message": "no seat"}})

    studio.page.route("**/v1/events", refuse)
    studio.open().choose("fields")
    studio.slide_to(100)

    card = studio.send("seen without a stream", count="2")

    expect(card).to_contain_text("picture 2 of 2")
    expect_state(card, "completed")
    expect(studio.page.locator("#link-state")).to_be_hidden()


def test_a_page_without_jobs_takes_no_seat(studio: Studio) -> None:
    asked, given_up = studio.heard("request"), studio.heard("requestfailed")
    studio.open().choose("fields")
    assert not any("/v1/events" in each.url for each in asked)

    expect_state(studio.send("one job"), "completed")

    wait_until(
        lambda: _wait(studio) and any("/v1/events" in each.url for each in given_up), "the stream is closed by the page"
    )


def test_the_cookie_opens_the_stream_and_no_address_holds_a_token(page: Page, locked_fleet: RunningFleet) -> None:
    studio = Studio(page, locked_fleet)
    answers = studio.heard("response")
    page.goto(locked_fleet.url)
    enter(studio, TOKEN)
    expect(page.locator("#model-status")).to_contain_text("Ready")

    expect_state(studio.send("through the cookie", steps="50"), "completed")

    streams = [answer for answer in answers if "/v1/events" in answer.url]
    assert [answer.status for answer in streams] == [200]
    assert TOKEN not in "".join(answer.url for answer in answers)


def _wait(studio: Studio) -> bool:
    studio.page.wait_for_timeout(50)  # the browser tells of its requests only while it is listened to
    return True
