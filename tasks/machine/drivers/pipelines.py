"""The pipelines of a machine: found in memory, brought back to the device, or loaded, within the memory there is."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tasks.machine.drivers.cache import Cache, Held, Place
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tasks.machine.drivers.estimate import Estimate, activations, estimate
from tasks.machine.drivers.families import Family
from tasks.machine.drivers.loading import Loading, networks_of, size_of, tensors_of_pickle
from tasks.machine.drivers.memory import free_of_computer, free_of_cuda
from tasks.machine.drivers.plan import Plan, plan
from tasks.machine.drivers.previews import LatentColours

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
        computer = Place("cpu", free_of_computer, settings.cpu_cache, COMPUTER_RESERVE)
        cuda = Place("cuda", lambda: free_of_cuda(torch), settings.gpu_memory, DEVICE_RESERVE)
        self.cache: Cache[Loaded] = (
            Cache(cuda, computer, _move, self._tidy) if device == "cuda" else Cache(computer, None, _move, self._tidy)
        )

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
    def borrowed(self, order: Order) -> Iterator[Loaded]:
        """Lend the pipeline for an order, on the device; it stays there for the length of the block."""
        loaded = self._get(order)
        with self.cache.drawing(order.model.model_id):
            yield loaded

    def free(self) -> None:
        """Give back the memory of all pipelines."""
        self.cache.clear()

    def _get(self, order: Order) -> Loaded:
        model, spec = order.model, order.spec
        mode = "frugal" if order.frugal else ""
        found = self.plan_of(model)
        dtype = self.dtype_of(found)
        loaded = self.cache.find(model.model_id, _identity(found, dtype), mode)
        if loaded is not None:
            if not mode:
                self.cache.bring(model.model_id, activations(found, dtype, spec.width, spec.height))
            return loaded
        wanted = estimate(found, dtype, spec.width, spec.height)
        there = sum(
            wanted.weights[name]
            for name, component in found.components.items()
            if component.key and self.cache.has_on_device(f"{component.key}:{dtype}")
        )
        # Where something has to leave, it may be just what would have been shared.
        if self.cache.room() < wanted.total - there and not self.cache.make_room(wanted.total):
            room = self.cache.room()
            log.warning(
                "%s is estimated to take %.1f GB, and there are %.1f", model.model_id, wanted.total / 1e9, room / 1e9
            )
        return self._load(found, dtype, mode)

    def _load(self, found: Plan, dtype: str, mode: str) -> Loaded:
        model_id = found.model.model_id
        # What is moved about while it draws cannot be held for others as well.
        own = f"{mode}:{model_id}" if mode else ""
        held = (lambda _key: None) if own else (lambda key: self.cache.network(f"{key}:{dtype}"))
        loading = Loading(getattr(self._torch, dtype), "cpu" if own else self._device, held)
        pipeline = self._placed(loading.pipeline(found), mode)
        pipeline.set_progress_bar_config(disable=True)
        if found.family and found.family.scheduler:
            given = pipeline.scheduler
            pipeline.scheduler = type(given).from_config(given.config, **found.family.scheduler)
        networks = {}
        for name, network in networks_of(pipeline).items():
            component = found.components.get(name)
            key = component.key if component and not own and not (name == "vae" and found.vae) else None
            networks[f"{key}:{dtype}" if key else f"{own or model_id}/{name}"] = (network, size_of(network))
        if own and self._device == "cuda":
            # One of them is on the device at a time.
            most = max(networks, key=lambda key: networks[key][1])
            networks = {key: (each, size if key == most else 0) for key, (each, size) in networks.items()}
        loaded = Loaded(found, pipeline, pipeline.scheduler, self._threads_for(pipeline), _colours(pipeline))
        self.cache.add(Held(model_id, _identity(found, dtype), mode, loaded, tuple(networks)), networks)
        log.info("%s is loaded: %.2f GB", model_id, sum(size for _, size in networks.values()) / 1e9)
        return loaded

    def _placed(self, pipeline: Any, mode: str) -> Any:
        """Leave a pipeline on its device; a frugal one keeps there only the network that works at the moment."""
        if not mode:
            return pipeline
        for economy in ("enable_slicing", "enable_tiling"):
            with suppress(AttributeError, NotImplementedError):  # not every autoencoder can
                getattr(pipeline.vae, economy)()
        if self._device == "cuda":
            pipeline.enable_model_cpu_offload()
        return pipeline

    def _threads_for(self, pipeline: Any) -> int:
        networks = networks_of(pipeline).values()
        parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
        return 1 if parameters < FEW_PARAMETERS else self._threads

    def _tidy(self) -> None:
        gc.collect()  # pipelines hold themselves
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def _identity(found: Plan, dtype: str) -> str:
    """Say what a pipeline was made from and as: what the catalogue calls it matters as far as it means another row."""
    return f"{found.model.identity} as {found.family.name if found.family else found.pipeline} in {dtype}"


def _move(network: Any, device: str) -> None:
    network.to(device)


def _colours(pipeline: Any) -> LatentColours:
    config = getattr(getattr(pipeline, "vae", None), "config", None)
    return LatentColours(getattr(config, "scaling_factor", None) or 0.0)
