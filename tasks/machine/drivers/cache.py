"""Pipelines in memory, within a budget: those on the device that draws, and behind them those in the computer's memory.

A pipeline is made of parts, the networks. Equal parts of several models are held once. Where there is no room, the
pipeline that was used least recently goes first, from the device to the computer's memory, and from there out of it;
never one that draws, nor one that is pinned. One thread changes what is here; others may ask what there is.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

Gone = Callable[[], Any]
"""Asks for a network that should be gone: answers None once it is."""


def _watched(network: Any) -> Gone:
    """Watch whether a network goes; of one that cannot be watched it is taken that it stays."""
    try:
        return weakref.ref(network)
    except TypeError:
        return lambda: True


@dataclass(frozen=True, slots=True)
class Place:
    """Memory that parts can be in."""

    device: str
    """In torch's spelling."""
    free: Callable[[], int]
    """Measure what could still be had, bytes."""
    budget: int = 0
    """Bytes that all parts here may take together, as long as they are free; 0: what is free, less the reserve."""
    reserve: int = 0
    """Bytes that are left to others where nothing else is said."""


@dataclass(slots=True)
class Part:
    """One network in memory."""

    network: Any
    size: int
    """Bytes."""
    place: Place
    users: set[str] = field(default_factory=set)
    """The models that have it."""


@dataclass(slots=True)
class Held(Generic[T]):
    """A model in memory."""

    model_id: str
    identity: str
    """What it was loaded from; under another one it is stale."""
    mode: str
    """Empty, or how else it was loaded, such as frugally: then it cannot be moved, and another mode loads it anew."""
    value: T
    parts: tuple[str, ...]
    """The keys of its parts."""


