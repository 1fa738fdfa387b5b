"""A real browser: it starts once for a folder of tests, and each test has a profile of its own."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

UNWANTED = (
    "WebUIOmniboxPopup",  # two pages of the browser's own for each profile: two thirds of what a profile costs
    "WebUIOmniboxAimPopup",
    # What Playwright turns off itself; only the last list counts.
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "LensOverlay",
    "MediaRouter",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "TcpPortRandomizationWin",
    "OptimizationHints",
    "NetworkTimeServiceQuerying",
    "AimEnabled",
    "PreconnectToSearch",
)
"""Features of Chromium that no test looks at."""

ARGUMENTS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(UNWANTED)}",
)

PATIENCE_MS = 180_000
"""Longer than anything takes on the busiest computer: only what never comes is waited for so long."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("there is no Chromium for the tests of the page: `apt-get install chromium`", pytrace=False)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), timeout=PATIENCE_MS)
        yield browser
        browser.close()


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
