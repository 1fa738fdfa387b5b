"""What an Automatic1111 server has: the proof of a machine that draws with it, in place of receipts.

The server's own list is read again every few seconds, and once more before a job begins. While it does not answer,
nothing is proven, and the machine leaves all queues. What the models are called in the catalogue the fleet says.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Any

from app.core.upscaling import BUILT_IN
from tasks.machine.client import FleetClient
from tasks.machine.drivers.a1111.errors import NotHere, ServerAway, ServerFailed
from tasks.machine.drivers.a1111.wire import Server, Silent
from tasks.machine.drivers.contract import ModelFiles, OnStep
from tasks.machine.errors import FleetAway, MachineError, ModelNotProven, Refused

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often the checkpoints are listed."""

LOOKS_PER_ROUND = 15
"""Each so manyth look lists the rest too: LoRAs come with their metadata, megabytes where there are many."""

MOST_SILENT_LOOKS = 2
"""A server that loads a model may be slow to answer; one that refuses the connection is away at once."""

DRAWABLE = "checkpoint"


@dataclass(frozen=True, slots=True)
class Item:
    """A model as the server lists it."""

    kind: str
    name: str
    """By which the fleet is told of it."""
    called: str
    """By which the server is asked for it."""
    file: str = ""
    sha256: str | None = None

    def offer(self) -> dict[str, Any]:
        """Return what the fleet is told."""
        return {"name": self.name, "kind": self.kind, "file": self.file, "sha256": self.sha256}

    def files(self, model_id: str, base: str | None) -> ModelFiles:
        """Return it as drivers know models; its hash, or else its name, is the proof."""
        hashes = {self.file or self.name: f"sha256:{self.sha256}"} if self.sha256 else {}
        return ModelFiles(model_id, Path(self.called), self.sha256 or self.name, base=base, hashes=hashes)


def _checkpoint(told: Mapping[str, Any]) -> Item:
    sha256 = str(told.get("sha256") or "").lower()
    name = str(told["model_name"])
    return Item(DRAWABLE, name, str(told.get("title") or name), _file(told), sha256 if len(sha256) == 64 else None)


def _vae(told: Mapping[str, Any]) -> Item:
    name = str(told["model_name"])
    return Item("vae", name, name, _file(told))


def _lora(told: Mapping[str, Any]) -> Item:
    return Item("lora", str(told["name"]), str(told["name"]), _file(told, "path"))


def _upscaler(told: Mapping[str, Any]) -> Item:
    return Item("upscaler", str(told["name"]), str(told["name"]), _file(told, "model_path"))


def _file(told: Mapping[str, Any], key: str = "filename") -> str:
    """Return the last part of a path, of whatever system it is."""
    return PureWindowsPath(str(told.get(key) or "")).name


LISTS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], Item]]] = {
    DRAWABLE: ("sd-models", _checkpoint),
    "vae": ("sd-vae", _vae),
    "lora": ("loras", _lora),
    "upscaler": ("upscalers", _upscaler),
}
NO_MODELS = frozenset({*BUILT_IN, "None", "Automatic"})
"""What stands in its lists and is no file."""


def listed(server: Server, kind: str) -> list[Item]:
    """Return the server's models of one kind, each once; raises MachineError."""
    route, read = LISTS[kind]
    try:
        told = server.get(route)
    except NotHere:
        if kind == DRAWABLE:
            raise
        return []  # LoRAs are an extension; older ones have no list of VAEs
    if not isinstance(told, list):
        raise ServerFailed(f"{server.name} answered {route} with something that is no list")
    try:
        items = [read(each) for each in told]
    except (KeyError, TypeError, AttributeError) as exc:
        raise ServerFailed(f"{server.name} answered {route} with something that lists no models") from exc
    return list({i.name: i for i in items if i.name not in NO_MODELS and i.name.isprintable() and i.name}.values())


def embeddings(server: Server) -> list[Item]:
    """Return the textual inversions: those that fit the checkpoint it holds at the moment, and the others."""
    try:
        told = server.get("embeddings")
    except NotHere:
        return []
    known = {**(told.get("loaded") or {}), **(told.get("skipped") or {})} if isinstance(told, dict) else {}
    return [Item("embedding", name, name) for name in known if name.isprintable()]


def controlnets(server: Server) -> list[Item]:
    """Return the ControlNets of the extension sd-webui-controlnet; none where it is not there."""
    try:
        told = server.get("/controlnet/model_list")
    except ServerAway:
        raise
    except MachineError:  # beside the API anything may answer, such as a proxy's page
        return []
    names = told.get("model_list") if isinstance(told, dict) else None
    known = [name for name in names or () if isinstance(name, str) and name not in NO_MODELS and name.isprintable()]
    # Behind a name stands the head of its hash, too short to prove anything.
    return [Item("controlnet", name.partition(" [")[0], name) for name in known if name]


