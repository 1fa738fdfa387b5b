"""A rolling restart under load: every process is replaced by a new one, in the order that docs/operations.md names."""

import json
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.chaos.clients import ENDED, Client, Journal, Order
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.system import Part, System

STEPS = 120
"""Of the jobs that are watched: long enough that a restart meets most of them."""

SHORTEST_REST, LONGEST_REST = 0.1, 0.5
"""Seconds until a stream that has ended is asked for again, as a good client rests: another while each time."""


@dataclass(slots=True)
class Rolling:
    """Replaces one part after the other, and looks on at the same time: parts are started from the main thread."""

    system: System
    journal: Journal
    diary: list[tuple[float, str]] = field(default_factory=list)

    def roll(self) -> None:
        """Replace everything: web processes, control worker, beat, then machine by machine."""
        until = time.monotonic() + WAIT_SECONDS
        while True:  # until a stream was ended by it: the job that somebody watched may have ended before
            wait_until(lambda: self.journal.streams, "somebody reads a stream")
            self._renew_web()
            if self.journal.resumed or time.monotonic() > until:
                break
        for name in ("control", "beat", *(part.name for part in self.system.machines)):
            self._renew(self.system.parts[name])

    def _renew_web(self) -> None:
        """Let gunicorn start new processes, and end the old ones once they have answered what they had been asked."""
        web = self.system.parts["web"]
        before = set(web.tree()[1:])
        assert web.process is not None
        web.process.send(signal.SIGHUP)
        wait_until(lambda: not before & set(web.tree()[1:]) and len(web.tree()) > len(before), "the web is all new")
        self.diary.append((time.time(), "web: new processes"))

    def _renew(self, part: Part) -> None:
        """Tell a part to stop, wait for its end, and start it anew; a machine is waited for until it draws again."""
        assert part.process is not None
        part.process.send(signal.SIGTERM)
        assert part.process.wait() == 0, f"{part.name} did not end well; its log is {part.log}"
        part.start()
        self.diary.append((time.time(), f"{part.name}: a new process"))
        if part in self.system.machines:
            for model_id in part.environ["MACHINE_MODELS_NEEDED"].split(","):
                wait_until(lambda: part.name in self.system.ready_machines(model_id), f"{part.name} is back")  # noqa: B023  # asked at once


class Watcher(Client):
    """Orders, and follows each order's events to its end, coming back where a stream was ended by the server."""

    _last = ""
    """The id of the last event that came."""

    def live(self) -> None:
        """Order one after the other, and watch."""
        while not self.stop.is_set():
            order = self.order("v1")
            body = {"model_id": order.model_id, "prompt": order.prompt, "n": order.n, "seed": order.seed}
            answer = self.send("POST", "/v1/jobs", key=order.key, json={**body, "steps": STEPS})
            if answer is None or not answer.ok:
                self.journal.errors["a watched order was refused"] += 1
                continue
            job_id = answer.json()["job_id"]
            order.job_ids.add(job_id)
            self._watch(order, job_id)

    def _watch(self, order: Order, job_id: str) -> None:
        """Read until the job has ended; every event must follow on the one before."""
        self._last, steps = "", dict[tuple[int, int], int]()
        while not order.seen:
            try:
                self._read(order, job_id, steps)
            except requests.RequestException as exc:
                self.journal.errors[f"a stream broke: {type(exc).__name__}"] += 1
            if not order.seen:
                self.journal.resumed += 1
                time.sleep(random.uniform(SHORTEST_REST, LONGEST_REST))  # not by its dice: these decide what it orders

    def _read(self, order: Order, job_id: str, steps: dict[tuple[int, int], int]) -> None:
        headers = self._headers | ({"Last-Event-ID": self._last} if self._last else {})
        path = f"{self.url}/v1/jobs/{job_id}/events"
        with requests.get(path, headers=headers, stream=True, timeout=WAIT_SECONDS) as answer:
            if not answer.ok:
                self.journal.errors[f"a stream was refused: HTTP {answer.status_code}"] += 1
                return
            self.journal.streams += 1
            event_id = self._last
            try:
                for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                    if line.startswith("id: "):
                        event_id = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        self._note(order, json.loads(line.removeprefix("data: ")), steps)
                        self._last = event_id  # not before: what was cut off behind its id has not come
            finally:
                self.journal.streams -= 1

    def _note(self, order: Order, told: dict[str, Any], steps: dict[tuple[int, int], int]) -> None:
        if told.get("event") == "progress":
            key = (told["attempt"], told.get("image", 0))
            if told["step"] < steps.get(key, 0):
                self.journal.errors["a stream told an old step again"] += 1
            steps[key] = told["step"]
        elif told.get("status") in ENDED:
            order.seen.add(told["status"])
