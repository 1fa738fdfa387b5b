"""What can be seen of a fleet that stands still: barriers for some, models as published, fields that few use."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from app.core.tables import Machine
from tests.builders import a_machine
from tests.support.processes import wait_until
from tests.web.stage import Stage
from tests.web.studio import expect_drawn
from tests.web.test_access import grave_findings
from tests.web.test_screenshots import NOTE_SHIFTS, require_no_shift


def test_a_shift_would_be_seen(page: Page, furnished: Stage) -> None:
    page.add_init_script(NOTE_SHIFTS)
    page.goto(furnished.url)
    expect(page.locator("#gallery img").first).to_be_visible()

    page.evaluate("document.querySelector('main').style.paddingTop = '200px'")

    with pytest.raises(AssertionError, match="view-make"):
        require_no_shift(page)


def test_no_open_section_or_card_has_a_serious_barrier(page: Page, furnished: Stage) -> None:
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    jobs = json.dumps([str(job_id) for job_id in furnished.jobs])
    page.add_init_script(f"localStorage.setItem('imagefleet.jobs', {json.dumps(jobs)});")
    page.goto(furnished.url)
    expect(page.locator("#jobs .preview")).to_be_visible()
    page.locator("#more-section > summary").click()
    page.locator("#hires").fill("2")
    assert grave_findings(page) == []

    page.goto(f"{furnished.url}/#models")
    expect(page.locator("#catalogue .model-picture")).to_be_visible()
    assert grave_findings(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_question_for_a_token_has_no_serious_barrier(page: Page, locked: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto(locked)
    expect(page.locator("#token-dialog")).to_be_visible()

    assert grave_findings(page) == []


NOTE_MISSES = """
    new MutationObserver(() => { window.missed ||= document.querySelector("#gallery img.missing") !== null; })
        .observe(document, {subtree: true, attributes: true, attributeFilter: ["class"]});
"""
"""A picture is missed for a second only, and whoever looks now and then does not see it."""


def test_a_picture_that_did_not_come_is_asked_for_again(page: Page, furnished: Stage) -> None:
    refused: set[str] = set()

    def refuse_once(route: Route) -> None:
        is_first = route.request.url not in refused
        refused.add(route.request.url)
        route.fulfill(status=503) if is_first else route.continue_()

    page.route("**/thumbnail", refuse_once)
    page.add_init_script(NOTE_MISSES)
    page.goto(furnished.url)

    wait_until(lambda: page.evaluate("window.missed"), "a picture is missed")
    expect(page.locator("#gallery img.missing")).to_have_count(0)
    expect_drawn(page.get_by_alt_text("three pears on blue linen").first, 160, 128)


def test_a_model_is_shown_as_its_publisher_shows_it_with_a_picture_of_ours(page: Page, furnished: Stage) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{furnished.url}/#models")
    card = page.locator("#catalogue > li").filter(has=page.get_by_role("heading", name="dreamy-xl", exact=True))

    expect(card.locator(".model-picture")).to_have_js_property("naturalWidth", 384)
    expect(card).to_contain_text("Trigger words: dreamy, soft light")
    expect(card.get_by_role("link", name="Dreamy XL, 3.1")).to_have_attribute("rel", "noopener noreferrer")
    assert all(url.startswith(furnished.url) for url in asked)


def test_what_few_orders_say_is_sent_and_remembered(page: Page, furnished: Stage) -> None:
    page.goto(furnished.url)
    page.locator("#model").select_option("dreamy-xl")
    page.locator("#more-section > summary").click()
    page.locator("#vae").select_option("soft-vae")
    page.locator("#hires").fill("1.5")
    page.locator("#upscale").fill("2")
    expect(page.locator("#hires-by option").nth(1)).to_be_attached()
    expect(page.locator("#upscale-by").get_by_text("Latent")).to_have_count(0)
    expect(page.locator("#more-summary")).to_have_text("3")
    page.reload()
    expect(page.locator("#upscale")).to_have_value("2")
    expect(page.locator("#vae")).to_have_value("soft-vae")
    page.locator("#prompt").fill("a large one")

    with page.expect_request("**/v1/jobs") as sending:
        page.locator("#generate").click()

    order: Any = sending.value.post_data_json
    assert order["vae"] == "soft-vae"
    assert order["hires"] == {"scale": 1.5, "upscaler": "Latent", "strength": 0.7}
    assert order["upscale"] == {"factor": 2, "upscaler": "Lanczos"}


def test_a_model_on_its_way_says_how_far_it_is_and_for_how_long_yet(page: Page, furnished: Stage) -> None:
    page.goto(furnished.url)

    page.locator("#model").select_option("flux-dev")

    expect(page.locator("#model-status")).to_contain_text("Downloading, 39 % done, about 47 s left")


def test_an_embedding_is_put_into_the_prompt(page: Page, furnished: Stage) -> None:
    page.goto(furnished.url)
    page.locator("#model").select_option("dreamy-xl")
    page.locator("#prompt").fill("a harbour")
    page.locator("#more-section > summary").click()

    page.locator("#embedding-add").select_option("fine-ink")

    expect(page.locator("#prompt")).to_have_value("a harbour, fine-ink")


@pytest.fixture
def stopped(furnished: Stage) -> Iterator[str]:
    """Let a machine say goodbye; the stage is everybody's, and stands as before in the end."""
    yield a_machine(furnished.fleet, "stopped-1", device={"left": True})
    with furnished.fleet.transaction() as tx:
        tx.session.delete(tx.session.get_one(Machine, "stopped-1"))


def test_a_machine_that_was_stopped_is_told_from_one_that_is_silent(page: Page, furnished: Stage, stopped: str) -> None:
    page.goto(f"{furnished.url}/#fleet")

    card = page.locator(".machine").filter(has_text=stopped)
    expect(card).to_have_attribute("data-state", "silent")
    expect(card).to_contain_text(re.compile("left .+ ago: it was stopped"))
    expect(card).not_to_contain_text("MACHINE_MODELS_NEEDED")
    expect(page.locator("#fleet-summary")).to_have_text("2 of 3 alive")


def test_a_machine_that_is_gone_is_taken_off_the_list(page: Page, furnished: Stage) -> None:
    a_machine(furnished.fleet, "rented-1")
    with furnished.fleet.transaction() as tx:
        tx.session.get_one(Machine, "rented-1").last_seen_at -= timedelta(hours=2)
    page.goto(f"{furnished.url}/#fleet")
    card = page.locator(".machine").filter(has_text="rented-1")
    expect(card).to_contain_text("silent for 2 h")

    expect(page.get_by_role("button", name="Forget")).to_have_count(1)  # nobody else may be forgotten
    card.get_by_role("button", name="Forget: rented-1").click()

    expect(card).to_have_count(0)
    expect(page.locator(".machine")).to_have_count(2)