class Cache(Generic[T]):
    """Holds models of type T."""

    def __init__(
        self,
        device: Place,
        behind: Place | None,
        move: Callable[[Any, str], None],
        left: Callable[[Sequence[Gone]], None] = lambda _: None,
    ) -> None:
        """Take the device's memory, what is behind it (None: nothing), and how to move a network there.

        `left` is called after something left a place, and told which networks nobody here has any more.
        """
        self._device, self._behind = device, behind
        self._move, self._left = move, left
        self._held: dict[str, Held[T]] = {}
        """By model id, the one used least recently first."""
        self._parts: dict[str, Part] = {}
        self._pinned: set[str] = set()
        self._drawing: set[str] = set()

    def find(self, model_id: str, identity: str, mode: str) -> T | None:
        """Return a model if it is in memory, wherever; what is stale, or loaded another way, leaves."""
        held = self._held.get(model_id)
        if held is None:
            return None
        if (held.identity, held.mode) != (identity, mode):
            del held  # or its networks were still there when it is looked whether they are gone
            self.drop(model_id)
            return None
        self._held[model_id] = self._held.pop(model_id)
        return held.value

    def mode_of(self, model_id: str) -> str | None:
        """Say how a model that is in memory was loaded; None for one that is not."""
        held = self._held.get(model_id)
        return held.mode if held else None

    def taken_by(self, model_id: str) -> int:
        """Return what the parts of a model take on the device, bytes, where no other model has them too."""
        held = self._held.get(model_id)
        parts = [self._parts[key] for key in held.parts] if held else []
        return sum(part.size for part in parts if part.place is self._device and part.users == {model_id})

    def bring(self, model_id: str, beside: int = 0) -> bool:
        """Bring a model that is in memory to the device; False: there is no room for it, and `beside` bytes more."""
        parts = [self._parts[key] for key in self._held[model_id].parts]
        missing = [part for part in parts if part.place is not self._device]
        with self.drawing(model_id):
            fits = self.make_room(sum(part.size for part in missing) + beside)
        if missing:
            log.info("%s comes back to %s", model_id, self._device.device)
        for part in missing:
            self._put(part, self._device)
        return fits

    def add(self, held: Held[T], networks: Mapping[str, tuple[Any, int]]) -> None:
        """Hold a model that was loaded on the device; `networks` are its parts by key, with their sizes in bytes."""
        self.drop(held.model_id)
        for key, (network, size) in networks.items():
            part = self._parts.setdefault(key, Part(network, size, self._device))
            part.users.add(held.model_id)
        self._held[held.model_id] = held

    def has_on_device(self, key: str) -> bool:
        """Say whether a part is on the device already."""
        part = self._parts.get(key)
        return part is not None and part.place is self._device

    def network(self, key: str) -> Any | None:
        """Return a part that some model has, on the device."""
        part = self._parts.get(key)
        if part is None:
            return None
        self._put(part, self._device)
        return part.network

    def make_room(self, wanted: int) -> bool:
        """Let models leave the device until so many bytes are free; False when those that must stay leave too few."""
        while self.room() < wanted:
            victim = next((each for each in self.on_device() if self._may_leave(each)), None)
            if victim is None:
                return False
            self._leave(victim)
        return True

    def room(self) -> int:
        """Return how many bytes more can be had on the device without anything leaving it."""
        return self._room(self._device)

    def could_have(self, besides: Sequence[str] = ()) -> int:
        """Return how many bytes could be had on the device if all left that may; `besides` counts as if it may too."""
        held = list(self._held.items())
        staying = {
            key
            for model_id, each in held
            if model_id not in besides and not self._may_leave(model_id)
            for key in each.parts
        }
        going = [part for key, part in list(self._parts.items()) if part.place is self._device and key not in staying]
        return self.room() + sum(part.size for part in going)

    def size_of(self, model_id: str) -> int:
        """Return what a model's parts take, bytes; 0 for one that is not in memory."""
        held = self._held.get(model_id)
        return sum(self._parts[key].size for key in held.parts) if held else 0

    def on_device(self) -> list[str]:
        """Name the models that could draw at once, the one used least recently first."""
        return [model_id for model_id in list(self._held) if not self._is_behind(model_id)]

    def behind(self) -> list[str]:
        """Name the models that wait in the computer's memory, the one used least recently first."""
        return [model_id for model_id in list(self._held) if self._is_behind(model_id)]

    def used(self, device: str) -> int:
        """Return what all parts in a memory take, bytes; shared ones count once."""
        return sum(part.size for part in list(self._parts.values()) if part.place.device == device)

    def pin(self, model_id: str) -> None:
        """Keep a model where it is until it is unpinned."""
        self._pinned.add(model_id)

    def unpin(self, model_id: str) -> None:
        """Let a model leave again."""
        self._pinned.discard(model_id)

    @contextmanager
    def drawing(self, model_id: str) -> Iterator[None]:
        """Keep a model on the device for the length of a block."""
        before = model_id in self._drawing
        self._drawing.add(model_id)
        try:
            yield
        finally:
            if not before:
                self._drawing.discard(model_id)

    def drop(self, model_id: str) -> None:
        """Let go of a model; parts that others have stay."""
        held = self._held.pop(model_id, None)
        if held is None:
            return
        gone = list[Gone]()
        for key in held.parts:
            self._parts[key].users.discard(model_id)
            if not self._parts[key].users:
                gone.append(_watched(self._parts.pop(key).network))
        del held
        self._left(gone)

    def clear(self) -> None:
        """Let go of everything, pinned or not."""
        gone = [_watched(part.network) for part in self._parts.values()]
        self._held.clear()
        self._parts.clear()
        self._left(gone)

    def _leave(self, model_id: str) -> None:
        """Move a model behind the device, or out where it cannot stay there."""
        behind = self._behind
        going = [self._parts[key] for key in self._held[model_id].parts if self._is_last_here(key, model_id)]
        if behind is None or self._held[model_id].mode or not self._make_room_behind(sum(part.size for part in going)):
            log.info("%s leaves the memory", model_id)
            self.drop(model_id)
            return
        log.info("%s leaves %s for the memory behind it", model_id, self._device.device)
        for part in going:
            self._put(part, behind)
        if going:
            self._left(())
        else:  # all that it has is another one's too, and stays with that one
            self.drop(model_id)

    def _make_room_behind(self, wanted: int) -> bool:
        behind = self._behind
        while behind is not None and self._room(behind) < wanted:
            # Not the one that is just being brought to the device, either.
            victim = next((each for each in self.behind() if self._may_leave(each)), None)
            if victim is None:
                return False
            log.info("%s leaves the memory", victim)
            self.drop(victim)
        return behind is not None

    def _room(self, place: Place) -> int:
        if place.budget:  # which is of no use where others have taken the memory
            return min(place.budget - self.used(place.device), place.free())
        return place.free() - place.reserve

    def _is_behind(self, model_id: str) -> bool:
        held = self._held.get(model_id)
        parts = [self._parts.get(key) for key in held.parts] if held else []
        return any(part is not None and part.place is not self._device for part in parts)

    def _is_last_here(self, key: str, model_id: str) -> bool:
        """Say whether no other model on the device has this part."""
        part = self._parts[key]
        others = part.users - {model_id}
        return part.place is self._device and all(self._is_behind(other) for other in others)

    def _may_leave(self, model_id: str) -> bool:
        return model_id not in self._pinned and model_id not in self._drawing

    def _put(self, part: Part, place: Place) -> None:
        if part.place is not place:
            self._move(part.network, place.device)
            part.place = place
