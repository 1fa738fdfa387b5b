"""The machine's side of the machine protocol: check-in, claim, pictures, finish."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import requests

from app import tracing
from app.core import protocol
from app.reach import why_not
from tasks.machine.drivers.seats import Seat, seats_of
from tasks.machine.errors import Fenced, FleetAway, Refused, TooOld, TurnedAway

log = logging.getLogger(__name__)

TIMEOUT = (3.05, 30.0)
"""Seconds to connect (just over TCP's first retransmission) and to wait for an answer."""

CHECK_IN_TIMEOUT = (3.05, 5.0)
"""A web process that hangs must not make its machine look silent: the next check-in may meet another one."""

TRIES = 4
FIRST_WAIT = 0.25

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

REFUSALS: Mapping[str, type[Refused]] = {
    "stale_attempt": Fenced,
    "job_not_found": Fenced,
}
"""What the codes of the machine protocol mean; all others are a plain no."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is this machine's now."""

    job_id: UUID
    attempt: int
    spec: dict[str, Any]
    base: str | None
    variant: str | None = None
    companions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the catalogue says of the models needed beside the checkpoint: `kind`, `base` and `options`, by id."""
    seats: Sequence[Seat] = ()
    """Of a replay: where each picture lay in its pass when it was drawn first, where that is known."""
    also: Sequence["Claim"] = ()
    """More jobs that are this machine's now, to be drawn in the same pass."""
    traceparent: str = ""
    """The trace of the request that ordered the job."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Claim":
        """Read it from an answer."""
        return cls(
            UUID(found["job_id"]),
            found["attempt"],
            found["spec"],
            found.get("base"),
            found.get("variant"),
            found.get("companions") or {},
            seats_of(found.get("seats") or ()),
            [cls.of(each) for each in found.get("also") or ()],
            found.get("traceparent") or "",
        )


class FleetClient:
    """Talks to the API. Raises FleetAway, TooOld, Refused, and Fenced where an attempt has lost its job."""

    def __init__(self, url: str, token: str, machine_id: str, boot_id: str) -> None:
        self._fleet = url.rstrip("/")
        self._url = f"{self._fleet}/machines/v1"
        self._machine_id = machine_id
        self._boot_id = boot_id
        self._headers = {protocol.HEADER: str(protocol.SPOKEN)}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def check_in(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Say that this machine lives; one try, the next one comes in seconds anyway."""
        body = {"machine_id": self._machine_id, "boot_id": self._boot_id, **report}
        orders: dict[str, Any] = self._once("POST", "check-in", json=body, timeout=CHECK_IN_TIMEOUT)
        return orders

    def offer(self, models: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """Say which models another server has that draws for this machine; returns the ids of each, in order."""
        found = self._once("POST", "models", json={"machine_id": self._machine_id, "models": list(models)})
        return [[str(model_id) for model_id in ids] for ids in found["ids"]]

    def kind_of(self, model_id: str) -> str:
        """Ask the catalogue what kind of model this is."""
        try:
            found = requests.get(f"{self._fleet}/api/models/{quote(model_id, safe='')}", timeout=TIMEOUT)
            return str(found.json().get("kind") or "checkpoint")
        except requests.RequestException as exc:
            raise FleetAway(f"{self._fleet} does not answer: {why_not(exc)}") from exc

    def claim(self, job_id: UUID, together: Mapping[str, int] | None = None) -> Claim:
        """Ask for a job of the queue in which this one waits; the claim says which one it is.

        `together` says how many pictures this machine draws in one pass, by kind of order (`app.core.alike`): jobs that
        fit into the pass of that one come along.

        Refused when there is none, TurnedAway when this machine gets none. The same `claim_id` in each try gets the
        same answer: a claim whose answer was lost on the way is not a lost attempt.
        """
        body: dict[str, Any] = {
            "machine_id": self._machine_id,
            "boot_id": self._boot_id,
            "claim_id": str(uuid4()),
            "together": dict(together or {}),
        }
        return Claim.of(self._patiently("POST", f"jobs/{job_id}/claim", json=body))

    def picture(self, name: str) -> bytes:
        """Fetch a picture that an order begins with, by its SHA-256."""
        content: bytes = self._patiently("GET", f"inputs/{name}", read=lambda response: response.content)
        return content

    def deliver(self, job_id: UUID, attempt: int, position: int, about: Mapping[str, Any], data: bytes) -> None:
        """Bring a picture; bringing it twice changes nothing."""
        self._patiently(
            "PUT",
            f"jobs/{job_id}/attempts/{attempt}/images/{position}",
            params={**{k: v for k, v in about.items() if k != "media_type"}, "machine_id": self._machine_id},
            data=data,
            headers={"Content-Type": about["media_type"]},
        )

    def finish(self, job_id: UUID, attempt: int, outcome: Mapping[str, Any]) -> str:
        """End an attempt; returns what became of the job."""
        body = {"machine_id": self._machine_id, **outcome}
        found = self._patiently("POST", f"jobs/{job_id}/attempts/{attempt}/finish", json=body)
        return str(found["status"])

    def _patiently(self, method: str, path: str, **request: Any) -> Any:
        """Try a few times with growing waits: the API may be restarting."""
        for attempt in range(TRIES):
            try:
                return self._once(method, path, **request)
            except FleetAway as exc:
                if attempt == TRIES - 1 or isinstance(exc, TooOld):
                    raise
                time.sleep(FIRST_WAIT * 2**attempt)
        raise AssertionError("the loop above returns or raises")

    def _once(self, method: str, path: str, **request: Any) -> Any:
        """Ask once; returns the answer's JSON, or what `read` makes of it."""
        read = request.pop("read", None)
        headers = {**self._headers, **tracing.carried(), **request.pop("headers", {})}
        timeout = request.pop("timeout", TIMEOUT)
        try:
            response = requests.request(method, f"{self._url}/{path}", headers=headers, timeout=timeout, **request)
        except requests.RequestException as exc:
            raise FleetAway(f"{self._url} does not answer: {why_not(exc)}") from exc
        if response.status_code in TRANSIENT:
            raise FleetAway(f"{self._url} answered {response.status_code}")
        if read is not None and response.ok:
            return read(response)
        try:
            body: dict[str, Any] = response.json()
        except requests.JSONDecodeError as exc:
            raise FleetAway(
                f"{self._url} answered {response.status_code} without JSON: is it an Imagefleet server?"
            ) from exc
        if response.ok:
            return body
        code, facts = str(body.get("code")), body.get("facts") or {}
        if code == TooOld.code:
            raise TooOld(str(body.get("message")))
        kind = TurnedAway if "turned_away" in facts else REFUSALS.get(code, Refused)
        raise kind(response.status_code, code, str(body.get("message")))
