"""The engines of a machine: what the fleet wants in memory is brought there and kept, the rest leaves.

The server says with every check-in which engines this machine should hold. One thread compares that with what is held,
and changes one engine at a time, while nothing is drawn: so a job that an engine draws ends before the engine leaves.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from app.core.lifecycle import EngineState
from app.core.spec import GenerationSpec
from tasks.machine.companions import CompanionsOf, FilesOf
from tasks.machine.drivers.contract import Driver, Order, OutOfMemory, Pinning, Step, Weight
from tasks.machine.errors import MachineError, ModelNotProven

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often it is looked whether proofs still hold, and whether a driver had to let go of an engine."""

NOT_ENOUGH_MEMORY = "not_enough_memory"


@dataclass(slots=True)
class Engine:
    """An engine that the fleet wants here."""

    engine_id: str
    spec: GenerationSpec
    base: str | None
    variant: str | None
    state: EngineState = EngineState.STARTING
    estimated: int | None = None
    """Bytes."""
    measured: int | None = None
    error_code: str | None = None
    error: str | None = None
    identity: str = ""
    """Of the files that it was loaded from."""
    leases: ExitStack = field(default_factory=ExitStack)
    """Held while it is in memory: its files are not evicted."""

    def fail(self, code: str, reason: str) -> None:
        """Note that it could not be held."""
        log.error("engine %s cannot be held: %s", self.engine_id, reason)
        self.state, self.measured = EngineState.CLOSED, None
        self.error_code, self.error = code, reason
        self.leases.close()


