"""From a prompt to pictures: sending, watching, cancelling, failing, and losing the network meanwhile."""

import re
from typing import Any

from playwright.sync_api import expect

from tests.web.fleet import LONG_COUNT, LONG_STEPS
from tests.web.studio import Studio, expect_drawn, expect_state, words

LONG = {"steps": str(LONG_STEPS), "count": str(LONG_COUNT)}


def test_a_prompt_becomes_a_picture_in_the_card_and_at_the_head_of_the_gallery(studio: Studio) -> None:
    studio.open().choose("fields")

    card = studio.send("a red circle on a blue background", width="320", height="64")

    expect_state(card, "completed")
    expect_drawn(card.locator("img"), 320, 64)
    first = studio.page.locator("#gallery img").first
    expect(first).to_have_attribute("alt", "a red circle on a blue background")
    expect_drawn(first, 320, 64)
    expect(studio.page.locator("#news")).to_have_text(words("done"))


def test_control_and_enter_send_from_the_prompt(studio: Studio) -> None:
    studio.open().choose("fields")
    studio.page.locator("#prompt").fill("two\nlines")

    studio.page.locator("#prompt").press("Control+Enter")

    expect_state(studio.page.locator("#jobs .card").first, "completed")
    assert studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["parameters"]["prompt"] == "two\nlines"


def test_many_jobs_can_be_sent_one_after_the_other(studio: Studio) -> None:
    studio.open().choose("fields")

    cards = [studio.send(f"number {number}", count="2") for number in range(4)]

    for card in cards:
        expect_state(card, "completed")
        expect(card.locator("img")).to_have_count(2)


def test_a_running_job_shows_its_progress_and_can_be_cancelled(studio: Studio) -> None:
    studio.open().choose("fields")
    card = studio.send("a long way to go", **LONG)
    expect_state(card, "processing")
    expect(card).to_contain_text(re.compile(rf"step \d+ of {LONG_STEPS}, picture \d+ of {LONG_COUNT}"))
    expect(card.get_by_role("progressbar")).not_to_have_js_property("value", 0)

    card.get_by_role("button", name="Cancel").click()

    expect_state(card, "cancelled")
    assert studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["status"] == "cancelled"


def test_a_waiting_job_says_what_it_waits_for_and_can_be_cancelled(studio: Studio) -> None:
    model = studio.fleet.add_model("not-anywhere")
    studio.open().choose(model)

    card = studio.send("wait for it")

    expect_state(card, "queued")
    expect(card).to_contain_text("no live machine holds not-anywhere")
    card.get_by_role("button", name="Cancel").click()
    expect_state(card, "cancelled")


def test_an_order_that_cannot_be_drawn_says_why_and_can_be_tried_again(studio: Studio) -> None:
    studio.open().choose("fields")

    card = studio.send("odd", width="100")

    expect_state(card, "error")
    expect(card).to_contain_text("width must be a positive multiple of 8, not 100")
    card.get_by_role("button", name="Try again").click()
    expect_state(card, "error")
    expect(studio.page.locator("#jobs .card")).to_have_count(1)
    card.get_by_role("button", name="Put this job away").click()
    expect(studio.page.locator("#jobs .card")).to_have_count(0)


def test_a_cancelled_job_can_be_tried_again(studio: Studio) -> None:
    studio.open().choose("fields")
    with studio.fleet.kept_busy():
        card = studio.send("on second thoughts", count="2")
        card.get_by_role("button", name="Cancel").click()
        expect_state(card, "cancelled")

        card.get_by_role("button", name="Try again").click()

        expect_state(card, "queued")
    expect_state(card, "completed")
    expect(card.locator("img")).to_have_count(2)


def test_finished_jobs_can_be_cleared_away_while_others_stay(studio: Studio) -> None:
    waiting = studio.fleet.add_model("still-waiting")
    studio.open().choose("fields")
    expect_state(studio.send("quick"), "completed")
    studio.choose(waiting)
    expect_state(studio.send("patient"), "queued")

    studio.page.get_by_role("button", name="Clear finished").click()

    expect(studio.page.locator("#jobs .card")).to_have_count(1)
    studio.card("patient").get_by_role("button", name="Cancel").click()
    expect_state(studio.card("patient"), "cancelled")


def test_a_job_that_has_not_ended_is_still_there_after_a_reload(studio: Studio) -> None:
    studio.open().choose("fields")
    with studio.fleet.kept_busy():
        expect_state(studio.send("hold on", count="2"), "queued")

        studio.page.reload()

        expect_state(studio.card("hold on"), "queued")
    expect_state(studio.card("hold on"), "completed")
    expect(studio.card("hold on").locator("img")).to_have_count(2)


def test_a_lost_network_only_delays_the_news(studio: Studio) -> None:
    studio.open().choose("fields")
    with studio.fleet.kept_busy():
        card = studio.send("through the storm")
        expect_state(card, "queued")
        job_id = studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["job_id"]

        studio.page.context.set_offline(True)

        expect(card).to_contain_text("No connection. Trying again")
        expect(studio.page.locator("#link-state")).to_contain_text("No connection")
    studio.fleet.wait_for(job_id)
    expect_state(card, "queued")  # as far as the page knows
    studio.page.context.set_offline(False)
    expect_state(card, "completed")
    expect(studio.page.locator("#link-state")).to_be_hidden()
    expect_drawn(card.locator("img"), 192, 128)


def test_an_order_that_the_network_swallowed_says_so(studio: Studio) -> None:
    studio.open().choose("fields")
    studio.page.context.set_offline(True)

    card = studio.send("into the void")

    expect_state(card, "error")
    expect(card).to_contain_text("could not be reached")
    studio.page.context.set_offline(False)
    card.get_by_role("button", name="Try again").click()
    expect_state(card, "completed")


def test_hostile_words_are_shown_as_words(studio: Studio) -> None:
    hostile = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    dialogs = studio.heard("dialog")
    about: dict[str, Any] = {"name": hostile, "save_path": "checkpoints/h", "description": hostile}
    model = studio.fleet.add_model("hostile", **about)
    studio.open().choose(model)
    expect(studio.page.locator("#model-about")).to_have_text(hostile)
    studio.choose("fields")

    card = studio.send(hostile)

    expect_state(card, "completed")
    expect(card.locator(".card-prompt")).to_have_text(hostile)
    tile = studio.page.locator("#gallery button").first
    expect(tile.locator("img")).to_have_attribute("alt", hostile)
    tile.click()
    expect(studio.page.locator("#viewer-prompt")).to_have_text(hostile)
    assert studio.page.evaluate("window.hit") is None
    assert dialogs == []


def test_a_running_job_shows_a_preview_and_the_time_it_takes_yet(studio: Studio) -> None:
    studio.open().choose("fields")
    expect_state(studio.send("to learn the pace"), "completed")

    card = studio.send("a long way to go, seen on the way", **LONG)

    expect(card.locator("canvas.preview")).to_be_visible()
    expect(card).to_contain_text("left")
    card.get_by_role("button", name="Cancel").click()
    expect_state(card, "cancelled")


def test_a_waiting_job_says_its_place_in_the_line(studio: Studio) -> None:
    studio.open().choose("fields")
    first = studio.send("the first one", **LONG)
    expect_state(first, "processing")

    second, third = studio.send("the second one"), studio.send("the third one")

    expect(second).to_contain_text("next in line")
    expect(third).to_contain_text("place 2 in line")
    for card in (third, second, first):
        card.get_by_role("button", name="Cancel").click()
        expect_state(card, "cancelled")
