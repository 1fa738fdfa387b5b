"""The safety checker of Stable Diffusion's authors: pictures that it takes for unsafe come out black.

It compares what CLIP sees in a picture with a fixed list of concepts. Off unless an order
or the server's operator asks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image, new

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, OnStep, Order, Step
from tasks.machine.drivers.estimate import weight
from tasks.machine.drivers.ladder import WHOLE
from tasks.machine.drivers.loading import broken_files_refused
from tasks.machine.drivers.pipelines import Loaded, Pipelines

BLACKED_OUT = "the safety checker took this picture for unsafe: it is black; another seed or prompt may pass"

PRECISION = "float32"
"""Its thresholds are given to four digits, which half precision does not hold."""


@dataclass(frozen=True, slots=True)
class Checker:
    """A checker in memory."""

    network: Any
    processor: Any
    """Brings pictures into the form that it sees."""

    def parameters(self) -> Any:
        """Return its numbers, as networks do."""
        return self.network.parameters()

    def buffers(self) -> Any:
        """Return its other tensors, as networks do."""
        return self.network.buffers()

    def to(self, device: str) -> "Checker":
        """Move it, as networks are moved."""
        self.network.to(device)
        return self

    def flags(self, image: Image) -> bool:
        """Say whether it takes a picture for unsafe."""
        seen = self.processor(image.convert("RGB"), return_tensors="pt").pixel_values
        first = next(self.network.parameters())
        # What it would paint over is a picture as numbers; here it only has to say whether.
        _, flags = self.network(clip_input=seen.to(first.device, first.dtype), images=seen.numpy())
        return bool(flags[0])


@contextmanager
def checking(pipelines: Pipelines, loaded: Loaded, order: Order) -> Iterator[Checker | None]:
    """Hold the checker of an order in memory for the length of the block; None where it asks for none.

    Raises CannotDraw where it asks for one and its files are none: nothing is drawn unchecked.
    """
    if not order.spec.safety_check:
        yield None
        return
    model = order.companions.get(order.spec.safety_checker or "")
    if model is None:
        raise CannotDraw("safety_check needs a model of kind safety in the catalogue; see docs/drivers.md")
    network, processor = _folders(model)
    files = detect.loaded_of(network)
    if not files:
        detect.refuse_pickles([file.name for file in detect.weights_of(network)], allowed=pipelines.allow_pickles)
    size = weight([tensor for file in files for tensor in headers.read(file).values()], PRECISION)

    def load(dtype: Any, device: str) -> Checker:
        from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: PLC0415  # for drawing workers only
            StableDiffusionSafetyChecker,
        )
        from transformers import CLIPImageProcessor  # noqa: PLC0415  # as above

        with broken_files_refused(model.model_id):
            made = StableDiffusionSafetyChecker.from_pretrained(
                network, dtype=dtype, local_files_only=True, variant=detect.variant_of(network)
            )
            return Checker(made.eval().to(device), CLIPImageProcessor.from_pretrained(processor, local_files_only=True))

    # Where the model itself hardly fits the GPU, the processor looks at the picture.
    with pipelines.beside(model, PRECISION, size, load, on_computer=loaded.rung != WHOLE) as checker:
        yield checker


def _folders(model: ModelFiles) -> tuple[Path, Path]:
    """Return where the network and its processor lie: in folders as in Stable Diffusion's repositories, or in one."""
    root = model.path
    network = root / "safety_checker" if (root / "safety_checker").is_dir() else root
    processor = root / "feature_extractor" if (root / "feature_extractor").is_dir() else root
    for folder, name in ((network, "config.json"), (processor, "preprocessor_config.json")):
        if not (folder / name).is_file():
            raise CannotDraw(
                f"{model.model_id} is no safety checker: it has no {name}; take "
                "hf://stable-diffusion-v1-5/stable-diffusion-v1-5?include=safety_checker/*.json"
                "&include=safety_checker/model.safetensors&include=feature_extractor/*"
            )
    return network, processor


def blacked_out(image: Image) -> Image:
    """Return a black picture of the same size."""
    return new("RGB", image.size)


def unseen(on_step: OnStep) -> OnStep:
    """Tell of steps without what can be seen of them: a preview is not checked."""

    def told(step: Step) -> None:
        on_step(replace(step, preview=None))

    return told
