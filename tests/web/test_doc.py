"""/doc in a browser: every dialect's routes, to read and to try, with nothing from elsewhere."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests
from playwright.sync_api import Page, Request, expect

from tests.support.broker import BrokerServer
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.servers import Web
from tests.web.conftest import TOKEN
from tests.web.test_access import grave_findings

OPERATION = ".opblock"
SDAPI = "sdapi, Automatic1111's orders without waiting"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, broker_server: BrokerServer) -> Iterator[str]:
    """Run the web part alone; it asks for a token. Returns its address."""
    web = Web(tmp_path_factory.mktemp("doc"), broker_server.url, API_TOKENS=TOKEN, MACHINE_TOKEN="wrench")
    web.migrate()
    web.start()
    yield web.url
    web.stop()


@pytest.fixture
def elsewhere(page: Page, server: str) -> list[str]:
    """Note every request that does not go to our own server."""
    found: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((server, "data:", "blob:")):
            found.append(request.url)

    page.on("request", note)
    return found


def seen_by_scrolling(page: Page) -> set[str]:
    """Scroll from top to end, and return the routes that were shown: of many, Swagger UI has only the near ones."""
    seen: set[str] = set()
    page.evaluate("scrollTo(0, 0)")
    while True:
        seen |= set(page.locator("[data-path]").evaluate_all("found => found.map((each) => each.dataset.path)"))
        before = page.evaluate("scrollY")
        page.evaluate("scrollBy(0, innerHeight / 2)")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        if page.evaluate("scrollY") == before:
            return seen


def test_the_page_shows_the_routes_of_every_dialect_and_asks_nobody_else(
    page: Page, server: str, elsewhere: list[str]
) -> None:
    documented = set(requests.get(f"{server}/openapi.json", timeout=WAIT_SECONDS).json()["paths"])
    page.goto(f"{server}/doc")
    expect(page.locator(OPERATION).first).to_be_visible()

    wait_until(lambda: documented <= seen_by_scrolling(page), "every route is shown")
    page.get_by_label("Select a definition").select_option(label=SDAPI)
    expect(page.locator(OPERATION)).to_have_count(16)
    assert elsewhere == []


def test_a_route_can_be_tried_with_the_token_behind_the_button_by_everybody(page: Page, server: str) -> None:
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto(f"{server}/doc?urls.primaryName={quote(SDAPI)}")
    expect(page.locator(OPERATION)).to_have_count(16)
    jobs = page.locator(".opblock-get:has([data-path='/sdapi/v1/jobs'])")

    page.get_by_role("button", name="Authorize").first.click()
    assert grave_findings(page) == []  # the dialog, and the page behind it
    page.get_by_label("auth-bearer-value").fill(TOKEN)
    page.get_by_label("Apply credentials").click()
    page.get_by_role("button", name="Close").last.click()
    jobs.locator(".opblock-summary-control").click()
    jobs.get_by_role("button", name="Try it out").click()
    jobs.get_by_role("button", name="Execute").click()

    expect(jobs.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(jobs.locator(".live-responses-table")).to_contain_text('"summary"')
    page.locator(".opblock-post .opblock-summary-control").first.click()
    expect(page.locator(".opblock-post .microlight").first).to_be_visible()
    assert grave_findings(page) == []
    page.get_by_role("button", name="Switch to dark mode").click()
    assert grave_findings(page) == []