@dataclass(slots=True)
class EngineKeeper:
    """Holds engines. `follow` and what only asks may be called from any thread."""

    driver: Callable[[], Driver]
    files_of: FilesOf
    companions_of: CompanionsOf
    lease: Callable[[str], Any]
    device_lock: threading.Lock
    """Held while anybody draws on this device."""
    advertised: Callable[[], frozenset[str]] = frozenset
    """The models whose queues are consumed: they are weighed for the fleet."""
    _wanted: Mapping[str, Engine] = field(default_factory=dict)
    _held: dict[str, Engine] = field(default_factory=dict)
    _weights: dict[str, tuple[str, Weight | None]] = field(default_factory=dict)
    """By model id: what was weighed, and what came out; None: it is no checkpoint."""
    _room: dict[str, int | None] | None = None
    """None: this machine cannot hold engines, or does not know yet."""
    _news: threading.Event = field(default_factory=threading.Event)
    _over: bool = False

    def start(self) -> None:
        """Begin keeping, in the background."""
        threading.Thread(target=self._run, name="engines", daemon=True).start()

    def follow(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Hold these engines, as a check-in's answer names them, and no others."""
        known = self._wanted
        self._wanted = {
            each["engine_id"]: known.get(each["engine_id"])
            or Engine(each["engine_id"], GenerationSpec.from_json(each["spec"]), each.get("base"), each.get("variant"))
            for each in wanted
        }
        if set(self._wanted) != set(known):
            self._news.set()

    def ready(self) -> frozenset[str]:
        """Return the engines whose queues may be consumed."""
        return frozenset(name for name, each in self._wanted.items() if each.state == EngineState.READY)

    def reports(self, joined: frozenset[str]) -> list[dict[str, Any]]:
        """Say how far this machine is with each engine, as a check-in has it; only one in `joined` counts as ready."""
        return [_report(each, joined) for each in {**self._held, **self._wanted}.values()]

    def farewell(self) -> list[dict[str, Any]]:
        """Say that no engine is held any more, because this machine stops."""
        reason = {"error_code": "machine_stopped", "error": "its machine was stopped"}
        return [
            {"engine_id": name, "state": str(EngineState.CLOSED), **reason} for name in {**self._held, **self._wanted}
        ]

    def device(self) -> dict[str, int | None]:
        """Say how much room there is for engines; nothing where none can be held."""
        return dict(self._room or {})

    def weight_of(self, model_id: str) -> dict[str, int]:
        """Say what a model would take, as a check-in has it; nothing where that is not known."""
        _, found = self._weights.get(model_id, ("", None))
        return {} if found is None else {"weights_bytes": found.weights, "drawing_bytes": found.drawing}

    def _run(self) -> None:
        pinning: Pinning | None = getattr(self.driver(), "pinned", None)
        if pinning is None:
            return
        while not self._over:
            try:
                self.look(pinning)
            except Exception:  # the outermost edge of this thread
                log.exception("keeping engines failed once; going on")
            self._news.wait(LOOK_SECONDS)
            self._news.clear()

    def look(self, pinning: Pinning) -> None:
        """Bring what is held to what is wanted."""
        for name in [name for name in self._held if name not in self._wanted]:
            self._let_go(pinning, name)
        for engine in list(self._wanted.values()):
            if engine.state == EngineState.READY:
                self._check(pinning, engine)
            if engine.state == EngineState.STARTING:
                self._hold(pinning, engine)
        for model_id in self.advertised():
            self._weigh(pinning, model_id)
        # While somebody draws, what that takes for a moment would look like room that is missing.
        if self.device_lock.acquire(blocking=False):
            try:
                self._measure(pinning)
            finally:
                self.device_lock.release()

    def _measure(self, pinning: Pinning) -> None:
        self._room = {"engine_room": pinning.room(), "engine_most": pinning.most()}

    def _hold(self, pinning: Pinning, engine: Engine) -> None:
        self._held[engine.engine_id] = engine
        try:
            for model_id in (engine.spec.model_id, *engine.spec.companions):
                engine.leases.enter_context(self.lease(model_id))
            order = self._order_of(engine, partial(self._still_wanted, engine))
            engine.identity, engine.estimated = order.model.identity, pinning.weigh(order).weights
            with self.device_lock:
                if self._wanted.get(engine.engine_id) is not engine:
                    return  # it was stopped while it waited for its turn
                engine.measured = pinning.hold(engine.engine_id, order)
                self._measure(pinning)
            engine.state = EngineState.READY
            log.info(
                "engine %s is in memory: %d bytes, estimated %d", engine.engine_id, engine.measured, engine.estimated
            )
        except _NotWanted:
            return
        except OutOfMemory as exc:
            engine.fail(NOT_ENOUGH_MEMORY, f"Not enough VRAM to start: {exc}")
        except MachineError as exc:
            engine.fail(exc.code, str(exc))
        except Exception as exc:  # one engine's surprise must not keep the others from being held
            log.exception("engine %s could not be loaded", engine.engine_id)
            engine.fail("internal_error", f"{type(exc).__name__}: {exc}")

    def _order_of(self, engine: Engine, on_step: Callable[[Step], None]) -> Order:
        """Make an order as the engine's jobs are, of models that are proven here; companions are fetched if need be."""
        model = replace(self.files_of(engine.spec.model_id, engine.base), variant=engine.variant)
        return Order(engine.spec, model, self.companions_of(engine.spec.companions, {}, on_step))

    def _still_wanted(self, engine: Engine, _step: Step) -> None:
        if self._wanted.get(engine.engine_id) is not engine:
            raise _NotWanted

    def _check(self, pinning: Pinning, engine: Engine) -> None:
        """Let go of an engine whose proof has gone, and load one again that the driver had to let go of."""
        try:
            files = self.files_of(engine.spec.model_id, engine.base)
        except ModelNotProven as exc:
            self._free(pinning, engine)
            engine.fail(exc.code, str(exc))
            return
        if files.identity != engine.identity:
            self._free(pinning, engine)
            engine.state = EngineState.STARTING
        elif not pinning.holds(engine.engine_id):
            log.warning("engine %s had to leave the memory; loading it again", engine.engine_id)
            engine.state = EngineState.STARTING

    def _let_go(self, pinning: Pinning, name: str) -> None:
        engine = self._held[name]
        self._free(pinning, engine)
        engine.leases.close()
        # Only now: as long as it is reported, the fleet knows that its memory is not free yet.
        del self._held[name]
        log.info("engine %s has left the memory", name)

    def _free(self, pinning: Pinning, engine: Engine) -> None:
        with self.device_lock:
            pinning.let_go(engine.engine_id)
            self._measure(pinning)

    def _weigh(self, pinning: Pinning, model_id: str) -> None:
        try:
            files = self.files_of(model_id, None)
            if self._weights.get(model_id, ("",))[0] != files.identity:
                self._weights[model_id] = (files.identity, None)
                order = Order(GenerationSpec(model_id=model_id, prompt=""), files)
                self._weights[model_id] = (files.identity, pinning.weigh(order))
        except MachineError as exc:
            log.debug("%s is not weighed: %s", model_id, exc)  # a LoRA, or a proof that has just gone


class _NotWanted(Exception):  # not an error: somebody stopped the engine while it was being started
    """Nobody wants this engine any more."""


def _report(engine: Engine, joined: frozenset[str]) -> dict[str, Any]:
    state = engine.state
    if state == EngineState.READY and engine.engine_id not in joined:
        state = EngineState.STARTING
    return {
        "engine_id": engine.engine_id,
        "state": str(state),
        "bytes_estimated": engine.estimated,
        "bytes_measured": engine.measured,
        "error_code": engine.error_code,
        "error": engine.error,
    }
