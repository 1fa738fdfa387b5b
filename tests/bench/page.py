"""What the first and the second look at `/` cost: bytes, and the time until the form can be used.

    make bench-page            # or: python -m tests.bench.page --rounds 30

A real `imagefleet up` with the fake driver on loopback, and Chromium. Each round has a browser profile of its own: its
first load finds nothing kept, its second what the first one has kept. The server's very first visitor has a row of
its own.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page, sync_playwright

from tests.bench.figures import head, row
from tests.support.browser import ARGUMENTS
from tests.web.fleet import running_fleet
from tests.web.origin import running_origin

MOST_BYTES, MOST_SECONDS = 150_000, 1.0
"""What is wanted of a first load."""

NOTE_USABLE = """(() => {
    const look = () => {
        const [model, button] = ["model", "generate"].map((id) => document.getElementById(id));
        const isUsable = model?.value && button && !button.disabled && button.checkVisibility();
        if (isUsable) requestAnimationFrame(() => setTimeout(() => { window.usableAt ??= performance.now(); }));
        return isUsable;
    };
    const watch = new MutationObserver(() => look() && watch.disconnect());
    watch.observe(document, {subtree: true, childList: true, attributes: true});
})()"""
"""Notes when a model is chosen, the button can be pressed, and both have been painted."""

READ_CONTENT_LOADED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


@dataclass(frozen=True, slots=True)
class Load:
    """What one load took, in seconds from the navigation's beginning; `bytes` are those of the wire, with heads."""

    answers: int
    bytes: int
    content_loaded: float
    usable: float


def main() -> None:
    """Measure, and print a table; exits with 1 where a first load is heavier or slower than wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="browser profiles that look twice each")
    wanted = parser.parse_args()
    with ExitStack() as stack:
        url = _served(stack)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        browser.new_page().close()  # what a browser does at its own start is not the page's
        rounds = [_first_and_second(browser, url) for _ in range(wanted.rounds + 1)]
        browser.close()
    (very_first, _), *rest = rounds
    first, second = ([each[place] for each in rest] for place in (0, 1))
    head("load", "answers", "KB on the wire", "DOMContentLoaded, ms", "worst", "form usable, ms", "worst")
    _tell("the server's very first visitor", [very_first])
    _tell("nothing kept", first)
    _tell("kept by the browser", second)
    is_light = max(each.bytes for each in first) <= MOST_BYTES
    raise SystemExit(0 if is_light and median(each.usable for each in first) <= MOST_SECONDS else 1)


def _served(stack: ExitStack) -> str:
    """Start the fleet; returns its address."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="imagefleet-bench-"))
    origin = stack.enter_context(running_origin())
    return stack.enter_context(running_fleet(Path(folder), origin, MACHINE_MODELS_NEEDED="fields")).url


def _first_and_second(browser: Browser, url: str) -> tuple[Load, Load]:
    """Look twice with a new profile."""
    profile = browser.new_context(viewport={"width": 1280, "height": 900})
    page = profile.new_page()
    page.add_init_script(NOTE_USABLE)
    try:
        return _look(page, url), _look(page, url)
    finally:
        profile.close()


def _look(page: Page, url: str) -> Load:
    """Load the page, and wait until nothing more comes."""
    sizes: list[int] = []
    wire = page.context.new_cdp_session(page)
    wire.on("Network.loadingFinished", lambda told: sizes.append(int(told["encodedDataLength"])))
    wire.send("Network.enable")
    page.goto(url, wait_until="networkidle")
    page.wait_for_function("window.usableAt !== undefined")
    content_loaded, usable = page.evaluate(f"[{READ_CONTENT_LOADED}, window.usableAt]")
    wire.detach()
    return Load(sum(size > 0 for size in sizes), sum(sizes), content_loaded / 1000, usable / 1000)


def _tell(what: str, loads: Iterable[Load]) -> None:
    loads = list(loads)
    cells: list[str] = []
    for seconds in ([each.content_loaded for each in loads], [each.usable for each in loads]):
        cells += [f"{1000 * median(seconds):.0f}", f"{1000 * max(seconds):.0f}"]
    weight = max(each.bytes for each in loads) / 1000
    row(what, max(each.answers for each in loads), f"{weight:.1f}", *cells)


if __name__ == "__main__":
    main()
