"""What steers a drawing beside its words: ControlNets and their pictures."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

from PIL.Image import Image

from app.core.extras import Control
from app.core.spec import GenerationSpec
from tasks.machine.drivers import annotators, controlnets
from tasks.machine.drivers.contract import CannotDraw, Order
from tasks.machine.drivers.estimate import activations
from tasks.machine.drivers.ladder import COMPUTER
from tasks.machine.drivers.masks import resized
from tasks.machine.drivers.pipelines import Loaded, Pipelines


@dataclass(frozen=True, slots=True)
class Steering:
    """What a pipeline is made and called with so that it is steered."""

    networks: tuple[Any, ...] = ()
    """For `views.view`: the ControlNet, or several as one; none: the pipeline is the plain one."""
    controls: tuple[Control, ...] = ()
    pictures: tuple[Image, ...] = ()
    """One for each of `controls`, of any size."""
    modes: tuple[int | None, ...] = ()
    """What a ControlNet that knows several kinds is to take its picture for."""

    def arguments(self, pipeline: Any, loaded: Loaded, spec: GenerationSpec) -> dict[str, Any]:
        """Return what the view `pipeline` is called with, in diffusers' names; `spec` has the size of this pass."""
        if not self.networks:
            return {}
        width, height = drawn_size(loaded, spec)
        known = signature(type(pipeline).__call__).parameters
        shown = [
            resized(picture, (width, height), control.resize_mode)
            for picture, control in zip(self.pictures, self.controls, strict=True)
        ]
        given: dict[str, Sequence[Any]] = {
            "control_image" if "control_image" in known else "image": shown,
            "controlnet_conditioning_scale": [control.weight for control in self.controls],
            "control_guidance_start": [control.start for control in self.controls],
            "control_guidance_end": [control.end for control in self.controls],
        }
        if any(mode is not None for mode in self.modes):
            given["control_mode"] = list(self.modes)
        return {name: _alone(values) for name, values in given.items() if name in known}

    @contextmanager
    def still(self, pipeline: Any) -> Iterator[None]:
        """Let control pictures be encoded without chance, for one call of a pipeline.

        Those of FLUX and SD 3 go through the autoencoder, and diffusers takes a sample of what comes out: of nobody's
        seed with SD 3, and with FLUX from the noise that the picture should begin with.
        """
        left = len(self.controls) if self.networks and _are_encoded(self.networks[0]) else 0
        if not left:
            yield
            return
        encode = pipeline.vae.encode

        def encoded(*given: Any, **named: Any) -> Any:
            nonlocal left
            found = encode(*given, **named)
            if left:  # pictures to begin with are encoded behind them
                left -= 1
                found.latent_dist.sample = lambda *_, **__: found.latent_dist.mode()
            return found

        pipeline.vae.encode = encoded
        try:
            yield
        finally:
            del pipeline.vae.encode


def _are_encoded(network: Any) -> bool:
    """Say whether a network sees its picture as latents; XLabs' for FLUX look at the pixels, and Stable Diffusion's."""
    first = network.nets[0] if hasattr(network, "nets") else network
    is_of_sd = hasattr(first, "controlnet_cond_embedding")
    return not is_of_sd and hasattr(first, "pos_embed") and getattr(first, "input_hint_block", None) is None


def _alone(values: Sequence[Any]) -> Any:
    """Return the only one as it is: pipelines with one ControlNet take no lists."""
    return values[0] if len(values) == 1 else values


@contextmanager
def steering(pipelines: Pipelines, loaded: Loaded, order: Order) -> Iterator[Steering]:
    """Hold what steers an order in memory for the length of the block; raises CannotDraw for what does not fit."""
    controls = order.spec.controls
    if not controls:
        yield Steering()
        return
    _refuse_what_sana_cannot(loaded, controls)
    with ExitStack() as stack:
        networks = [stack.enter_context(_network(pipelines, loaded, order, control)) for control in controls]
        pictures = [annotators.control_picture(control, order) for control in controls]
        modes = [_mode(network, control, order) for network, control in zip(networks, controls, strict=True)]
        yield Steering((_as_one(networks),), controls, tuple(pictures), tuple(modes))


def _as_one(networks: Sequence[Any]) -> Any:
    if len(networks) == 1:
        return networks[0]
    from diffusers.models import controlnets as models  # noqa: PLC0415  # for drawing workers only

    name = type(networks[0]).__name__.replace("ControlNet", "MultiControlNet")
    return getattr(models, name)(networks)


def drawn_size(loaded: Loaded, spec: GenerationSpec) -> tuple[int, int]:
    """Return width and height of what an order draws, pixels: where it does not say, what the pipeline would take."""
    pipeline = loaded.pipeline
    network = controlnets.network_of(loaded)
    side = getattr(pipeline, "default_sample_size", None) or getattr(network.config, "sample_size", None) or 64
    usual = int(side) * int(pipeline.vae_scale_factor)
    return spec.width or usual, spec.height or usual


def _network(pipelines: Pipelines, loaded: Loaded, order: Order, control: Control) -> Any:
    model = order.companions[str(control.model_id)]
    found = controlnets.look_at(model, allow_pickles=pipelines.allow_pickles)
    controlnets.refuse_unless_fitting(found, model, loaded)
    # As the pipeline was loaded: where it did not fit the GPU, it draws in another precision on the processor.
    dtype = str(controlnets.network_of(loaded).dtype).removeprefix("torch.")
    return pipelines.beside(
        model,
        dtype,
        controlnets.size_of_files(found, dtype),
        partial(controlnets.load, model, found, loaded),
        drawing=activations(loaded.plan, dtype, order.spec.width, order.spec.height),
        on_computer=loaded.rung == COMPUTER,
    )


def _refuse_what_sana_cannot(loaded: Loaded, controls: Sequence[Control]) -> None:
    if loaded.family is None or loaded.family.looks_like != "sana":
        return
    if len(controls) > 1:
        raise CannotDraw(f"Sana is steered by one ControlNet, not by {len(controls)}; leave one")
    if (controls[0].start, controls[0].end) != (0, 1):
        raise CannotDraw("Sana's ControlNet steers from the first step to the last; leave start and end out")


def _mode(network: Any, control: Control, order: Order) -> int | None:
    """Return the number of a kind in a FLUX ControlNet that knows several, as its catalogue entry says."""
    count = network.config.get("num_mode")
    if not count:
        return None
    model = order.companions[str(control.model_id)]
    modes = model.options.get("control_modes") or {}
    mode = modes.get(control.kind)
    if mode is None:
        raise CannotDraw(
            f"{model.model_id} knows {count} kinds of control pictures by number: say in its options which one "
            f'{control.kind} is, such as {{"control_modes": {{"{control.kind}": 0}}}}'
        )
    return int(mode)
