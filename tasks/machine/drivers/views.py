"""Pipelines of other tasks over a loaded one's networks: img2img, inpainting, ControlNets. No weight is held twice.

A view is made for each call. That takes 0.3 ms, and so it has the networks of this moment: an order may have put
another autoencoder in, and nothing is kept alive that the cache lets go. diffusers' `from_pipe` is not used: it casts
the networks to float32 unless told otherwise, and drops an autoencoder that is no AutoencoderKL (diffusers 0.42).
"""

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.pipelines import Loaded


def view(loaded: Loaded, task: str, networks: Sequence[Any] = ()) -> Any:
    """Return the pipeline for a task of `Family.pipelines`; `networks` are ControlNets. Raises CannotDraw."""
    if loaded.family is None:
        if task != "txt2img":
            raise CannotDraw(
                f"{loaded.plan.pipeline} has no row in the table of families, and draws from text alone: {task} is not "
                "for it"
            )
        return loaded.pipeline
    if task == loaded.plan.task and not networks:
        return loaded.pipeline
    if task not in loaded.family.pipelines:
        able = ", ".join(loaded.family.pipelines)
        raise CannotDraw(f"{loaded.family.label} cannot draw {task}: it can do {able}")
    return _made(loaded.pipeline, loaded.family.pipelines[task], networks)


def _made(pipeline: Any, name: str, networks: Sequence[Any]) -> Any:
    import diffusers  # noqa: PLC0415  # for drawing workers only

    kind = getattr(diffusers, name)
    known = {**pipeline.config, **pipeline.components}
    if networks:
        known["controlnet"] = networks[0] if len(networks) == 1 else list(networks)
    parameters = list(signature(kind.__init__).parameters.items())[1:]
    made = kind(**{each: known.get(each) for each, how in parameters if each in known or _must_be(how)})
    made.set_progress_bar_config(disable=True)
    return made


def _must_be(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty and parameter.kind is not Parameter.VAR_KEYWORD