@dataclass(slots=True)
class Stock:
    """Knows what one server has, by the ids of the catalogue."""

    server: Server
    fleet: FleetClient
    wanted: tuple[str, ...] = ()
    """Ids or names of the checkpoints that this machine offers; none: all there are."""
    on_away: Callable[[], None] = lambda: None
    """Called at once when the server turns out to be away."""
    _items: dict[str, list[Item]] = field(default_factory=dict)
    """By kind, as last listed."""
    _named: list[Item] = field(default_factory=list)
    """What the fleet has been told of."""
    _held: dict[str, Item] = field(default_factory=dict)
    """By id."""
    _away: str | None = "its models have not been listed yet"
    _looks: int = 0
    _silent_looks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while looking: a job that begins looks too."""

    @property
    def needed(self) -> Sequence[str]:
        """Return what the operator declared."""
        return self.wanted

    def start(self) -> None:
        """Begin to look, in the background, for as long as the process lives."""
        threading.Thread(target=self._run, name="stock", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            try:
                self.look()
            except Exception:  # the outermost edge of this thread: a list that nobody reads any more proves nothing
                log.exception("looking once failed; going on")
                self._note_away("looking at its models failed; this machine's log says how", at_once=True)
            pause.wait(LOOK_SECONDS)

    def look(self) -> None:
        """List what the server has, and learn from the fleet what is new to it."""
        with self._lock:
            try:
                everything = self._looks % LOOKS_PER_ROUND == 0
                self._list(everything=everything)
                self._name(anew=everything)
                self._looks += 1
            except (FleetAway, Refused) as exc:
                log.warning("the fleet could not be told of the models of %s: %s", self.server.name, exc)
                return
            except MachineError as exc:
                self._note_away(str(exc), at_once=not isinstance(exc, Silent))
                return
            if self._away is not None:
                log.info("%s answers; it has %d models", self.server.name, len(self._held))
            self._away, self._silent_looks = None, 0

    def _list(self, *, everything: bool) -> None:
        found = {kind: listed(self.server, kind) for kind in LISTS if everything or kind == DRAWABLE}
        if everything:
            found["embedding"] = embeddings(self.server)
            found["controlnet"] = controlnets(self.server)
        self._items |= found

    def _name(self, *, anew: bool) -> None:
        """Have every model named by the fleet, where anything has changed; now and then anew, as entries may go."""
        items = [item for kind in self._items.values() for item in kind]
        if items == self._named and not anew:
            return
        ids = self.fleet.offer([item.offer() for item in items])
        held: dict[str, Item] = {}
        for item, names in zip(items, ids, strict=True):
            if self._is_wanted(item, names):
                held |= {model_id: item for model_id in names if model_id not in held}
        self._named, self._held = items, held

    def _is_wanted(self, item: Item, ids: Sequence[str]) -> bool:
        # What goes along with a checkpoint is there whether anybody declared it or not.
        return not self.wanted or item.kind != DRAWABLE or bool({item.name, *ids} & set(self.wanted))

    def _note_away(self, reason: str, *, at_once: bool) -> None:
        self._silent_looks += 1
        if not at_once and self._silent_looks < MOST_SILENT_LOOKS:
            return
        if self._away != reason:
            log.warning("leaving the queues of its models: %s", reason)
        self._away = reason
        self._looks = 0  # it comes back with all there is
        self.on_away()

    def ready(self) -> frozenset[str]:
        """Return the checkpoints whose queues may be consumed: none while the server is away."""
        if self._away is not None:
            return frozenset()
        return frozenset(model_id for model_id, item in self._held.items() if item.kind == DRAWABLE)

    def files_of(self, model_id: str, base: str | None = None) -> ModelFiles:
        """Return what the driver needs to know of a model; a checkpoint is looked for anew.

        Raises ServerAway when the server does not answer, and ModelNotProven when it no longer has it.
        """
        if (item := self._held.get(model_id)) is None:
            raise ModelNotProven(f"{self.server.name} has no model {model_id}")
        if item.kind == DRAWABLE:
            self.look()
            if self._away is not None:
                raise ServerAway(self._away)
            if (item := self._held.get(model_id)) is None:
                raise ModelNotProven(f"{self.server.name} no longer has {model_id}")
        return item.files(model_id, base)

    def companions_of(
        self, ids: Sequence[str], bases: Mapping[str, str | None], _on_step: OnStep | None = None
    ) -> dict[str, ModelFiles]:
        """Return what an order needs beside its model. Raises NotHere for what the server lacks: nothing brings it."""
        if missing := [each for each in ids if each not in self._held]:
            raise NotHere(f"{self.server.name} does not have {', '.join(missing)}")
        return {each: self.files_of(each, bases.get(each)) for each in ids}

    def holdings(self, joined: frozenset[str]) -> list[dict[str, Any]]:
        """Say what the server has; while it is away, that and since when nothing can be drawn with it."""
        away, held = self._away, self._held
        told = [_holding(model_id, item, joined, away) for model_id, item in held.items()]
        names = {item.name for item in held.values()}
        missing = [each for each in self.wanted if each not in held and each not in names]
        return told + [self._missing(model_id, away) for model_id in missing]

    def about(self) -> dict[str, Any]:
        """Describe the server for the check-in: whether it is away, and why."""
        return {"away": self._away} if self._away else {}

    def _missing(self, model_id: str, away: str | None) -> dict[str, Any]:
        if away is not None:
            return {"model_id": model_id, "state": "error", "error_code": "server_away", "error": away}
        known = [item.name for item in self._named if item.kind == DRAWABLE]
        near = get_close_matches(model_id, known) or known[:5]
        reason = f"{self.server.name} has no checkpoint {model_id}; it has {', '.join(near) or 'none'}"
        return {"model_id": model_id, "state": "error", "error_code": "not_there", "error": reason}


def _holding(model_id: str, item: Item, joined: frozenset[str], away: str | None) -> dict[str, Any]:
    if away is not None:
        return {"model_id": model_id, "state": "error", "error_code": "server_away", "error": away}
    # What goes along with a checkpoint has no queue; that it is listed is all there is to it.
    is_ready = model_id in joined or item.kind != DRAWABLE
    return {"model_id": model_id, "state": "ready" if is_ready else "verifying"}
