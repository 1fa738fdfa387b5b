"""The commands that the pages show: those in fences of shell, one by one as a person would paste them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)

PROMPT = "$ "
"""Begins a command where its output is shown too, in fences called `console`."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A block of a page."""

    page: str
    language: str
    text: str

    def commands(self) -> Iterator[str]:
        """Return what it shows to be run; comments are left out."""
        if self.language == "sh":
            yield from _commands(self.text.splitlines())
        elif self.language == "console":
            yield from _commands([line[len(PROMPT) :] for line in self.text.splitlines() if line.startswith(PROMPT)])


def fences(page: Path) -> list[Fence]:
    """Return the blocks of a page."""
    name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
    return [Fence(name, found["language"], _dedented(found)) for found in FENCE.finditer(text)]


def commands(page: Path) -> list[str]:
    """Return all commands of a page, in its order."""
    return [command for fence in fences(page) for command in fence.commands()]


def _dedented(found: re.Match[str]) -> str:
    return "\n".join(line.removeprefix(found["indent"]) for line in found["text"].splitlines())


def _commands(lines: list[str]) -> Iterator[str]:
    """Put together what goes over several lines: behind a backslash, and within quotes."""
    so_far = ""
    for line in lines:
        so_far += line
        try:
            words = shlex.split(so_far, comments=True)
        except ValueError:  # a quote is still open, or the line ends with a backslash
            so_far += "\n"
            continue
        if words:
            yield so_far.strip()
        so_far = ""
    assert not so_far, f"this command has no end: {so_far}"
