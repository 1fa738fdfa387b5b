"""The gallery and the full view of one picture."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

from PIL import Image
from playwright.sync_api import Error, expect

from tests.web.studio import Studio, expect_drawn, expect_state

PAGE = 30
"""Jobs that the page asks for at once."""


def test_the_newest_pictures_come_first(studio: Studio) -> None:
    for name in ("first", "second", "third"):
        studio.fleet.wait_for(studio.fleet.order(prompt=name))

    studio.open()

    tiles = studio.page.locator("#gallery img")
    for position, name in enumerate(("third", "second", "first")):
        expect(tiles.nth(position)).to_have_attribute("alt", name)


def test_older_pictures_are_fetched_while_one_scrolls(studio: Studio) -> None:
    oldest = studio.fleet.order(prompt="the very old one", width=64, height=64, steps=1)
    orders = [studio.fleet.order(prompt="one of many", width=512, height=512, steps=1) for _ in range(PAGE + 5)]
    for job_id in (oldest, *orders):
        studio.fleet.wait_for(job_id)
    studio.open()
    old = studio.page.get_by_alt_text("the very old one")
    expect(studio.page.locator("#gallery li").first).to_be_attached()
    expect(old).to_have_count(0)

    studio.page.mouse.move(800, 500)
    while not old.count():
        studio.page.mouse.wheel(0, 2_000)
        studio.page.wait_for_timeout(50)

    old.scroll_into_view_if_needed()
    expect_drawn(old, 64, 64)


def test_the_full_view_is_led_by_the_keyboard(studio: Studio) -> None:
    for name in ("left", "middle", "right"):
        studio.fleet.wait_for(studio.fleet.order(prompt=name, width=128, height=64))
    page = studio.open().page
    page.get_by_role("button", name="middle").first.focus()

    page.keyboard.press("Enter")
    shown = page.locator("#viewer-prompt")
    expect(shown).to_have_text("middle")
    expect_drawn(page.locator("#viewer-picture"), 128, 64)
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_text("left")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Newer picture").press("Enter")  # the last time: it is switched off under the focus
    expect(shown).to_have_text("right")
    page.keyboard.press("ArrowLeft")
    expect(shown).to_have_text("right")
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_text("middle")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")

    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.get_by_role("button", name="right").first).to_be_focused()


def test_the_full_view_tells_all_parameters(studio: Studio) -> None:
    order = {
        "prompt": "all of it",
        "negative_prompt": "nothing",
        "steps": 3,
        "guidance_scale": 4.5,
        "seed": 77,
        "scheduler": "Heun",
    }
    studio.fleet.wait_for(studio.fleet.order(**order))
    studio.open()

    studio.page.get_by_role("button", name="all of it").first.click()

    told = studio.page.locator("#viewer-parameters")
    for text in ("fields", "nothing", "192 \u00d7 128", "3", "4.5", "77", "Heun", "image/png"):
        expect(told.get_by_text(text, exact=True)).to_be_visible()


def test_the_settings_of_a_picture_can_be_used_again(studio: Studio) -> None:
    order = {
        "prompt": "once more",
        "negative_prompt": "less",
        "steps": 9,
        "width": 256,
        "seed": 1234,
        "scheduler": "DDIM",
    }
    studio.fleet.wait_for(studio.fleet.order(**order))
    page = studio.open().page
    page.get_by_role("button", name="once more").first.click()

    page.get_by_role("button", name="Use these settings").click()

    expect(page.locator("#viewer")).to_be_hidden()
    wanted = {
        "prompt": "once more",
        "negative-prompt": "less",
        "steps": "9",
        "width": "256",
        "height": "128",
        "seed": "1234",
    }
    for name, value in wanted.items():
        expect(page.locator(f"#{name}")).to_have_value(value)
    expect(page.locator("#steps-value")).to_have_text("9")
    expect(page.locator("#scheduler")).to_have_value("DDIM")
    expect(page.locator("#prompt")).to_be_focused()


def test_all_parameters_can_be_copied_as_one_text(studio: Studio) -> None:
    studio.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    studio.fleet.wait_for(studio.fleet.order(prompt="copy me", steps=3, seed=5))
    page = studio.open().page
    page.get_by_role("button", name="copy me").first.click()

    page.get_by_role("button", name="Copy", exact=True).click()

    expect(page.locator("#viewer-news")).to_contain_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "copy me\nSteps: 3, Sampler: Euler a, CFG scale: 6.5, Seed: 5, Size: 192x128, Model: fields"


def test_a_picture_can_be_downloaded_under_a_telling_name(studio: Studio, tmp_path: Path) -> None:
    studio.fleet.wait_for(studio.fleet.order(prompt="take me home", seed=9))
    page = studio.open().page
    page.get_by_role("button", name="take me home").first.click()

    with page.expect_download() as coming:
        page.get_by_role("button", name="Download").click()

    assert coming.value.suggested_filename.startswith("fields-9-")
    target = tmp_path / coming.value.suggested_filename
    coming.value.save_as(target)
    with Image.open(target) as picture:
        assert (picture.format, picture.size) == ("PNG", (192, 128))


def test_pictures_are_looked_for_by_words_model_and_time(studio: Studio) -> None:
    for name in ("a brown owl", "a snowy owl", "a barn"):
        studio.fleet.wait_for(studio.fleet.order(prompt=name))
    page = studio.open().page
    tiles = page.locator("#gallery img")

    page.locator("#gallery-search").fill("OWL")
    expect(tiles).to_have_count(2)
    expect(tiles.first).to_have_attribute("alt", "a snowy owl")
    page.locator("#gallery-days").select_option("7")
    page.locator("#gallery-model").select_option("fields")
    expect(tiles).to_have_count(2)
    page.locator("#gallery-model").select_option("slow")

    expect(tiles).to_have_count(0)
    expect(page.locator("#gallery-none")).to_be_visible()


def test_a_favourite_is_marked_and_can_be_looked_for(studio: Studio) -> None:
    studio.fleet.wait_for(studio.fleet.order(prompt="the dearest of all"))
    page = studio.open().page
    page.get_by_role("button", name="the dearest of all").first.click()

    page.locator("#viewer-favourite").click()
    expect(page.locator("#viewer-favourite")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    page.locator("#gallery-favourites").click()

    expect(page.locator("#gallery img").first).to_have_attribute("alt", "the dearest of all")
    page.reload()
    tile = page.locator("#gallery li").filter(has=page.get_by_alt_text("the dearest of all")).first
    expect(tile).to_have_attribute("data-favourite", "yes")


def test_a_deleted_picture_can_be_brought_back_for_a_while(studio: Studio) -> None:
    studio.fleet.wait_for(studio.fleet.order(prompt="deleted by mistake"))
    now = datetime.now(UTC)
    studio.page.clock.install(time=now)
    page = studio.open().page
    page.get_by_role("button", name="deleted by mistake").first.wait_for()
    page.clock.pause_at(now + timedelta(days=1))  # a busy computer may take longer than there is to regret it
    page.get_by_role("button", name="deleted by mistake").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_alt_text("deleted by mistake")).to_have_count(0)

    page.get_by_role("button", name="Undo").click()

    page.keyboard.press("Escape")
    expect(page.locator("#gallery").get_by_alt_text("deleted by mistake")).to_have_count(1)


def delete(studio: Studio, prompt: str) -> str:
    """Draw a picture, and delete it on a page that stays within the time to regret it; returns the job's id."""
    studio.fleet.wait_for(studio.fleet.order(prompt="stays on the wall"))
    job_id = str(studio.fleet.wait_for(studio.fleet.order(prompt=prompt))["job_id"])
    now = datetime.now(UTC)
    studio.page.clock.install(time=now)
    page = studio.open().page
    page.get_by_role("button", name=prompt).first.wait_for()
    page.clock.pause_at(now + timedelta(hours=1))
    page.get_by_role("button", name=prompt).first.click()
    page.keyboard.press("Delete")
    expect(page.locator("#gallery").get_by_alt_text(prompt)).to_have_count(0)
    return job_id


