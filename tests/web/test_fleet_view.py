"""The fleet: machines, and how far each is with its models."""

import re

from playwright.sync_api import expect

from tests.web.studio import Studio


def test_the_fleet_shows_a_machine_and_what_is_ready_on_it(studio: Studio) -> None:
    studio.open()

    studio.page.get_by_role("link", name="Fleet", exact=True).click()

    machine = studio.page.locator(".machine").filter(has_text="easel")
    expect(machine).to_have_attribute("data-state", "ready")
    expect(machine).to_contain_text("alive")
    expect(machine.locator(".holding").filter(has_text="fields")).to_have_attribute("data-state", "ready")
    expect(studio.page.locator("#generate-form")).to_be_hidden()


def test_the_fleet_shows_how_far_a_download_is(studio: Studio) -> None:
    studio.open("fleet")

    coming = studio.page.locator(".holding").filter(has_text="slow")
    expect(coming).to_have_attribute("data-state", "downloading")
    expect(coming).to_contain_text(re.compile(r"\d+ % · [\d.]+ [KM]B of 40 MB"))
    expect(coming.get_by_role("progressbar")).to_be_visible()


def test_the_fleet_says_why_a_model_could_not_be_had(studio: Studio) -> None:
    studio.open("fleet")

    failed = studio.page.locator(".holding").filter(has_text="damaged").first
    expect(failed.locator(".reason")).to_contain_text("the catalogue says sha256:")


def test_a_view_has_an_address_of_its_own(studio: Studio) -> None:
    studio.open("fleet")
    expect(studio.page.locator("#view-fleet")).to_be_visible()

    studio.page.go_back()
    studio.open()

    expect(studio.page.get_by_role("link", name="Make")).to_have_attribute("aria-current", "page")
    expect(studio.page.locator("#view-fleet")).to_be_hidden()


def test_a_machine_is_drained_and_put_back_to_work(studio: Studio) -> None:
    card = studio.open("fleet").page.locator(".machine").filter(has_text="easel")
    try:
        card.get_by_role("button", name="Drain").click()
        expect(card).to_contain_text("it takes no new jobs")

        card.get_by_role("button", name="Put back to work").click()

        expect(card).not_to_contain_text("it takes no new jobs")
        expect(card.get_by_role("button", name="Drain")).to_be_visible()
    finally:
        studio.fleet.post("/v1/machines/easel/undrain", {})
