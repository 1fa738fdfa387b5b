"""A real browser before a real fleet. Both start once; each test has a browser profile of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support.browser import browser, page, profile  # noqa: F401  # fixtures
from tests.web.fleet import RunningFleet, running_fleet
from tests.web.origin import running_origin
from tests.web.stage import Stage, stage
from tests.web.studio import Studio

TOKEN = "open-sesame"
MACHINE_TOKEN = "wrench"


@pytest.fixture(scope="package")
def origin() -> Iterator[str]:
    with running_origin() as address:
        yield address


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[RunningFleet]:
    """Start a fleet that is open to everybody on this computer."""
    with running_fleet(tmp_path_factory.mktemp("fleet"), origin) as fleet:
        yield fleet


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def furnished(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Serve a fleet with something of everything, which stands still."""
    with stage(tmp_path_factory.mktemp("furnished"), sqlite_template) as found:
        yield found


@pytest.fixture(scope="package")
def locked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page of a fleet that asks for a token; returns its address."""
    folder = tmp_path_factory.mktemp("locked-stage")
    with stage(folder, sqlite_template, api_tokens=(TOKEN,), machine_token="wrench") as found:
        yield found.url


@pytest.fixture
def studio(page: Page, fleet: RunningFleet) -> Studio:  # noqa: F811  # the fixture
    return Studio(page, fleet)
