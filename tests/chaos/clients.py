"""The load: clients of several dialects that order, cancel, wait, and send again what was not answered.

Every order has a prompt of its own: what became of it can be found in SQL also where its client never got an answer.
"""

import random
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import requests

from tests.support.processes import WAIT_SECONDS

ENDED = frozenset({"completed", "error", "cancelled"})
ANSWER_SECONDS = 8.0
"""How long a client waits for an answer before it sends again."""

PATIENCE = WAIT_SECONDS
"""How long a client goes on sending the same request: to give up is a finding."""

PAUSE = 0.5


@dataclass(slots=True)
class Order:
    """One order as its client knows it."""

    prompt: str
    """Unique."""
    dialect: str
    model_id: str
    n: int
    seed: int
    key: str
    secret: str | None = None
    """Set where a webhook is to be told."""
    deadline: bool = False
    job_ids: set[str] = field(default_factory=set)
    """What the answers named; more than one is a breach."""
    refused: str | None = None
    """Why it was refused for good."""
    cancel: str | None = None
    """The state that the answer to the cancelling told."""
    seen: set[str] = field(default_factory=set)
    """The endings that were shown."""
    pictures: int | None = None
    """How many came back, where they come with the answer."""


@dataclass(slots=True)
class Journal:
    """Everything that clients have lived through."""

    orders: list[Order] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    """How often a request was sent again under its key though it had been answered."""
    streams: int = 0
    """How many streams of events are read at this moment."""
    resumed: int = 0
    """How often a stream of events was taken up again, because the server had ended it before its job's end."""


class Client:
    """One customer with one API token, in a thread of its own."""

    def __init__(  # noqa: PLR0917  # what a client knows of the world
        self,
        number: int,
        seed: int,
        url: str,
        token: str,
        journal: Journal,
        stop: threading.Event,
        models: Sequence[str],
    ) -> None:
        self.number, self.models = number, models
        self.dice = random.Random(seed * 1000 + number)  # a run that can be repeated, not a secret
        self.url, self.journal, self.stop = url, journal, stop
        self._headers = {"Authorization": f"Bearer {token}"}
        self._count = 0
        self.thread = threading.Thread(target=self._live, name=f"client-{number}", daemon=True)

    def live(self) -> None:
        """Do one thing after the other until told to stop."""
        raise NotImplementedError

    def _live(self) -> None:
        try:
            self.live()
        except Exception as exc:  # noqa: BLE001  # the outermost edge: a client that gives up is a finding, not a silence
            self.journal.errors[f"a client broke: {type(exc).__name__}: {exc}"] += 1

    def order(self, dialect: str) -> Order:
        """Think of an order."""
        self._count += 1
        order = Order(
            prompt=f"chaos {self.number}-{self._count}",
            dialect=dialect,
            model_id=self.dice.choice(self.models),
            n=self.dice.choice([1, 1, 1, 2, 3]),
            seed=self.dice.randrange(10**6),
            key=str(UUID(int=self.dice.getrandbits(128))),
        )
        self.journal.orders.append(order)
        return order

    def send(self, method: str, path: str, *, key: str | None = None, wait: float = ANSWER_SECONDS, **more: Any) -> Any:
        """Send a request until it is answered; None when the server stayed away for too long."""
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                answer = requests.request(method, f"{self.url}{path}", headers=headers, timeout=(3.05, wait), **more)
            except requests.RequestException as exc:
                self.journal.errors[type(exc).__name__] += 1
                time.sleep(PAUSE)
                continue
            if answer.status_code < 500 and answer.status_code != 429:
                return answer
            self.journal.errors[f"HTTP {answer.status_code}"] += 1
            time.sleep(min(5.0, float(answer.headers.get("Retry-After", PAUSE))))
        self.journal.errors["gave up"] += 1
        return None


