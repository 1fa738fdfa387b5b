"""News by one stream: what the page shows after the network, the server or the stream itself was away."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.error import URLError
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.line import Line, cuttable
from tests.support.processes import command_of, is_alive, wait_until
from tests.web.conftest import TOKEN
from tests.web.fleet import FEW, LONG_COUNT, LONG_STEPS, RunningFleet
from tests.web.studio import Studio, enter, expect_drawn, expect_state

CUT_SECONDS = 10.0

MUCH = 20
"""So many words about a job are enough to see who asked for them."""

NOTE_WORDS = """card => {
    window.told = new Set();
    new MutationObserver(() => window.told.add(card.querySelector(".detail").textContent))
        .observe(card, {subtree: true, childList: true, characterData: true});
}"""


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


def is_there(fleet: RunningFleet) -> bool:
    """Say whether the server answers."""
    try:
        return bool(fleet.get("/health"))
    except (URLError, ConnectionError, TimeoutError):
        return False


def servers(fleet: RunningFleet) -> list[psutil.Process]:
    """Return the web part, whose children answer; nothing while it is started anew."""
    return [each for each in psutil.Process(fleet.pid).children() if "python:app.server" in command_of(each)]


def polls_of(requests: list[str], job_id: str) -> int:
    return sum(url.endswith(f"/v1/jobs/{job_id}") for url in requests)


def test_nothing_is_lost_when_the_network_drops_for_ten_seconds(far: Studio, line: Line, fleet: RunningFleet) -> None:
    nowhere = fleet.add_model("held-by-nobody")
    far.open().choose(nowhere)
    cancelled = far.send("cancelled by somebody else")
    expect_state(cancelled, "queued")
    far.choose("fields")
    refused = far.send("wrong, and ended before", width="100")
    expect_state(refused, "error")
    running = far.send("being drawn when it drops", width="192", steps=str(LONG_STEPS), count=str(FEW))
    expect_state(running, "processing")
    waiting = far.send("waiting when it drops", steps="4", count="1")
    expect_state(waiting, "queued")

    line.cut()
    began = time.monotonic()
    expect(far.page.locator("#link-state")).to_contain_text("No connection")
    expect(running).to_contain_text("No connection. Trying again")
    fleet.post(f"/v1/jobs/{id_of(fleet, 'cancelled by somebody else')}/cancel", {})
    fleet.hurry(id_of(fleet, "being drawn when it drops"))
    fleet.wait_for(id_of(fleet, "waiting when it drops"))
    expect_state(waiting, "queued")  # as far as the page knows
    time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
    line.mend()

    for card, state in ((running, "completed"), (waiting, "completed"), (cancelled, "cancelled"), (refused, "error")):
        expect_state(card, state)
        expect(card.locator(".trouble")).to_be_hidden()
    expect(running.locator("img")).to_have_count(FEW)
    expect_drawn(far.page.locator("#gallery img").first, 192, 128)
    expect(far.page.locator("#link-state")).to_be_hidden()
    assert far.page.title() == "Imagefleet"  # nothing is thought to be under way


def test_a_stream_comes_back_after_the_network_and_tells_of_what_follows(far: Studio, line: Line) -> None:
    streams = far.heard("request")
    far.open().choose("fields")
    card = far.send("a long way through a bad line", steps=str(LONG_STEPS), count=str(LONG_COUNT))
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
    studio.slide_to(LONG_STEPS)
    card = studio.send("drawn while the server goes", count=str(FEW))
    expect_state(card, "processing")
    (web,) = servers(studio.fleet)
    orphans = web.children()

    web.kill()
    wait_until(lambda: not any(map(is_alive, orphans)), "what answered for it has ended too")
    wait_until(lambda: servers(studio.fleet) not in ([], [web]) and is_there(studio.fleet), "the server is back")
    studio.fleet.hurry(id_of(studio.fleet, "drawn while the server goes"))

    expect_state(card, "completed")
    expect(card.locator("img")).to_have_count(FEW)
    expect(studio.page.locator("#link-state")).to_be_hidden()
    expect_state(studio.send("and it goes on", steps="4", count="1"), "completed")


def test_while_a_stream_tells_of_a_job_it_is_hardly_asked_for(studio: Studio) -> None:
    asked = studio.heard("request")
    studio.open().choose("fields")
    studio.slide_to(LONG_STEPS)
    card = studio.send("told by the stream", count=str(LONG_COUNT))
    expect_state(card, "processing")
    card.evaluate(NOTE_WORDS)
    job_id = id_of(studio.fleet, "told by the stream")
    before = polls_of([each.url for each in asked], job_id)

    wait_until(lambda: studio.page.evaluate("told.size") >= MUCH, "the page is told how far it is")

    polls = polls_of([each.url for each in asked], job_id) - before
    assert 2 * polls <= studio.page.evaluate("told.size")  # who only asks is told one thing by each answer
    assert sum("/v1/events" in each.url for each in asked) == 1  # one for all jobs
    card.get_by_role("button", name="Cancel").click()
    expect_state(card, "cancelled")


def test_a_page_that_gets_no_stream_asks_instead(studio: Studio) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": {"code": "unavailable", "message": "no seat"}})

    studio.page.route("**/v1/events", refuse)
    studio.open().choose("fields")
    studio.slide_to(LONG_STEPS)

    card = studio.send("seen without a stream", count=str(FEW))

    expect(card).to_contain_text(re.compile(r"step [1-9]\d* of"))
    how_far = card.locator(".detail")
    expect(how_far).not_to_have_text(how_far.text_content() or "")
    studio.fleet.hurry(id_of(studio.fleet, "seen without a stream"))
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

    with locked_fleet.kept_busy():
        card = studio.send("through the cookie")
        wait_until(
            lambda: _wait(studio) and [each for each in answers if "/v1/events" in each.url], "the stream is answered"
        )
    expect_state(card, "completed")

    assert {answer.status for answer in answers if "/v1/events" in answer.url} == {200}
    assert TOKEN not in "".join(answer.url for answer in answers)


def _wait(studio: Studio) -> bool:
    studio.page.wait_for_timeout(50)  # the browser tells of its requests only while it is listened to
    return True
