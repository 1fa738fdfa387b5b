"""The page as its visitor handles it."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from playwright.sync_api import Locator, Page, expect

from tests.web.fleet import RunningFleet


@dataclass(frozen=True, slots=True)
class Studio:
    """The page, open in a browser of its own."""

    page: Page
    fleet: RunningFleet

    def open(self, view: str = "make") -> "Studio":
        """Go to a view, and wait until the catalogue has come."""
        self.page.goto(f"{self.fleet.url}/#{view}")
        expect(self.page.locator("#model option").first).to_be_attached()
        return self

    def choose(self, model_id: str) -> None:
        """Choose a model."""
        self.page.locator("#model").select_option(model_id)

    def send(self, prompt: str, **fields: str) -> Locator:
        """Fill the form by the fields' ids, press the button, and return the job's card."""
        self.page.locator("#prompt").fill(prompt)
        for name, value in fields.items():
            self.page.locator(f"#{name}").fill(value)
        self.page.get_by_role("button", name="Generate").click()
        return self.card(prompt)

    def card(self, prompt: str) -> Locator:
        """Find the newest card of a prompt."""
        return self.page.locator("#jobs .card").filter(has=self.page.get_by_text(prompt, exact=True)).first

    def heard(self, event: Literal["dialog", "request", "requestfailed", "response"]) -> list[Any]:
        """Listen to the browser from now on; what it tells comes into the list."""
        told: list[Any] = []

        def listen(news: Any) -> None:
            told.append(news)

        self.page.on(event, listen)
        return told

    def slide_to(self, steps: int) -> None:
        """Move the slider as a hand does."""
        self.page.locator("#steps").fill(str(steps))

    def remembered(self, key: str) -> str | None:
        """Read what the browser keeps for the page."""
        found: str | None = self.page.evaluate("key => localStorage.getItem(key)", key)
        return found


def enter(studio: Studio, token: str) -> None:
    """Give the page the token that it asks for."""
    studio.page.get_by_label("Token", exact=True).fill(token)
    studio.page.get_by_role("button", name="Go on").click()


def expect_state(card: Locator, state: str) -> None:
    """Wait until a job's card shows a state."""
    expect(card).to_have_attribute("data-state", state)


def expect_drawn(picture: Locator, width: int, height: int) -> None:
    """Wait until a picture is there in its true size."""
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("naturalWidth", width)
    expect(picture).to_have_js_property("naturalHeight", height)


def words(text: str) -> re.Pattern[str]:
    """Find a text anywhere, whatever its case."""
    return re.compile(re.escape(text), re.IGNORECASE)
