"""A gallery of ten thousand pictures: seen from the newest to the oldest, with never more than a few on the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import create_engine

from app.api.application import make_application
from app.core.fleet import Fleet, prepare_engine
from app.settings import Settings
from tests.support.archive import SHAPES, fill
from tests.support.fakes import MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.web import serving
from tests.web.fleet import RunningFleet
from tests.web.studio import Studio, expect_drawn

MANY = 10_000

FIRST_PAGE, PAGE = 30, 200
"""How many pictures the page asks for, first and while one scrolls."""

MOST_TILES = 150
"""Of a window of 1280 x 900 pixels and what is near it: three windows of small tiles."""

MOST_NODES = 1_500
"""Elements of the whole page, its dialogs and views among them."""

TO_THE_END = """async () => {
    const seen = {tiles: 0, nodes: 0, pictures: 0, prompts: new Set()};
    const more = document.querySelector("#gallery-more");
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const bottom = () => document.documentElement.scrollHeight - innerHeight;
    const count = () => {
        for (const each of document.querySelectorAll("#gallery img")) seen.prompts.add(each.alt);
        seen.tiles = Math.max(seen.tiles, document.querySelectorAll("#gallery li").length);
        seen.nodes = Math.max(seen.nodes, document.querySelectorAll("*").length);
        seen.pictures = Math.max(seen.pictures, document.images.length);
    };
    count();
    while (!more.hidden || scrollY < bottom() - 1) {
        scrollTo(0, Math.min(bottom(), scrollY + 2 * innerHeight));
        await frame();
        await frame();
        count();
    }
    return {...seen, prompts: seen.prompts.size};
}"""
"""Scrolls down, two windows at a time, until nothing more comes; counts what is on the page after each."""


STAND_STILL = "const at = performance.now(); performance.now = () => at;"
"""By the page's watch, so that it takes whoever scrolls for one who rushes, however long a busy computer takes."""

GO_ON = "delete performance.now"


@pytest.fixture(scope="module")
def archive(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Serve ten thousand pictures."""
    folder = tmp_path_factory.mktemp("archive")
    database = folder / "fleet.db"
    database.write_bytes(sqlite_template.read_bytes())
    # Who rushes by lets go of requests that a busy computer still answers: each has a thread and a connection here.
    engine = prepare_engine(create_engine(f"sqlite:///{database}", pool_size=100))
    fleet = Fleet(engine, RecordingDispatcher(), MemoryImages(), MemoryLive())
    fill(fleet, MANY)
    settings = Settings(data_dir=folder, database_url=f"sqlite:///{database}").completed()
    with serving(make_application(fleet, settings)) as url:
        yield RunningFleet(url)
    engine.dispose()


@pytest.fixture
def studio(page: Any, archive: RunningFleet) -> Studio:
    return Studio(page, archive)


def test_all_pictures_can_be_seen_and_the_page_stays_small(studio: Studio) -> None:
    asked = studio.heard("request")
    tiles = studio.open().page.locator("#gallery li")
    expect(tiles.first).to_be_attached()

    studio.page.evaluate(STAND_STILL)

    seen = studio.page.evaluate(TO_THE_END)

    assert seen["prompts"] == MANY + 1, seen
    assert seen["tiles"] <= MOST_TILES, seen
    assert seen["nodes"] <= MOST_NODES, seen
    assert seen["pictures"] <= MOST_TILES + 20, seen
    older = [request.url for request in asked if "&after=" in request.url]
    assert len(older) == len(set(older)) == -(-(MANY + 1 - FIRST_PAGE) // PAGE)
    thumbnails = [request.url for request in asked if request.url.endswith("/thumbnail")]
    assert len(thumbnails) <= MOST_TILES  # who rushes by asks for no pictures, only who rests
    studio.page.evaluate(GO_ON)
    expect_drawn(studio.page.get_by_alt_text("picture 0", exact=True), *SHAPES[0])
