"""Engines in a device's memory: pipelines that are loaded before anybody orders, and stay until they are let go."""

import logging
from typing import Any

from tasks.machine.drivers import companions
from tasks.machine.drivers.adapters import Wardrobe
from tasks.machine.drivers.contract import Order, OutOfMemory, Weight
from tasks.machine.drivers.memory import forget_peak, shortage
from tasks.machine.drivers.pipelines import Pipelines

log = logging.getLogger(__name__)


class Pinned:
    """Pins pipelines in the cache. Only one thread at a time may change what is here; see `Driver`."""

    def __init__(self, torch: Any, device: str, pipelines: Pipelines, wardrobe: Wardrobe) -> None:
        self._torch, self._device = torch, device
        self._pipelines, self._wardrobe, self._cache = pipelines, wardrobe, pipelines.cache
        self._held: dict[str, tuple[str, ...]] = {}
        """The models of each engine, its checkpoint first."""

    def weigh(self, order: Order) -> Weight:
        """Estimate what an engine takes, from the headers of its files; raises CannotDraw."""
        spec = order.spec
        found = self._pipelines.estimate(order.model, spec.width, spec.height)
        along = self._along(order)
        vae = along.pop(spec.vae_id or "", 0)
        return Weight(found.all_weights + vae, found.activations + sum(along.values()))

    def _along(self, order: Order) -> dict[str, int]:
        return companions.weigh(order, self._pipelines.dtype_of(self._pipelines.plan_of(order.model)))

    def hold(self, name: str, order: Order) -> int:
        """Load and pin; returns what its networks take there, measured, bytes.

        LoRAs and embeddings are put on once, so that what does not fit is known now, and taken off again: they are worn
        for one picture at a time. Raises CannotDraw, and OutOfMemory before anything that is needed has left.
        """
        wanted = self.weigh(order)
        models = tuple(each for each in (order.spec.model_id, order.spec.vae_id) if each)
        if self._cache.mode_of(models[0]):  # it was loaded while memory was short
            self._cache.drop(models[0])
        missing = 0 if models[0] in self._cache.on_device() else wanted.weights
        needed, there = missing + wanted.drawing, self._cache.could_have(besides=models)
        if needed > there:
            raise OutOfMemory(needed, there)
        forget_peak(self._torch, self._device)
        try:
            before = self._allocated()
            # Borrowing makes the room.
            with self._pipelines.borrowed(order, self._along(order)) as loaded, self._wardrobe.worn(loaded, order):
                size = sum(self._cache.size_of(each) for each in models)
        except (RuntimeError, MemoryError) as exc:
            short = shortage(exc, self._torch, self._device)
            if short is None:
                raise
            try:
                raise short from exc
            finally:
                del short  # or it and its traceback would hold each other, and all tensors of what failed
        for each in models:
            self._cache.pin(each)
        self._held[name] = models
        taken = self._allocated() - before
        log.info("engine %s: %s takes %.2f GB, estimated as %.2f", name, models[0], size / 1e9, wanted.weights / 1e9)
        # What was there before has taken nothing more now.
        return taken if missing and taken > 0 else size

    def let_go(self, name: str) -> None:
        """Unpin an engine, and free what no other one has."""
        models = self._held.pop(name, ())
        still = {each for others in self._held.values() for each in others}
        for each in models:
            if each not in still:
                self._cache.unpin(each)
                self._cache.drop(each)

    def holds(self, name: str) -> bool:
        """Say whether an engine is in memory; one that ran out of memory while it drew may have had to leave."""
        models = self._held.get(name, ())
        return bool(models) and models[0] in self._cache.on_device()

    def room(self) -> int:
        """Return how many bytes an engine more could have: what is free, and what may leave."""
        return self._cache.could_have()

    def most(self) -> int:
        """Return how many bytes an engine could have if no other were there."""
        return self._cache.could_have(besides=tuple(each for models in self._held.values() for each in models))

    def _allocated(self) -> int:
        return int(self._torch.cuda.memory_allocated()) if self._device == "cuda" else 0
