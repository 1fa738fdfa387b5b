"""Draws with diffusers pipelines, on a GPU or, where there is none, on the CPU."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from tasks.machine.drivers.contract import (
    CannotDraw,
    DriverSettings,
    ModelFiles,
    OnStep,
    Order,
    OutOfMemory,
    Picture,
    Step,
)
from tasks.machine.drivers.samplers import SAMPLERS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of pipelines draws with when neither order nor catalogue says."""

    steps: int
    guidance_scale: float


FAMILIES = {
    "StableDiffusionPipeline": Family(30, 7.5),
    "StableDiffusionXLPipeline": Family(30, 6.0),
    "StableDiffusion3Pipeline": Family(28, 4.5),
    "FluxPipeline": Family(28, 3.5),
    "SanaPipeline": Family(20, 4.5),
    "SanaSprintPipeline": Family(2, 4.5),
}
"""By the pipeline's class. A family that is not here draws with its own defaults."""


FEW_PARAMETERS = 50_000_000
"""Below this a second CPU thread costs more than it brings: the demo model (5 million) takes 0.21 s a picture with one,
0.35 s with two, and some 12 s with two when other programs use the cores."""


@dataclass(slots=True)
class Loaded:
    """A pipeline in memory."""

    model_id: str
    proof: str
    pipeline: Any
    scheduler: Any
    """As the model brought it: every sampler is made from its configuration, never from another sampler's."""
    threads: int
    """How many of the CPU's it draws with."""


class DiffusersDriver:
    """Keeps pipelines in memory, the one used last longest, and draws one order at a time."""

    def __init__(self, settings: DriverSettings) -> None:
        import torch  # noqa: PLC0415  # seconds of import and hundreds of megabytes: for drawing workers only
        from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415  # as above
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415  # as above

        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._torch = torch
        self._settings = settings
        self._device = _choose_device(torch, settings.device)
        self._dtype = _choose_dtype(torch, self._device)
        self._threads: int = torch.get_num_threads()
        self._loaded: list[Loaded] = []
        log.info("drawing on %s with %s", self.device()["name"], self._dtype)

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw the pictures of an order one after the other, each with its own generator."""
        try:
            on_step(Step("loading", 0, 0, 0))
            loaded = self._load(order.model)
            if self._device == "cpu":
                self._torch.set_num_threads(loaded.threads)
            for position in range(order.spec.n):
                yield self._draw_one(loaded, order, position, on_step)
        except self._torch.OutOfMemoryError as exc:
            self.free()
            raise OutOfMemory(f"the device ran out of memory: {exc}") from exc

    def _draw_one(self, loaded: Loaded, order: Order, position: int, on_step: OnStep) -> Picture:
        spec, pipeline = order.spec, loaded.pipeline
        family = FAMILIES.get(type(pipeline).__name__)
        seed = (spec.seed or 0) + position
        wanted = {
            "prompt": spec.prompt,
            "negative_prompt": spec.negative_prompt or None,
            "num_inference_steps": spec.steps or (family.steps if family else None),
            "guidance_scale": spec.guidance_scale
            if spec.guidance_scale is not None
            else family and family.guidance_scale,
            "width": spec.width,
            "height": spec.height,
        }
        pipeline.scheduler = _scheduler(loaded, spec.scheduler)

        def after_step(pipe: Any, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            # Some samplers take more steps than asked for; the pipeline knows the true number.
            on_step(Step("denoising", index + 1, int(pipe.num_timesteps), position))
            return {}

        result = pipeline(
            **{name: value for name, value in wanted.items() if value is not None},
            # Noise from the CPU is the same on every device: a seed draws its picture anywhere.
            generator=self._torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=after_step,
        )
        return Picture(result.images[0], seed)

    def _load(self, model: ModelFiles) -> Loaded:
        for loaded in self._loaded:
            if (loaded.model_id, loaded.proof) == (model.model_id, model.proof):
                self._loaded.remove(loaded)
                self._loaded.append(loaded)
                return loaded
        self._loaded = [other for other in self._loaded if other.model_id != model.model_id]
        while len(self._loaded) >= self._settings.models_in_memory:
            log.info("%s leaves the memory for %s", self._loaded[0].model_id, model.model_id)
            del self._loaded[0]
            self._empty_cache()
        pipeline = _open(model.path, self._dtype).to(self._device)
        pipeline.set_progress_bar_config(disable=True)
        threads = 1 if _parameters(pipeline) < FEW_PARAMETERS else self._threads
        self._loaded.append(Loaded(model.model_id, model.proof, pipeline, pipeline.scheduler, threads))
        return self._loaded[-1]

    def device(self) -> dict[str, Any]:
        """Describe what draws."""
        if self._device == "cuda":
            free, total = self._torch.cuda.mem_get_info()
            name = self._torch.cuda.get_device_name()
        else:
            import psutil  # noqa: PLC0415  # for drawing workers only

            memory = psutil.virtual_memory()
            free, total, name = memory.available, memory.total, f"CPU, {psutil.cpu_count()} cores"
        return {"type": self._device, "name": name, "memory_total": total, "memory_free": free}

    def loaded(self) -> list[str]:
        """Name the models in memory."""
        return [loaded.model_id for loaded in self._loaded]

    def free(self) -> None:
        """Give back the memory of all pipelines."""
        self._loaded.clear()
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def _parameters(pipeline: Any) -> int:
    """Count the parameters of all networks of a pipeline."""
    networks = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def _choose_device(torch: Any, wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("DEVICE=cuda, and torch sees no CUDA device; DEVICE=auto falls back to the CPU")
    return wanted


def _choose_dtype(torch: Any, device: str) -> Any:
    if device == "cpu":
        return torch.float32  # half precision is slower there, and not everything has it
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _open(path: Path, dtype: Any) -> Any:
    """Load a pipeline from a diffusers folder, or from one in a DDUF file; nothing is ever fetched."""
    if path.is_dir():
        return _from_folder(path, dtype)
    if path.suffix == ".dduf":
        # diffusers reads folders only; safetensors copies what it reads, so the folder may go afterwards.
        with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
            for name, entry in _entries_of(path).items():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with entry.as_mmap() as data:
                    target.write_bytes(data)
            return _from_folder(Path(folder), dtype)
    raise CannotDraw(f"{path.name} is neither a diffusers folder nor a .dduf file, and this version loads nothing else")


def _entries_of(path: Path) -> Any:
    from huggingface_hub import read_dduf_file  # noqa: PLC0415  # for drawing workers only
    from huggingface_hub.errors import DDUFError  # noqa: PLC0415  # as above

    try:
        return read_dduf_file(path)
    except (DDUFError, BadZipFile) as exc:
        raise CannotDraw(f"{path.name} is no DDUF file: {exc}") from exc


def _from_folder(folder: Path, dtype: Any) -> Any:
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # for drawing workers only

    try:
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise CannotDraw(f"diffusers cannot load this model: {exc}") from exc


def _scheduler(loaded: Loaded, name: str | None) -> Any:
    """Make a fresh scheduler: it keeps state, and must not leak from one picture into the next."""
    import diffusers  # noqa: PLC0415  # for drawing workers only

    config = loaded.scheduler.config
    if name is None:
        return type(loaded.scheduler).from_config(config)
    if "FlowMatch" in type(loaded.scheduler).__name__:
        raise CannotDraw(
            f"{loaded.model_id} is a flow-matching model and draws with its own scheduler; leave scheduler out"
        )
    sampler = SAMPLERS[name]
    return getattr(diffusers, sampler.scheduler).from_config(config, **sampler.options)
