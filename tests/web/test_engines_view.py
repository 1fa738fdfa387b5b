"""Engines on the page: made, started, drawn with, stopped and deleted."""

from playwright.sync_api import Locator, expect

from tests.web.studio import Studio, expect_state, words


def an_engine(studio: Studio) -> Locator:
    """Make an engine of `fields`, and return its card."""
    page = studio.open("engines").page
    before = page.locator("#engines > li").count()
    page.locator("#engine-checkpoint").select_option("fields")
    page.locator("#engine-steps").fill("3")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#engines > li")).to_have_count(before + 1)
    return page.locator("#engines > li").last


def test_an_engine_is_made_started_drawn_with_stopped_and_deleted(studio: Studio) -> None:
    card, page = an_engine(studio), studio.page
    expect(card).to_contain_text("Closed")
    card.get_by_role("button", name="Start").click()
    expect(card).to_contain_text("Ready on easel")
    expect(card).to_contain_text(words("of memory, estimated"))

    page.get_by_role("link", name="Make", exact=True).click()
    page.locator("#model").select_option(label="Engine: fields")
    expect(page.locator("#steps")).to_have_value("3")
    expect(page.locator("#model-status")).to_contain_text("Ready in the memory of easel")
    expect_state(studio.send("drawn by an engine"), "completed")
    assert studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["engine_id"]

    page.get_by_role("link", name="Engines", exact=True).click()
    card.get_by_role("button", name="Stop").click()
    expect(card).to_contain_text("Closed")
    page.once("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Delete").click()
    expect(page.locator("#engines > li")).to_have_count(0)


def test_what_the_server_refuses_is_told_in_its_words(studio: Studio) -> None:
    page = studio.open("engines").page
    page.locator("#engine-checkpoint").select_option("fields")
    page.locator("#engine-guidance").fill("1000")

    page.get_by_role("button", name="Make it").click()

    expect(page.locator("#engine-problem")).to_contain_text("default_cfg")
