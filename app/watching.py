"""Showing on a terminal, or line by line where there is none, how far a job is. All of it goes to standard error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.drawing import Watcher


class Lines:
    """A line where something changes: for files, pipes and other programs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told = ""

    def see(self, job: Mapping[str, Any]) -> None:
        """Say it where it is news."""
        news = _in_words(job)
        if news != self._told:
            self._told = news
            self._say(news)

    def say(self, message: str) -> None:
        """Say it."""
        self._say(message)


def _in_words(job: Mapping[str, Any]) -> str:
    running, known = job.get("running"), f"job {job['job_id']}"
    if running and running["phase"] == "denoising":
        return f"{known}: drawing picture {running['image'] + 1} of {running['images']}"
    if running:
        return f"{known}: {running['phase']}"
    waiting = job.get("waiting_for")
    return f"{known} is {job['status']}" + (f"; {waiting}" if waiting else "")


class Bars:
    """A bar for each picture, with its steps."""

    def __init__(self, progress: Progress, pictures: int) -> None:
        self._progress = progress
        self._pictures = pictures
        self._bars: list[TaskID] = []
        self._about = progress.add_task("ordering", total=None, steps="")

    def see(self, job: Mapping[str, Any]) -> None:
        """Move the bars to where the job is; a second try begins anew."""
        running = job.get("running")
        self._progress.update(self._about, description=_in_words(job), visible=running is None)
        if job["status"] == "completed":
            self._progress.update(self._about, visible=False)
            self._move(self._pictures, None)
        elif running and running["phase"] in {"denoising", "encoding", "uploading"}:
            self._pictures = running["images"]
            self._move(running["image"], running)

    def _move(self, drawn: int, running: Mapping[str, Any] | None) -> None:
        while len(self._bars) < self._pictures:
            number = f"picture {len(self._bars) + 1}"
            self._bars.append(self._progress.add_task(number, total=1.0, steps=""))
        for position, bar in enumerate(self._bars):
            if position < drawn:
                self._progress.update(bar, completed=1.0)
            elif position > drawn or running is None:
                self._progress.update(bar, completed=0.0, steps="")
            else:
                steps = running["steps"] or 1
                done = f"{running['step']}/{running['steps']}" if running["steps"] else ""
                self._progress.update(bar, completed=running["step"] / steps, steps=done)

    def say(self, message: str) -> None:
        """Say it above the bars."""
        self._progress.console.print(message, highlight=False, markup=False)


@contextmanager
def watching(pictures: int, *, quiet: bool = False) -> Iterator[Watcher]:
    """Show a job on standard error as long as the block lasts: as bars on a terminal, as lines elsewhere."""
    console = Console(stderr=True)
    if quiet:
        yield Lines(lambda _: None)
    elif not console.is_terminal:
        yield Lines(lambda line: click.echo(line, err=True))
    else:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[steps]}"))
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=False) as progress:
            yield Bars(progress, pictures)
