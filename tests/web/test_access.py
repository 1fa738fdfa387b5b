"""For everybody: axe-core finds nothing serious on any view, in either scheme, also with the dialogs open."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.web.studio import Studio, expect_state
from tests.web.test_extras import a_png, begin_with

GRAVE = {"serious", "critical"}


COLOURS_REST = """() => Promise.allSettled(document.getAnimations()
    .filter((each) => each.playState === "running" && each.effect?.getComputedTiming().endTime !== Infinity)
    .map((each) => each.finished)).then(() => undefined)"""
"""What fades in has no contrast yet, and on a busy computer for longer."""


def grave_findings(page: Page) -> list[str]:
    page.evaluate(COLOURS_REST)
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["make", "models", "engines", "fleet"])
def test_no_view_has_a_serious_barrier(studio: Studio, view: str, scheme: str) -> None:
    studio.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # a Literal
    studio.open(view)
    if view == "make":
        studio.choose("fields")
        expect_state(studio.send("for everybody"), "completed")
        expect_state(studio.send("refused", width="100"), "error")
        for section in ("beginning", "lora-section", "control-section"):
            studio.page.locator(f"#{section} > summary").click()
    else:
        expect(studio.page.locator(f"#view-{view}")).to_be_visible()

    assert grave_findings(studio.page) == []


def test_a_barrier_would_be_seen(studio: Studio) -> None:
    studio.open("fleet").page.evaluate("document.querySelector('main').append(new Image())")

    assert [finding for finding in grave_findings(studio.page) if finding.startswith("image-alt")]


def test_the_dialogs_have_no_serious_barrier(studio: Studio) -> None:
    studio.page.emulate_media(reduced_motion="reduce")
    studio.open().choose("fields")
    expect_state(studio.send("a picture to look at"), "completed")
    studio.page.locator("#gallery button").first.click()
    assert grave_findings(studio.page) == []

    studio.page.keyboard.press("Escape")
    begin_with(studio, a_png())
    studio.page.locator("#mask-paint").click()
    expect(studio.page.locator("#mask-canvas")).to_have_js_property("width", 96)

    assert grave_findings(studio.page) == []
