"""The catalogue on the page: looked through, planned, added to, changed and deleted from."""

import re

from playwright.sync_api import expect

from tests.web.origin import SMALL, digest_of
from tests.web.studio import Studio, words


def test_the_catalogue_shows_how_far_the_fleet_is_with_each_model(studio: Studio) -> None:
    page = studio.open("models").page

    fields = page.locator("#catalogue > li").filter(has=page.get_by_role("heading", name="fields", exact=True))
    expect(fields).to_contain_text("Ready on 1 machine")
    expect(fields).to_contain_text("Colour fields.")
    expect(fields).to_have_attribute("data-state", "ready")


def test_the_catalogue_is_searched_and_filtered_by_kind(studio: Studio) -> None:
    studio.fleet.add_model("charcoal", kind="lora", description="like charcoal on paper")
    page = studio.open("models").page
    heads = page.locator("#catalogue h3")

    page.locator("#catalogue-search").fill("charcoal on")
    expect(heads).to_have_text(["charcoal"])
    expect(page.locator("#catalogue")).to_contain_text("on no live machine. One fetches it when a job needs it.")
    page.locator("#catalogue-kind").select_option("vae")

    expect(heads).to_have_count(0)
    expect(page.locator("#catalogue-empty")).to_be_visible()


def test_a_model_is_added_planned_changed_and_deleted(studio: Studio, origin: str) -> None:
    page = studio.open("models").page
    page.locator("#new-path").fill(f"{origin}/fields.bin")
    page.locator("#new-id").fill("from-the-page")
    page.locator("#new-hash").fill(digest_of(SMALL))
    page.locator("#new-kind").select_option("other")
    page.get_by_role("button", name="Add it").click()
    news = page.locator("#catalogue-news")
    expect(news).to_contain_text("A new machine would fetch 5 KB")
    expect(news).to_contain_text("MACHINE_MODELS_NEEDED=from-the-page")
    expect(news).to_contain_text(re.compile(r"easel would fetch 5 KB, and have \S+ .B left on its disk\."))
    card = page.locator("#catalogue > li").filter(has=page.get_by_role("heading", name="from-the-page", exact=True))

    card.get_by_role("button", name="Edit").click()
    page.locator("#new-description").fill("what it is for")
    page.get_by_role("button", name="Change it").click()
    expect(card).to_contain_text("what it is for")
    assert studio.fleet.get("/v1/models/from-the-page")["kind"] == "other"

    page.once("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)


def test_a_file_that_is_not_there_is_refused_in_the_servers_words(studio: Studio, origin: str) -> None:
    page = studio.open("models").page
    page.locator("#new-path").fill(f"{origin}/no-such-file.safetensors")

    page.get_by_role("button", name="Add it").click()

    expect(page.locator("#new-problem")).to_contain_text(words("404"))
    expect(page.locator("#new-path")).to_have_value(f"{origin}/no-such-file.safetensors")


def test_names_of_models_are_never_markup(studio: Studio) -> None:
    dialogs = studio.heard("dialog")
    evil = "<img src=x onerror=alert(1)>"
    studio.fleet.add_model("evil", description=evil)

    page = studio.open("models").page

    expect(page.locator("#catalogue")).to_contain_text(evil)
    assert page.locator("#catalogue img").count() == 0
    assert dialogs == []
