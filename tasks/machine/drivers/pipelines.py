"""The pipelines of a machine: found in memory, brought back to the device, or loaded, within the memory there is."""

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tasks.machine.drivers import ladder
from tasks.machine.drivers.cache import Cache, Gone, Held, Place
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tasks.machine.drivers.estimate import Estimate, activations, estimate, weight
from tasks.machine.drivers.families import Family
from tasks.machine.drivers.loading import Loading, networks_of, size_of, tensors_of_pickle
from tasks.machine.drivers.memory import free_of_computer, free_of_cuda
from tasks.machine.drivers.peaks import CudaMeter, Key, Peaks
from tasks.machine.drivers.placing import place, taken
from tasks.machine.drivers.plan import Plan, plan
from tasks.machine.drivers.previews import LatentColours
from tasks.machine.drivers.speed import quicken

log = logging.getLogger(__name__)

FEW_PARAMETERS = 50_000_000
"""Below this a second CPU thread costs more than it brings: the demo model (5 million) takes 0.21 s a picture with one,
0.35 s with two, and some 12 s with two when other programs use the cores."""

DEVICE_RESERVE = 500_000_000
"""Bytes of a GPU that are left to CUDA itself and to fragments, beside what drawing is estimated to take."""

COMPUTER_RESERVE = 2_000_000_000
"""Bytes of the computer's memory that are left to everybody else."""

