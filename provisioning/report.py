"""What a person or a program sees: bars on a terminal, plain lines in a log, JSON lines for machines."""

import json
import sys
import threading
import time
from datetime import UTC, datetime
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

from provisioning.disk import gigabytes
from provisioning.events import Event

LINE_SECONDS = 5.0
"""A plain log gets a line about a download at most so often."""
JSON_SECONDS = 0.5
STATE_STYLES = {"ready": "green", "error": "red", "downloading": "cyan", "verifying": "cyan"}


class Report:
    """Listens to events and writes them; a context manager, because bars have to be taken down."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def __call__(self, event: Event) -> None:
        """Write an event."""
        raise NotImplementedError


class JsonLines(Report):
    """One JSON object a line on standard output, flushed; docs/provisioning.md lists the events."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._last: dict[str | None, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write an event; progress of one model at most twice a second."""
        with self._lock:
            now = time.monotonic()
            if event.name == "progress":
                if now - self._last.get(event.model_id, 0.0) < JSON_SECONDS:
                    return
                self._last[event.model_id] = now
            record: dict[str, object] = {"event": event.name, "at": datetime.now(UTC).isoformat()}
            if event.model_id is not None:
                record["model"] = event.model_id
            self.stream.write(json.dumps({**record, **event.fields}) + "\n")
            self.stream.flush()


class PlainLines(Report):
    """Lines for a log: every change of state, and now and then how far a download is."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._last: dict[str | None, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        with self._lock:
            now = time.monotonic()
            if event.name == "progress":
                if now - self._last.setdefault(event.model_id, now) < LINE_SECONDS:
                    return
                self._last[event.model_id] = now
            line = sentence(event)
            if line:
                self.stream.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
                self.stream.flush()


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
        self.progress.stop()

    def __call__(self, event: Event) -> None:
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


def sentence(event: Event) -> str:
    """Say an event in one line for people; empty where there is nothing to say."""
    fields = event.fields
    who = f"{event.model_id}: " if event.model_id else ""
    match event.name:
        case "state":
            error = fields.get("error")
            if isinstance(error, dict):
                return f"{who}error ({error['code']}): {error['message']}"
            return f"{who}{fields['state']}"
        case "progress":
            done, total, rate = (fields.get(key) for key in ("bytes_done", "bytes_total", "bytes_per_second"))
            of = f" of {gigabytes(total)}" if isinstance(total, int) else ""
            speed = f", {gigabytes(int(rate))}/s" if isinstance(rate, float) else ""
            return f"{who}{gigabytes(done if isinstance(done, int) else 0)}{of}{speed}"
        case _:
            return f"{who}{fields['message']}" if "message" in fields else ""


def fitting(*, as_json: bool) -> Report:
    """Choose how to report: JSON if asked for, bars on a terminal, lines otherwise."""
    if as_json:
        return JsonLines()
    return Bars() if sys.stderr.isatty() else PlainLines()
