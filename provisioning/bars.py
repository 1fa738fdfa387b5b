"""Bars on a terminal, for whoever watches models arrive."""

import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from provisioning.events import Event
from provisioning.report import Report, sentence

STATE_STYLES = {"ready": "green", "error": "red", "downloading": "cyan", "verifying": "cyan"}


class Bars(Report):
    """Bars with size, speed and remaining time, and lines above them for what a person should read."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars down."""
        with suppress(OSError, ValueError):
            self.progress.stop()

    def write(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            if event.name == "progress":
                total = event.fields.get("bytes_total")
                done = event.fields.get("bytes_done")
                self.progress.update(
                    self._task(event.model_id or ""),
                    completed=done if isinstance(done, int) else 0,
                    total=total if isinstance(total, int) else None,
                )
                return
            if event.name == "state":
                state = str(event.fields["state"])
                style = STATE_STYLES.get(state, "dim")
                name = escape(event.model_id or "")
                self.progress.update(self._task(event.model_id or ""), description=f"{name} [{style}]{state}[/]")
                if state != "error":
                    return
                self.progress.stop_task(self._task(event.model_id or ""))
            line = sentence(event)
            if line:
                level = event.fields.get("level", "error" if event.name == "state" else "info")
                colour = {"error": "red", "warning": "yellow"}.get(str(level), "default")
                self.console.print(line, style=colour, markup=False, highlight=False)

    def _task(self, model_id: str) -> TaskID:
        if model_id not in self._tasks:
            self._tasks[model_id] = self.progress.add_task(escape(model_id), total=None)
        return self._tasks[model_id]