HALVES = {"F16": "float16", "BF16": "bfloat16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""torch's names of what files and the catalogue call otherwise."""


@dataclass(slots=True)
class Loaded:
    """A pipeline in memory."""

    plan: Plan
    pipeline: Any
    scheduler: Any
    """As the model brought it: every sampler is made from its configuration, never from another sampler's."""
    threads: int
    """How many of the CPU's it draws with."""
    colours: LatentColours
    """What its latents look like, for previews."""
    rung: str = ladder.WHOLE
    """How it was loaded to fit."""

    @property
    def family(self) -> Family | None:
        """Return its row."""
        return self.plan.family


class Pipelines:
    """Holds the pipelines of one device. One thread loads and draws; others may ask what is loaded."""

    def __init__(self, torch: Any, device: str, settings: DriverSettings) -> None:
        self._torch, self._device, self._settings = torch, device, settings
        self._threads: int = torch.get_num_threads()
        self._plans: dict[str, tuple[ModelFiles, Plan]] = {}
        self._fitting: dict[str, int] = {}
        """How many orders in turn had room for a model on a better rung than it is on."""
        self._ran_out: set[Key] = set()
        """What ran out of memory although it was estimated to fit."""
        computer = Place("cpu", free_of_computer, settings.cpu_cache, COMPUTER_RESERVE)
        cuda = Place("cuda", lambda: free_of_cuda(torch), settings.gpu_memory, DEVICE_RESERVE)
        self.cache: Cache[Any] = (
            Cache(cuda, computer, _move, self._tidy) if device == "cuda" else Cache(computer, None, _move, self._tidy)
        )
        self._rungs = ladder.ON_GPU if device == "cuda" else ladder.ON_CPU
        learnt = settings.folder / "memory.json" if settings.folder else None
        self.peaks = Peaks(CudaMeter(torch.cuda) if device == "cuda" else None, learnt)

    def plan_of(self, model: ModelFiles) -> Plan:
        """Find out how a model is loaded; raises CannotDraw. Answered from memory while nothing of it changes."""
        known = self._plans.get(model.model_id)
        if known is None or known[0] != model:
            found = plan(model, allow_pickles=self._settings.allow_pickles, read_pickle=tensors_of_pickle)
            known = self._plans[model.model_id] = (model, found)
        return known[1]

    def estimate(self, model: ModelFiles, width: int | None = None, height: int | None = None) -> Estimate:
        """Say what drawing with a model will take, before it is loaded; raises CannotDraw."""
        found = self.plan_of(model)
        return estimate(found, self.dtype_of(found), width, height)

    def dtype_of(self, found: Plan) -> str:
        """Choose the precision to draw in: as the catalogue says, or the file's own, or what suits the family.

        On a CPU it is always float32: half precision is slower there, and not everything has it.
        """
        if self._device == "cpu":
            return "float32"
        usual = found.family.half if found.family else "bfloat16"
        chosen = HALVES.get(found.model.variant or found.found.dtype or "", usual)
        return "float16" if chosen == "bfloat16" and not self._torch.cuda.is_bf16_supported() else chosen

    @contextmanager
    def borrowed(self, order: Order, along: Mapping[str, int] = MappingProxyType({})) -> Iterator[Loaded]:
        """Lend the pipeline for an order, on the device; it stays there for the length of the block.

        `along` is what the order's companions will take there as well, bytes by id.
        """
        there = [each for each in self.cache.on_device() if each in along]
        with ExitStack() as staying:
            for each in there:
                staying.enter_context(self.cache.drawing(each))
            loaded = self._get(order, sum(size for each, size in along.items() if each not in there))
        with self.cache.drawing(order.model.model_id):
            yield loaded

    @property
    def allow_pickles(self) -> bool:
        """Say whether files in pickle format may be loaded too."""
        return self._settings.allow_pickles

    @contextmanager
    def beside(
        self,
        model: ModelFiles,
        dtype: str,
        size: int,
        load: Callable[[Any, str], Any],
        *,
        drawing: int = 0,
        on_computer: bool = False,
    ) -> Iterator[Any]:
        """Lend a network that goes along with pipelines: it is held in memory, counted and let go as they are.

        `size` is what it is estimated to take, and `drawing` what has to stay free beside it, bytes; `load` makes it,
        of torch's dtype and on a device. It stays on the device for the length of the block.

        `on_computer`: it is used on the computer's processor, beside a GPU that has no room, and not held.
        """
        if on_computer and self._device != "cpu":
            yield load(getattr(self._torch, dtype), "cpu")
            return
        identity = f"{model.identity} in {dtype}"
        network = self.cache.find(model.model_id, identity, "")
        if network is None:
            self.cache.make_room(size + drawing)
            network = load(getattr(self._torch, dtype), self._device)
            key = f"{model.model_id}/"
            self.cache.add(Held(model.model_id, identity, "", network, (key,)), {key: (network, size_of(network))})
            log.info("%s is loaded: %.2f GB", model.model_id, size_of(network) / 1e9)
        else:
            self.cache.bring(model.model_id, drawing)
        with self.cache.drawing(model.model_id):
            yield network

    def free(self) -> None:
        """Give back the memory of all pipelines, and of what failed in the middle of a drawing."""
        self.cache.clear()
        gc.collect()  # errors and their frames hold each other, and the tensors in them
        self._tidy(())

    def activations(self, order: Order, together: int = 1) -> int:
        """Say what drawing pictures of an order takes beside the weights, bytes: as measured, or else estimated."""
        known = self.peaks.known(peak_key(order, together))
        if known is not None:
            return known
        found = self.plan_of(order.model)
        return together * activations(found, self.dtype_of(found), order.spec.width, order.spec.height)

    def _get(self, order: Order, along: int) -> Loaded:
        model = order.model
        found, beside = self.plan_of(model), self.activations(order)
        least = self._least(order)
        held = self.cache.mode_of(model.model_id)
        if held is not None and not self._climbs(found, order, along):
            least = ladder.further(self._rungs, held, least)
        dtype = self._dtype_on(found, least)
        loaded: Loaded | None = self.cache.find(model.model_id, _identity(found, dtype), least)
        if loaded is not None and (least or self.cache.bring(model.model_id, beside + along)):
            return loaded
        rung = self._rung(found, least, self._needs(found, least, beside, along), is_there=loaded is not None)
        if loaded is not None and rung == least:
            return loaded
        del loaded
        self.cache.drop(model.model_id)  # or it would be there twice while it is loaded
        return self._load(found, self._dtype_on(found, rung), rung)

    def _least(self, order: Order) -> str:
        """Return the first rung that an order may be drawn on: it has run out of memory once where it is frugal."""
        if not order.frugal:
            return ladder.WHOLE
        self._ran_out.add(peak_key(order, 1))
        return ladder.OFFLOAD if self._device == "cuda" else ladder.TILED

    def _climbs(self, found: Plan, order: Order, along: int) -> bool:
        """Say whether a model that was made to fit is loaded anew, as there has been room again for some time."""
        model_id, least = order.model.model_id, self._least(order)
        held = str(self.cache.mode_of(model_id))
        room = self.cache.could_have(besides=[model_id])
        best = ladder.choose(self._rungs, self._needs(found, least, self.activations(order), along), room, least)
        # What ran out of memory did so against the estimate.
        fits = ladder.further(self._rungs, best, held) != best and peak_key(order, 1) not in self._ran_out
        self._fitting[model_id] = self._fitting.get(model_id, 0) + 1 if fits else 0
        return fits and (held == ladder.COMPUTER or self._fitting[model_id] >= ladder.FITTING_ORDERS)

    def _needs(self, found: Plan, least: str, beside: int, along: int) -> dict[str, int]:
        """Return what a model takes on each rung, bytes: its networks, what drawing takes beside, what goes along."""
        dtype = self._dtype_on(found, least)
        weights = {name: weight(component.tensors, dtype) for name, component in found.components.items()}
        return {rung: ladder.needed(rung, weights, beside, along) for rung in self._rungs}

    def _rung(self, found: Plan, least: str, needs: Mapping[str, int], *, is_there: bool) -> str:
        """Make room for a model, and choose how it is loaded into what there is.

        Where it is there already, all that may leave has left, and there is too little to draw with it as it is.
        """
        dtype = self._dtype_on(found, least)
        there = sum(
            weight(component.tensors, dtype)
            for component in found.components.values()
            if component.key and self.cache.has_on_device(f"{component.key}:{dtype}")
        )
        total = needs[least]
        # Where something has to leave, it may be just what would have been shared.
        fits = not is_there and (self.cache.room() >= total - (0 if least else there) or self.cache.make_room(total))
        if fits:
            return least
        room = self.cache.room() + self.cache.taken_by(found.model.model_id)
        rung = ladder.choose(self._rungs, needs, room, least)
        log.warning(
            "%s is estimated to take %.1f GB, and there are %.1f: it is drawn with %s",
            found.model.model_id,
            total / 1e9,
            room / 1e9,
            rung or "all of it there",
        )
        return rung

    def _dtype_on(self, found: Plan, rung: str) -> str:
        return "float32" if rung == ladder.COMPUTER else self.dtype_of(found)

    def _load(self, found: Plan, dtype: str, mode: str) -> Loaded:
        model_id = found.model.model_id
        self._fitting.pop(model_id, None)
        # What is moved about while it draws cannot be held for others as well.
        own = f"{mode}:{model_id}" if mode else ""
        held = (lambda _key: None) if own else (lambda key: self.cache.network(f"{key}:{dtype}"))
        loading = Loading(getattr(self._torch, dtype), "cpu" if own else self._device, held)
        pipeline = loading.pipeline(found)
        place(self._torch, pipeline, self._device, mode)
        if not mode:
            quicken(self._torch, pipeline, self._device, self._settings)
        pipeline.set_progress_bar_config(disable=True)
        if found.family and found.family.scheduler:
            given = pipeline.scheduler
            pipeline.scheduler = type(given).from_config(given.config, **found.family.scheduler)
        networks = {}
        for name, network in networks_of(pipeline).items():
            # A LoRA leaves them so, and torch multiplies in another order for weights that could be trained.
            network.requires_grad_(False)
            component = found.components.get(name)
            key = component.key if component and not own and not (name == "vae" and found.vae) else None
            networks[f"{key}:{dtype}" if key else f"{own or model_id}/{name}"] = (network, size_of(network))
        sizes = taken({key: size for key, (_, size) in networks.items()}, self._device, mode)
        networks = {key: (each, sizes[key]) for key, (each, _) in networks.items()}
        loaded = Loaded(found, pipeline, pipeline.scheduler, self._threads_for(pipeline), _colours(pipeline), mode)
        self.cache.add(Held(model_id, _identity(found, dtype), mode, loaded, tuple(networks)), networks)
        log.info("%s is loaded: %.2f GB", model_id, sum(size for _, size in networks.values()) / 1e9)
        return loaded

    def _threads_for(self, pipeline: Any) -> int:
        networks = networks_of(pipeline).values()
        parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
        return 1 if parameters < FEW_PARAMETERS else self._threads

    def _tidy(self, gone: Sequence[Gone]) -> None:
        # FLUX's transformer holds itself. Looking through all that torch brings along takes a third of a second.
        if any(network() is not None for network in gone):
            gc.collect()
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def peak_key(order: Order, together: int) -> Key:
    """Name a kind of drawing whose memory is measured; a size that is left open is the family's, and 0 here."""
    spec = order.spec
    return order.model.model_id, spec.width or 0, spec.height or 0, together


def _identity(found: Plan, dtype: str) -> str:
    """Say what a pipeline was made from and as: what the catalogue calls it matters as far as it means another row."""
    return f"{found.model.identity} as {found.family.name if found.family else found.pipeline} in {dtype}"


def _move(network: Any, device: str) -> None:
    network.to(device)


def _colours(pipeline: Any) -> LatentColours:
    config = getattr(getattr(pipeline, "vae", None), "config", None)
    return LatentColours(getattr(config, "scaling_factor", None) or 0.0)
