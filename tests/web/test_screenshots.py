"""Pictures of every view, in `tests/web/screenshots/`, for people to look at. Git ignores them.

What is judged here: that a view has come, that nothing moved meanwhile, and that nothing is wider than its window.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.support.processes import wait_until
from tests.web.stage import Stage

FOLDER = Path(__file__).parent / "screenshots"


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look at the page."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"] = "light"


LOOKS = (
    Look("light", 1280, 900),
    Look("dark", 1280, 900, "dark"),
    Look("phone", 375, 812),
    Look("wide", 2560, 1440),
)

MORE = ("dark", "wide")
"""Looks that only `make screenshots` takes: they cost every run of the tests half a minute, and move nothing else."""

HIGHEST = 4000
"""Most pixels of a picture's height."""

MOST_SHIFT = 0.02
"""Cumulative layout shift of a view; 0.1 is what https://web.dev/articles/cls calls good."""

NOTE_SHIFTS = """
    window.shifts = [];
    window.noteShifts = (entries) => window.shifts.push(...entries.map((each) => ({
        value: each.value,
        moved: each.sources.map(({node, previousRect, currentRect}) =>
            [node?.id || node?.className || node?.textContent, previousRect.y, currentRect.y]),
    })));
    window.shiftWatcher = new PerformanceObserver((list) => window.noteShifts(list.getEntries()));
    window.shiftWatcher.observe({type: "layout-shift", buffered: true});
"""

TAKE_SHIFTS = """async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    await new Promise((done) => setTimeout(done, 50));
    await frame();
    await frame();
    window.noteShifts(window.shiftWatcher.takeRecords());
    return window.shifts.splice(0);
}"""
"""What was moved is known when the next frame begins, however long a busy computer takes for one."""

PICTURES_CAME = """async () => {
    while (![...document.images].every((each) => each.complete)) await new Promise((done) => setTimeout(done, 30));
}"""


def require_no_shift(page: Page) -> None:
    """Ask that nothing has moved of itself since the page came, or since this was last asked."""
    found = page.evaluate(TAKE_SHIFTS)
    assert sum(each["value"] for each in found) <= MOST_SHIFT, "\n".join(map(str, found))


def photographed(page: Page, look: Look, name: str, *, whole: bool = False) -> None:
    """Write what is to be seen into the folder."""
    require_no_shift(page)
    if whole:  # a window as high as the page: what sticks to the window's edge stands where it belongs
        height = page.evaluate("document.documentElement.scrollHeight")
        resize(page, look.width, min(height, HIGHEST))
    page.evaluate(PICTURES_CAME)
    page.screenshot(path=FOLDER / f"{name}-{look.name}.png", animations="disabled")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    resize(page, look.width, look.height)
    page.evaluate(TAKE_SHIFTS)


def resize(page: Page, width: int, height: int) -> None:
    """Give the window a size, and wait until it has it."""
    page.set_viewport_size({"width": width, "height": height})
    wait_until(lambda: page.evaluate("[innerWidth, innerHeight]") == [width, height], "the window has its size")


@pytest.mark.parametrize(
    "look",
    [pytest.param(look, id=look.name, marks=[pytest.mark.screenshots] * (look.name in MORE)) for look in LOOKS],
)
def test_every_view_is_photographed(page: Page, furnished: Stage, locked: str, look: Look) -> None:
    url, jobs = furnished.url, [str(job_id) for job_id in furnished.jobs]
    page.emulate_media(color_scheme=look.scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": look.width, "height": look.height})
    page.add_init_script(NOTE_SHIFTS)
    is_phone = look.name == "phone"
    page.goto(url)
    expect(page.locator("#gallery img").first).to_be_visible()
    expect(page.locator("#model option").first).to_be_attached()
    page.locator("#prompt").fill("a harbour at dusk, fishing boats")
    photographed(page, look, "make", whole=is_phone)
    page.evaluate("jobs => localStorage.setItem('imagefleet.jobs', JSON.stringify(jobs))", jobs)
    page.reload()
    expect(page.locator("#jobs .card")).to_have_count(len(jobs))
    expect(page.locator("#jobs .preview")).to_be_visible()
    page.locator("#jobs-title").scroll_into_view_if_needed()
    photographed(page, look, "watch", whole=is_phone)
    page.evaluate("document.querySelector('#gallery-title').scrollIntoView()")
    photographed(page, look, "gallery")
    page.locator("#gallery button").nth(2).click()
    expect(page.locator("#viewer-picture")).to_be_visible()
    photographed(page, look, "viewer")
    page.keyboard.press("Escape")
    page.evaluate(TAKE_SHIFTS)
    for section in ("beginning", "lora-section", "control-section", "more-section"):
        page.locator(f"#{section} > summary").click()
    page.locator("#hires").fill("2")
    expect(page.locator("#hires-by option").nth(1)).to_be_attached()
    page.locator("#more-section").scroll_into_view_if_needed()
    page.evaluate(TAKE_SHIFTS)  # who opens a section wants the rest to make room
    photographed(page, look, "sections", whole=is_phone)
    for view, shown in (("fleet", "#machines > li"), ("models", "#catalogue > li"), ("engines", "#engines > li")):
        page.goto(f"{url}/?{view}#{view}")  # a load of its own
        expect(page.locator(shown).first).to_be_visible()
        photographed(page, look, view, whole=is_phone)
    page.goto(locked)
    expect(page.locator("#token-dialog")).to_be_visible()
    photographed(page, look, "login")
    if look.name != "wide":  # Swagger UI looks the same there, and takes two seconds
        page.goto(f"{url}/doc")
        expect(page.locator(".swagger-ui .opblock").first).to_be_visible()
        page.evaluate(TAKE_SHIFTS)  # its own affair
        photographed(page, look, "doc")
