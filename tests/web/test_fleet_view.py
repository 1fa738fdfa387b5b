"""The fleet: machines, and how far each is with its models."""

import re

import requests
from playwright.sync_api import Page, expect

from tests.support.processes import WAIT_SECONDS, wait_until
from tests.web.conftest import MACHINE_TOKEN, TOKEN
from tests.web.fleet import LONG_COUNT, LONG_STEPS, RunningFleet
from tests.web.studio import Studio, enter

BEYOND = """bars => bars.map(bar => [bar.getBoundingClientRect(), bar.parentElement.getBoundingClientRect()])
    .filter(([bar, strip]) => bar.left < strip.left - 1 || bar.right > strip.right + 3)"""
"""Bars that are not within their strip; the shortest ones are two pixels wide, to be seen."""

OUT_OF_SIGHT = """(found, width) => found.filter((each) => each.getBoundingClientRect().right > width
    || each.scrollWidth > each.clientWidth).map((each) => each.textContent)"""
"""What ends beyond the window, or is wider than its place."""


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
    facts = r"\d+ % · [\d.]+ [KM]B of 40 MB · [\d.]+ KB/s · \d+ (s|min) left"
    expect(coming).to_contain_text(re.compile(facts))
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


def test_while_a_download_runs_the_fleet_shows_all_that_happens(studio: Studio) -> None:
    """A machine that draws, holds, fetches and failed to fetch, and what waits for each model, in one look."""
    long = studio.fleet.order(prompt="the current job", steps=LONG_STEPS, n=LONG_COUNT)
    studio.fleet.wait_for(long, "processing")
    waiting = [studio.fleet.order(prompt=f"waiting {number}") for number in range(2)]
    studio.open("fleet")
    try:
        machine = studio.page.locator(".machine").filter(has_text="easel")
        expect(machine).to_contain_text(re.compile(rf"Draws job {long[:8]} with fields · \d+ %"))
        expect(machine.get_by_role("progressbar", name=f"Job {long}: progress")).to_be_visible()
        expect(machine.locator(".holding").filter(has_text="fields")).to_contain_text("ready, in memory")
        expect(machine.locator(".holding").filter(has_text="slow")).to_have_attribute("data-state", "downloading")
        expect(machine.locator(".holding").filter(has_text="damaged").first).to_contain_text("sha256:")
        expect(machine.get_by_role("button", name="Drain: easel")).to_be_visible()
        fields = studio.page.locator('#demand tr[data-model="fields"]')
        expect(fields.locator("td").nth(0)).to_have_text("2 jobs")
        expect(fields.locator("td").nth(1)).to_contain_text("the oldest for")
        expect(fields.locator("td").nth(2)).to_have_text("1")
        expect(fields.locator("td").nth(3)).to_have_text("1 ready")
        slow = studio.page.locator('#demand tr[data-model="slow"]')
        expect(slow.locator("td").nth(3)).to_have_text(re.compile(r"1 downloading, the next in \d+ (s|min)"))
        expect(studio.page.locator('#demand tr[data-model="damaged"] td').nth(3)).to_contain_text("failed")
        expect(studio.page.locator("#flower-link")).to_have_count(0)  # there is none
    finally:
        studio.fleet.post("/v1/jobs/cancel", {"job_ids": [*waiting, long]})


def test_on_a_phone_the_table_of_models_is_read_from_top_to_bottom(studio: Studio) -> None:
    studio.page.set_viewport_size({"width": 375, "height": 812})
    studio.open("fleet")
    slow = studio.page.get_by_role("table", name="Models").get_by_role("row").filter(has_text="slow")

    expect(slow.get_by_role("rowheader")).to_have_text("slow")
    expect(slow.get_by_role("cell").last).to_contain_text("1 downloading")
    assert studio.page.locator("#demand, #demand td").evaluate_all(OUT_OF_SIGHT, 375) == []


