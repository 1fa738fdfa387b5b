"""What a person or a program sees: bars on a terminal, plain lines in a log, JSON lines for machines."""

import json
import sys
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TextIO

from provisioning.disk import gigabytes
from provisioning.events import Event

LINE_SECONDS = 5.0
"""A plain log gets a line about a download at most so often."""
JSON_SECONDS = 0.5


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

    deaf = False
    """Whoever read has gone away, or the disk of the log is full. That keeps nobody from bringing models."""

    def __call__(self, event: Event) -> None:
        """Write an event, as long as somebody reads."""
        if self.deaf:
            return
        try:
            self.write(event)
        except (OSError, ValueError):
            self.deaf = True

    def write(self, event: Event) -> None:
        """Write an event. Raises `OSError` or `ValueError` when nobody reads any more."""
        raise NotImplementedError


class JsonLines(Report):
    """One JSON object a line on standard output, flushed; docs/provisioning.md lists the events."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._last: dict[str | None, float] = {}
        self._lock = threading.Lock()

    def write(self, event: Event) -> None:
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

    def write(self, event: Event) -> None:
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
    if not sys.stderr.isatty():
        return PlainLines()
    from provisioning.bars import Bars  # noqa: PLC0415 - rich takes a quarter of the start, and most runs have no terminal

    return Bars()
