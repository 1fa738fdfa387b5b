"""An order, as a family's pipeline is called with it; or why it cannot be."""

from typing import Any

from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.families import Family


def task_of(spec: GenerationSpec) -> str:
    """Say what kind of drawing an order asks for, in the words of `Family.pipelines`."""
    plain = "inpaint" if spec.mask else "img2img" if spec.image else "txt2img"
    if not spec.controls:
        return plain
    return "controlnet" if plain == "txt2img" else f"controlnet_{plain}"


def refuse_what_it_cannot(family: Family, spec: GenerationSpec, task: str = "txt2img") -> None:
    """Raise CannotDraw for an order that no model of this family can draw, whatever the machine."""
    if task not in family.pipelines:
        able = ", ".join(family.pipelines)
        why = "it goes over pictures that another model drew; " if family.name == "sdxl-refiner" else ""
        raise CannotDraw(f"{family.label} cannot draw {task}: {why}it can do {able}")
    for side, size in (("width", spec.width), ("height", spec.height)):
        if size is not None and size % family.grid:
            nearest = max(family.grid, round(size / family.grid) * family.grid)
            raise CannotDraw(
                f"{side} must be a multiple of {family.grid} for {family.label}, not {size}; {nearest} is the nearest"
            )
    if spec.steps is not None and family.steps_most is not None and spec.steps > family.steps_most:
        raise CannotDraw(
            f"{family.label} draws in at most {family.steps_most} steps, not {spec.steps}; {family.steps} are usual"
        )


def call_arguments(family: Family | None, spec: GenerationSpec) -> dict[str, Any]:
    """Return what a pipeline of this family is called with, the prompt and what steers it left out.

    None: a family that has no row, which draws with its own defaults.
    """
    steps = spec.steps or (family.steps if family else None)
    guidance = spec.guidance_scale
    if family is not None and (guidance is None or family.guidance == "none"):
        guidance = family.guidance_scale
    wanted = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "width": spec.width,
        "height": spec.height,
    }
    arguments: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if family is not None and family.samplers == "own" and steps != 2:
        # Sana Sprint's pipeline has such a time step, and takes it in two steps only.
        arguments["intermediate_timesteps"] = None
    return arguments