def test_a_machine_shows_where_its_time_went_from_its_start_to_its_first_picture(studio: Studio) -> None:
    studio.fleet.wait_for(studio.fleet.order(prompt="the first, or a later one"))
    told = wait_until(
        lambda: (boot := studio.fleet.get("/v1/machines/easel")["boot"])["first_picture_seconds"] and boot,
        "the machine has told of its first picture",
    )
    studio.open("fleet")
    machine = studio.page.locator(".machine").filter(has_text="easel")

    machine.get_by_text(re.compile(r"First picture [\d.]+ (s|min) after its start")).click()

    for words in (
        "Starting the process", "Looking the models up", "Planning the downloads", "Downloading: fields",
        "Checking the hash: fields", "Joining the queue: fields", "Waiting for a first job",
        "Taking the first job: fields", "Loading into memory: fields", "Drawing: fields",
        "Bringing the picture home: fields",
    ):  # fmt: skip
        expect(machine.locator(".waterfall li").filter(has_text=words).first).to_be_visible()
    phases = told["phases"]
    drawn = [phase for phase in phases if phase["phase"] == "denoising"]
    assert drawn[0]["start"] + drawn[0]["seconds"] <= told["first_picture_seconds"]
    assert all(phase["start"] >= 0 and (phase["seconds"] is None or phase["seconds"] >= 0) for phase in phases)
    strips = machine.locator(".waterfall .strip > span")
    beyond = strips.evaluate_all(BEYOND)
    assert beyond == []
    machine.get_by_role("button", name="Drain: easel").focus()
    expect(machine.locator(".waterfall")).to_have_attribute("open", "")


def test_a_button_keeps_the_focus_while_its_machine_is_drawn_anew(studio: Studio) -> None:
    studio.open("fleet")
    machine = studio.page.locator(".machine").filter(has_text="easel")
    moving = machine.locator(".holding").filter(has_text="slow").locator("p").nth(1)
    machine.get_by_role("button", name="Drain: easel").focus()
    before = moving.text_content()

    expect(moving).not_to_have_text(before or "")

    expect(machine.get_by_role("button", name="Drain: easel")).to_be_focused()


RENTED = {
    "machine_id": "rented",
    "boot_id": "boot-1",
    "version": "0.1.0",
    "device": {
        "type": "cuda",
        "name": "NVIDIA RTX 4090",
        "memory_total": 24 * 10**9,
        "memory_free": 16 * 10**9,
        "loaded": ["fields"],
    },
    "needed": ["fields", "huge"],
    "holdings": [
        {"model_id": "fields", "state": "ready"},
        {"model_id": "huge", "state": "verifying", "bytes_done": 6 * 10**9, "bytes_total": 24 * 10**9},
    ],
}
"""What a machine with a GPU says of itself; here is none."""


def test_a_machine_with_a_gpu_shows_its_memory_and_what_it_verifies(page: Page, locked_fleet: RunningFleet) -> None:
    token = {"Authorization": f"Bearer {MACHINE_TOKEN}"}
    requests.post(
        f"{locked_fleet.url}/machines/v1/check-in", json=RENTED, headers=token, timeout=WAIT_SECONDS
    ).raise_for_status()
    page.goto(f"{locked_fleet.url}/#fleet")
    enter(Studio(page, locked_fleet), TOKEN)

    machine = page.locator(".machine").filter(has_text="rented")

    expect(machine).to_contain_text("NVIDIA RTX 4090")
    expect(machine).to_contain_text("8 GB of 24 GB in use")
    expect(machine.get_by_role("progressbar", name="Memory in use")).to_have_js_property("value", 8 * 10**9)
    verified = machine.locator(".holding").filter(has_text="huge")
    expect(verified).to_contain_text("checking its hash")
    expect(verified).to_contain_text("25 % · 6 GB of 24 GB")
    expect(page.locator("#flower-link")).to_have_attribute("href", "http://127.0.0.1:5555")
