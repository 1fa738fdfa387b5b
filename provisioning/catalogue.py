"""Asking the fleet's API what a model is: one request for all ids, then rounds for dependencies until none is new.

The protocol is `POST /api/models/batch` of the model API specification (docs/, seed 003).
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from provisioning.errors import (
    BadEntry,
    LookupFailed,
    LookupRefused,
    NotInCatalogue,
    ProvisioningError,
)
from provisioning.settings import Settings
from provisioning.transport import Transport

BATCH_PATH = "/api/models/batch"
IDS_A_REQUEST = 1000
"""The server's limit; more are asked for in several requests."""
LOOKUP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as the catalogue describes it.

    `size_bytes` is exact. `size_hint` comes from file_size_gb, which is for people and plans and never a proof.
    """

    id: str
    name: str
    download_url: str
    save_path: str
    hash: str | None = None
    size_bytes: int | None = None
    size_hint: int | None = None
    auth_required: bool = False
    auth_provider: str | None = None
    dependencies: tuple[str, ...] = ()
    description: str = ""

    @property
    def size(self) -> int | None:
        """The best guess at the size, for plans."""
        return self.size_bytes if self.size_bytes is not None else self.size_hint

    @classmethod
    def from_json(cls, content: Mapping[str, Any], base_url: str) -> "Entry":
        """Read an entry; unknown keys are ignored, a relative download_url starts at `base_url`. Raises `BadEntry`."""
        read = _EntryReading(content)
        name = read.text("name") or ""
        save_path = read.text("save_path") or name
        url = read.text("download_url") or ""
        entry = cls(
            id=str(content["id"]),
            name=name,
            download_url=urljoin(base_url, url) if url else "",
            save_path=save_path + name if save_path.endswith("/") else save_path,
            hash=read.text("hash"),
            size_bytes=read.size("size_bytes", 1),
            size_hint=read.size("file_size_gb", 10**9),
            auth_required=bool(content.get("auth_required")),
            auth_provider=read.text("auth_provider"),
            dependencies=read.ids("dependencies"),
            description=read.text("description") or "",
        )
        if not url:
            read.wrong.append("download_url is empty")
        if read.wrong:
            raise BadEntry(f"the catalogue's entry for {entry.id} is wrong: {'; '.join(read.wrong)}; correct it there")
        return entry


class _EntryReading:
    """One pass over an entry that collects every complaint."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.wrong: list[str] = []

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is None or isinstance(value, str):
            return (value or "").strip() or None
        self.wrong.append(f"{key} is {value!r}, expected text")
        return None

    def size(self, key: str, unit: int) -> int | None:
        value = self.content.get(key)
        if value is None:
            return None
        try:
            size = int(float(value) * unit) if unit > 1 else int(value)
        except (TypeError, ValueError, OverflowError):
            size = -1
        if size < 0 or isinstance(value, bool):
            self.wrong.append(f"{key} is {value!r}, expected a number")
            return None
        return size

    def ids(self, key: str) -> tuple[str, ...]:
        value = self.content.get(key) or []
        if isinstance(value, list) and all(isinstance(each, str) and each for each in value):
            return tuple(dict.fromkeys(value))
        self.wrong.append(f"{key} is {value!r}, expected a list of model ids")
        return ()


@dataclass(slots=True)
class Findings:
    """What the catalogue said: entries, and for the other ids the error that tells why there is none."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: dict[str, ProvisioningError] = field(default_factory=dict)

    def add(self, other: "Findings") -> None:
        """Take over what a later lookup found."""
        for model_id in (*other.entries, *other.problems):
            self.entries.pop(model_id, None)
            self.problems.pop(model_id, None)
        self.entries |= other.entries
        self.problems |= other.problems

    def __contains__(self, model_id: object) -> bool:
        return model_id in self.entries or model_id in self.problems


class Catalogue:
    """The fleet's API, as far as provisioning asks it."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.url = settings.fleet_url + BATCH_PATH
        self.token = settings.machine_token
        self.transport = transport

    def closure(self, model_ids: Iterable[str], timeout: float = LOOKUP_SECONDS) -> Findings:
        """Look up models and everything they depend on. Cycles are fine: no id is asked for twice.

        Raises `LookupFailed` when trying again may help, `LookupRefused` when it will not.
        """
        found = Findings()
        missing = list(dict.fromkeys(model_ids))
        while missing:
            for start in range(0, len(missing), IDS_A_REQUEST):
                found.add(self._ask(missing[start : start + IDS_A_REQUEST], timeout))
            wanted = (each for entry in found.entries.values() for each in entry.dependencies)
            missing = [each for each in dict.fromkeys(wanted) if each not in found]
        return found

    def _ask(self, model_ids: Sequence[str], timeout: float) -> Findings:
        try:
            response = self.transport.post_json(
                self.url, {"model_ids": list(model_ids), "near": True}, self.token, timeout
            )
        except ProvisioningError as error:
            raise LookupFailed(
                f"the fleet's API cannot be asked: {error.message}; FLEET_URL says where it is"
            ) from error
        if response.status == 400 and len(model_ids) > 1:
            # A server with a smaller limit, or that chokes on one id: halves find out, and the others are served.
            half = len(model_ids) // 2
            found = self._ask(model_ids[:half], timeout)
            found.add(self._ask(model_ids[half:], timeout))
            return found
        return self._read(model_ids, response.status, response.data)

    def _read(self, asked: Sequence[str], status: int, body: bytes) -> Findings:
        if status == 400 and len(asked) == 1:
            trouble = BadEntry(f"{self.url} will not look up {asked[0]!r}: {_excerpt(body)}")
            return Findings(problems={asked[0]: trouble})
        if status in {401, 403}:
            raise LookupRefused(f"{self.url} answered {status}: set MACHINE_TOKEN to the token that the API expects")
        if status in {408, 429} or status >= 500:
            raise LookupFailed(f"{self.url} answered {status}: {_excerpt(body)}")
        if status != 200:
            raise LookupRefused(f"{self.url} answered {status}, expected 200; does FLEET_URL point at the fleet's API?")
        try:
            answer = json.loads(body)
            models, not_found = answer["models"], answer.get("not_found") or []
            near = answer.get("near") or {}
            rows = {str(each["id"]): each for each in models}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LookupFailed(
                f"{self.url} answered something else than models: {_excerpt(body)}; does FLEET_URL point at the API?",
            ) from None
        found = Findings()
        for model_id in dict.fromkeys([*asked, *(each for each in not_found if isinstance(each, str))]):
            if model_id not in rows:
                found.problems[model_id] = unknown(model_id, near.get(model_id) or (), rows)
                continue
            try:
                found.entries[model_id] = Entry.from_json(rows[model_id], self.url)
            except BadEntry as error:
                found.problems[model_id] = error
        return found


def unknown(model_id: str, near: Iterable[str], known: Iterable[str]) -> NotInCatalogue:
    """Make the error for an id that the catalogue does not have, with names that look like it."""
    names = list(near) or difflib.get_close_matches(model_id, list(known), n=3)
    hint = f"did you mean {', '.join(names)}?" if names else "check MACHINE_MODELS_NEEDED, or add it there"
    if " " in model_id:
        hint += " (several ids are separated by commas)"
    return NotInCatalogue(f"the catalogue has no model {model_id!r}; {hint}")


def _excerpt(body: bytes) -> str:
    return repr(body[:200].decode("utf-8", "replace"))
