"""A real browser before a real fleet. Both start once; each test has a browser profile of its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.web.fleet import RunningFleet, running_fleet
from tests.web.origin import running_origin
from tests.web.stage import Stage, stage
from tests.web.studio import Studio

TOKEN = "open-sesame"
MACHINE_TOKEN = "wrench"

ARGUMENTS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE_MS = 60_000
"""Longer than anything takes on a computer that is busy with other things as well."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("there is no Chromium for the tests of the page: `apt-get install chromium`", pytrace=False)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def origin() -> Iterator[str]:
    with running_origin() as address:
        yield address


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[RunningFleet]:
    """Start a fleet that is open to everybody on this computer."""
    with running_fleet(tmp_path_factory.mktemp("fleet"), origin) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def locked_fleet(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[RunningFleet]:
    """Start a fleet that asks for a token."""
    folder = tmp_path_factory.mktemp("locked")
    with running_fleet(
        folder,
        origin,
        API_TOKENS=TOKEN,
        MACHINE_TOKEN=MACHINE_TOKEN,
        MACHINE_MODELS_NEEDED="fields",
        FLOWER_URL="http://127.0.0.1:5555",
    ) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def furnished(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Serve a fleet with something of everything, which stands still."""
    with stage(tmp_path_factory.mktemp("furnished"), sqlite_template) as found:
        yield found


@pytest.fixture(scope="session")
def locked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page of a fleet that asks for a token; returns its address."""
    folder = tmp_path_factory.mktemp("locked-stage")
    with stage(folder, sqlite_template, api_tokens=(TOKEN,), machine_token="wrench") as found:
        yield found.url


@pytest.fixture
def profile(browser: Browser) -> Iterator[BrowserContext]:
    profile = browser.new_context(viewport={"width": 1280, "height": 900})
    profile.set_default_timeout(PATIENCE_MS)
    yield profile
    profile.close()


@pytest.fixture
def page(profile: BrowserContext) -> Iterator[Page]:
    """Open a tab, and take every error in its console for a failure: a broken script, a breach of the policy."""
    page = profile.new_page()
    problems: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Chromium itself notes every answer of 400 and more, and every lost connection; tests ask for some.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    def fail(error: Any) -> None:
        problems.append(str(error))

    page.on("console", listen)
    page.on("pageerror", fail)
    yield page
    assert problems == []


@pytest.fixture
def studio(page: Page, fleet: RunningFleet) -> Studio:
    return Studio(page, fleet)
