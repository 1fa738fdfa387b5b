"""The page before a fleet that draws with the demo model: everything is real, from the prompt to the pixels."""

import base64
import io

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.shape_checker import check
from tests.support.servers import DEMO, Up
from tests.web.fleet import RunningFleet
from tests.web.studio import Studio, enter, expect_drawn, expect_state

RED, BLUE = "a large red circle on a white background", "a large blue circle on a white background"

MANY_STEPS = 150
"""So many that the page, however late it looks, sees a picture coming."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def studio(page: Page, up: Up) -> Studio:
    studio = Studio(page, RunningFleet(up.url, up.token))
    page.goto(up.url)
    enter(studio, up.token)
    expect(page.locator("#model-status")).to_contain_text("Ready")
    studio.choose(DEMO)
    return studio


def drawn(card: Locator) -> bytes:
    """Return the file of a card's picture, as the browser got it."""
    expect_state(card, "completed")
    picture = card.locator("img").first
    expect_drawn(picture, 128, 128)
    read = """async image => {
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
    }"""
    return base64.b64decode(picture.evaluate(read))


def test_a_prompt_becomes_a_picture_that_shows_it_and_the_picture_the_beginning_of_another(studio: Studio) -> None:
    page = studio.page
    studio.slide_to(MANY_STEPS)
    long = studio.send("a long way to go", count="16")
    expect(long.get_by_role("progressbar")).not_to_have_js_property("value", 0)
    long.get_by_role("button", name="Cancel").click()
    expect_state(long, "cancelled")
    page.locator("#seed").fill("1")
    studio.slide_to(60)

    red = drawn(studio.send(RED, count="1"))
    studio.slide_to(20)
    page.locator("#begin-file").set_input_files({"name": "red.png", "mimeType": "image/png", "buffer": red})
    expect(page.locator("#strength")).to_be_visible()
    page.locator("#strength").fill("0.6")
    blue = drawn(studio.send(BLUE))

    for file, prompt in ((red, RED), (blue, BLUE)):
        assert check(Image.open(io.BytesIO(file)), prompt).wrong == ()
    newest = studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]
    assert newest["parameters"]["strength"] == 0.6