class V1Client(Client):
    """Orders through /v1: with a key, often with a webhook, now and then with a deadline or a change of mind."""

    hook_url = ""
    per_second = 1.0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._later: list[tuple[float, Order, str]] = []

    def live(self) -> None:
        """Order at a steady rate."""
        due = time.monotonic()
        while not self.stop.is_set():
            due = max(due + self.dice.expovariate(self.per_second), time.monotonic() - 5.0)
            self.stop.wait(max(0.0, due - time.monotonic()))
            if not self.stop.is_set():
                self._order_one()
            self._change_minds()
        self._change_minds(all_of_them=True)

    def _order_one(self) -> None:
        """Order a job, or now and then a list of jobs in one request; the same request is sent again at times."""
        order = self.order("v1")
        body: dict[str, Any] = {
            "model_id": order.model_id,
            "n": order.n,
            "seed": order.seed,
            "steps": self.dice.choice([2, 10, 20, 60, 120]),
            "priority": self.dice.choice([0, 0, 0, 3, 5, 9]),
        }
        if self.dice.random() < 0.7:
            order.secret = f"secret-{order.key}"
            body["webhook"] = {"url": f"{self.hook_url}/{order.key}", "secret": order.secret}
            if self.dice.random() < 0.3:
                body["webhook"]["events"] = ["queued", "processing", *sorted(ENDED)]
        if self.dice.random() < 0.08:
            order.deadline = True
            body["expires_in"] = self.dice.choice([1, 2, 5])
        orders = [order]
        if self.dice.random() < 0.06:
            orders += [replace(order, prompt=f"{order.prompt}.{k}", job_ids=set(), seen=set()) for k in (1, 2)]
            self.journal.orders += orders[1:]
            body["prompts"] = [one.prompt for one in orders]
        else:
            body["prompt"] = order.prompt
        self._note(orders, self.send("POST", "/v1/jobs", key=order.key, json=body))
        if self.dice.random() < 0.1:
            self.journal.replays += 1
            self._note(orders, self.send("POST", "/v1/jobs", key=order.key, json=body))
        now, changes_mind = time.monotonic(), self.dice.random()
        if order.job_ids and changes_mind < 0.12:
            self._later.append((now + self.dice.uniform(0, 3), order, "cancel"))
        elif order.job_ids and changes_mind < 0.4:
            self._later.append((now + self.dice.uniform(2, 30), order, "look"))

    def _note(self, orders: Sequence[Order], answer: requests.Response | None) -> None:
        if answer is None:
            return
        if not answer.ok:
            for order in orders:
                order.refused = answer.text[:300]
            return
        told = answer.json()
        for order, job in zip(orders, told.get("jobs", [told]), strict=True):
            order.job_ids.add(str(job["job_id"]))

    def _change_minds(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        due = [item for item in self._later if all_of_them or item[0] <= now]
        for item in due:
            self._later.remove(item)
            _, order, what = item
            (job_id, *_rest) = order.job_ids
            if what == "cancel":
                self._cancel(order, job_id)
            elif (answer := self.send("GET", f"/v1/jobs/{job_id}")) is not None and answer.ok:
                status = answer.json()["status"]
                order.seen |= {status} & ENDED

    def _cancel(self, order: Order, job_id: str) -> None:
        answer = self.send("POST", f"/v1/jobs/{job_id}/cancel")
        if answer is None:
            return
        if answer.ok:
            order.cancel = "cancelled"
        elif answer.status_code == 409:
            found = self.send("GET", f"/v1/jobs/{job_id}")
            order.cancel = str(found.json()["status"]) if found is not None and found.ok else None
        else:
            order.refused = f"cancelling: {answer.status_code} {answer.text[:300]}"


class A1111Client(Client):
    """Asks as Automatic1111's clients do, and waits for its pictures."""

    def live(self) -> None:
        """Order one after the other."""
        while not self.stop.is_set():
            order = self.order("a1111")
            body: Mapping[str, Any] = {
                "prompt": order.prompt,
                "seed": order.seed,
                "n_iter": order.n,
                "steps": self.dice.choice([5, 10, 20]),
                "width": 64,
                "height": 64,
                "override_settings": {"sd_model_checkpoint": order.model_id},
            }
            answer = self.send("POST", "/a1111/sdapi/v1/txt2img", key=order.key, json=body, wait=45.0)
            if answer is not None and answer.ok:
                order.seen.add("completed")
                order.pictures = len([b64decode(image, validate=True) for image in answer.json()["images"]])
            elif answer is not None:
                order.refused = answer.text[:300]
            self.stop.wait(self.dice.uniform(0.2, 1.5))