def wait_until_deleted(studio: Studio, job_id: str) -> None:
    while studio.fleet.get(f"/v1/jobs/{job_id}")["images"]:
        sleep(0.05)


def test_a_page_that_is_left_deletes_for_good_at_once(studio: Studio) -> None:
    job_id = delete(studio, "not worth keeping")

    studio.page.evaluate("() => { dispatchEvent(new PageTransitionEvent('pagehide')); }")

    wait_until_deleted(studio, job_id)


def test_what_a_page_could_not_delete_any_more_is_deleted_by_the_next_one(studio: Studio) -> None:
    job_id = delete(studio, "gone with the page")
    with suppress(Error), studio.page.expect_event("crash"):
        studio.page.goto("chrome://crash")
    assert studio.fleet.get(f"/v1/jobs/{job_id}")["images"]

    following = Studio(studio.page.context.new_page(), studio.fleet).open()
    studio.page.close()
    expect(following.page.locator("#gallery").get_by_alt_text("stays on the wall").first).to_be_visible()
    expect(following.page.locator("#gallery").get_by_alt_text("gone with the page")).to_have_count(0)
    following.page.clock.resume()

    wait_until_deleted(studio, job_id)
    while following.remembered("imagefleet.leaving") != "{}":
        sleep(0.05)


def test_a_deleted_picture_does_not_come_back_with_a_list_that_still_tells_of_it(studio: Studio) -> None:
    delete(studio, "listed once more")
    page = studio.page

    with page.expect_response("**/v1/images?*"):
        page.evaluate("() => { document.dispatchEvent(new Event('visibilitychange')); }")
    page.keyboard.press("Escape")

    expect(page.locator("#gallery").get_by_alt_text("stays on the wall").first).to_be_visible()
    expect(page.locator("#gallery").get_by_alt_text("listed once more")).to_have_count(0)


def test_a_picture_is_replayed_as_a_new_job(studio: Studio) -> None:
    studio.fleet.wait_for(studio.fleet.order(prompt="the same again", seed=11))
    page = studio.open().page
    page.get_by_role("button", name="the same again").first.click()

    page.get_by_role("button", name="Replay").click()

    expect(page.locator("#viewer")).to_be_hidden()
    expect_state(studio.card("the same again"), "completed")
    expect(page.locator("#gallery").get_by_alt_text("the same again")).to_have_count(2)
