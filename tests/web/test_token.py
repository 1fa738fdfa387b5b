"""A fleet that asks for a token: the page asks its visitor once."""

import base64

import pytest
from playwright.sync_api import Page, expect

from tests.web.conftest import TOKEN
from tests.web.fleet import RunningFleet
from tests.web.studio import Studio, enter, expect_drawn, expect_state


@pytest.fixture
def locked(page: Page, locked_fleet: RunningFleet) -> Studio:
    page.goto(locked_fleet.url)
    return Studio(page, locked_fleet)


def test_the_page_asks_for_the_token_and_takes_the_right_one_only(locked: Studio) -> None:
    dialog = locked.page.get_by_role("dialog")
    expect(dialog).to_be_visible()

    enter(locked, "guessed")
    expect(dialog.get_by_role("alert")).to_contain_text("does not take this token")
    enter(locked, TOKEN)

    expect(dialog).to_be_hidden()
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")


def test_the_token_is_asked_for_once_and_never_stands_in_an_address(locked: Studio) -> None:
    asked = locked.heard("request")
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")

    locked.open()

    expect(locked.page.get_by_role("dialog")).to_be_hidden()
    shown = [request for request in asked if TOKEN in request.headers.get("authorization", "")]
    assert [request.url.rpartition("/")[2] for request in shown] == ["session"]
    assert not [request.url for request in asked if TOKEN in request.url]
    kept = "document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"
    assert TOKEN not in locked.page.evaluate(kept)
    (cookie,) = locked.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_pictures_are_fetched_with_the_token(locked: Studio) -> None:
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")
    locked.choose("fields")

    card = locked.send("behind the door")

    expect_state(card, "completed")
    expect_drawn(card.locator("img"), 192, 128)
    expect_drawn(locked.page.locator("#gallery img").first, 192, 128)
    locked.page.locator("#gallery button").first.click()
    expect_drawn(locked.page.locator("#viewer-picture"), 192, 128)
    with locked.page.expect_download() as coming:
        locked.page.get_by_role("button", name="Download").click()
    assert coming.value.suggested_filename.endswith(".png")


def test_a_token_that_is_no_longer_taken_is_asked_for_anew(locked: Studio) -> None:
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")
    locked.page.goto("about:blank")  # what this page still asks for must not show the old one before the next page does
    (cookie,) = locked.page.context.cookies()
    old = base64.urlsafe_b64encode(b"of-last-year").decode()
    locked.page.context.add_cookies([cookie | {"value": old}])  # type: ignore[list-item]  # the same shape both ways

    locked.page.goto(locked.fleet.url)

    dialog = locked.page.get_by_role("dialog")
    expect(dialog).to_contain_text("does not take this token")
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")


def test_a_visitor_can_leave(locked: Studio) -> None:
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")
    locked.page.get_by_role("button", name="Token").click()

    with locked.page.expect_event("load"):
        locked.page.get_by_role("button", name="Forget it").click()

    expect(locked.page.get_by_role("dialog")).to_contain_text("This fleet asks for a token")
    assert locked.page.context.cookies() == []


def test_who_has_no_token_is_told_where_to_enter_it_later(locked: Studio) -> None:
    expect(locked.page.get_by_role("dialog")).to_be_visible()

    locked.page.keyboard.press("Escape")

    expect(locked.page.locator("#model-status")).to_contain_text("asks for a token")
    locked.page.get_by_role("button", name="Token").click()
    enter(locked, TOKEN)
    expect(locked.page.locator("#model-status")).to_contain_text("Ready")


def test_an_open_fleet_asks_for_no_token(studio: Studio) -> None:
    studio.open()

    expect(studio.page.get_by_role("dialog")).to_be_hidden()
    expect(studio.page.get_by_role("button", name="Token")).to_be_hidden()
