"""Samplers by Automatic1111's names, as rows: which diffusers scheduler, with which options.

Source: the correspondence in diffusers' documentation, "Schedulers", section "A1111 and k-diffusion", and what
AUTOMATIC1111 stable-diffusion-webui 1.10 does itself where that is silent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.samplers import SHAPED, UNDRAWABLE, name_of, split
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.sigmas import SHAPES, SHAPES_XL, mended


@dataclass(frozen=True, slots=True)
class Sampler:
    """One row."""

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    unless_said: Mapping[str, Any] = field(default_factory=dict)
    """Options that give way to what the model's own configuration says."""
    most_steps: int | None = None


MULTISTEP = "DPMSolverMultistepScheduler"
CLIPPING = {"clip_sample": False}
"""Clipping is for models that draw pixels; what these draw in may be larger than 1."""
ONE_STEP_LATE = {"set_alpha_to_one": False, "steps_offset": 1}
"""As Stable Diffusion 1 was trained to be sampled."""

SAMPLERS: Mapping[str, Sampler] = {
    "DPM++ 2M": Sampler(MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}),
    "DPM++ SDE": Sampler("DPMSolverSDEScheduler"),
    "DPM++ 2M SDE": Sampler(
        MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    ),
    "DPM++ 2M SDE Heun": Sampler(
        MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "solver_type": "heun"}
    ),
    # The nearest to it: diffusers has no ancestral single-step solver.
    "DPM++ 2S a": Sampler(
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "lower_order_final": True},
    ),
    "DPM++ 3M SDE": Sampler(
        MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "midpoint"}
    ),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "Euler": Sampler("EulerDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "Heun": Sampler("HeunDiscreteScheduler", CLIPPING),
    "DPM2": Sampler("KDPM2DiscreteScheduler"),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "DDIM": Sampler("DDIMScheduler", CLIPPING, ONE_STEP_LATE),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}, ONE_STEP_LATE),
    # Automatic1111's order. Its solver type, bh1, is infinite where no noise is left, and diffusers goes there.
    "UniPC": Sampler("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
    "LCM": Sampler("LCMScheduler", CLIPPING, most_steps=50),
    "DEIS": Sampler("DEISMultistepScheduler"),
    "DDPM": Sampler("DDPMScheduler", CLIPPING),
    "TCD": Sampler("TCDScheduler", CLIPPING, most_steps=50),
}

UNSHAPED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
FLAGS = {
    "Karras": "use_karras_sigmas",
    "Exponential": "use_exponential_sigmas",
    "Beta": "use_beta_sigmas",
    "KL Optimal": "use_karras_sigmas",
    "Align Your Steps": "use_karras_sigmas",
}
SPACINGS: Mapping[str, Mapping[str, Any]] = {
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "DDIM": {"timestep_spacing": "leading", "steps_offset": 1},
}
SPACED_BY_TRAINING = frozenset({"DDIM", "PLMS", "LCM", "TCD", "DDPM"})
"""They take every so many-th time step of the training from the first on, unless the model says otherwise."""

FLOW: Mapping[str, Sampler] = {
    "Euler": Sampler("FlowMatchEulerDiscreteScheduler"),
    "DPM++ 2M": Sampler(MULTISTEP, SAMPLERS["DPM++ 2M"].options),
    "DPM++ 2M SDE": Sampler(MULTISTEP, SAMPLERS["DPM++ 2M SDE"].options),
    "UniPC": Sampler("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
}
"""What flow-matching models (SD 3, Flux, Sana) can be drawn with: other solvers do not know their noise."""

FLOW_SCHEDULES: Mapping[str, tuple[str, ...]] = {"Euler": ("Karras", "Exponential", "Beta")}


def make(
    base: Any, name: str | None, *, steps: int | None = None, seeds: Sequence[int] = (), is_xl: bool = False
) -> Any:
    """Make a fresh scheduler: it keeps state, and must not leak from one picture into the next.

    `base` is the model's own, and its configuration is always where this begins: made from another sampler's, its
    options would leak. `seeds` are those of the pictures of one batch. Raises CannotDraw.
    """
    if name is None:
        own: Any = type(base)
        return mended(own).from_config(base.config)
    sampler, schedule = split(name)
    if sampler in UNDRAWABLE or sampler not in SAMPLERS:
        raise CannotDraw(f"scheduler {name}: {UNDRAWABLE.get(sampler, 'this version cannot draw with it')}")
    if _is_flow(base):
        return _for_flow(base, name)
    row = SAMPLERS[sampler]
    if row.most_steps and steps and steps > row.most_steps:
        raise CannotDraw(f"{sampler} takes at most {row.most_steps} steps, not {steps}")
    shapes = SHAPES_XL if is_xl else SHAPES
    made = _scheduler(row.scheduler, shapes.get(schedule or "")).from_config(
        base.config, **_unless_said(base, row.unless_said), **row.options, **_options(base, sampler, schedule)
    )
    if sampler == "DPM++ SDE":
        made.noise_sampler_seed = list(seeds) or None
    return made


def _scheduler(name: str, shape: Any = None) -> Any:
    import diffusers  # noqa: PLC0415  # seconds of import: for drawing workers only

    return mended(getattr(diffusers, name), shape)


def _options(base: Any, sampler: str, schedule: str | None) -> dict[str, Any]:
    """Say how the steps lie; every option is given, so that none of the model's own configuration remains."""
    options: dict[str, Any] = {**UNSHAPED, "use_lu_lambdas": False}
    if schedule is None:
        return {**options, **_evenly(base, sampler)}
    if schedule in SHAPED:
        # Shapes are laid between the least and the most noise of the training, and only this spacing reaches both.
        return options | {"timestep_spacing": "linspace", FLAGS[schedule]: True}
    return {**options, **SPACINGS[schedule]}


def _evenly(base: Any, sampler: str) -> Mapping[str, Any]:
    """Space the steps as Automatic1111 does; models trained or distilled for their last time step keep it."""
    if _said(base, "timestep_spacing") == "trailing":
        return {"timestep_spacing": "trailing"}
    return {"timestep_spacing": "leading" if sampler in SPACED_BY_TRAINING else "linspace"}


def _unless_said(base: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if _said(base, name) is None}


def _said(base: Any, name: str) -> Any:
    """Return what a model's configuration says itself; what diffusers only filled in is not said."""
    return None if name in base.config.get("_use_default_values", ()) else base.config.get(name)


def _is_flow(base: Any) -> bool:
    config = base.config
    return (
        "FlowMatch" in type(base).__name__
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") in {"flow_prediction", "trigflow"}
    )


def flow_names() -> list[str]:
    """Name everything that flow-matching models can be drawn with."""
    return [name_of(sampler, schedule) for sampler in FLOW for schedule in (None, *FLOW_SCHEDULES.get(sampler, ()))]


def _for_flow(base: Any, name: str) -> Any:
    if base.config.get("prediction_type") == "trigflow":
        raise CannotDraw(f"this model was distilled for its own sampler and cannot be drawn with {name}; leave it out")
    if name not in flow_names():
        raise CannotDraw(
            f"this is a flow-matching model and cannot be drawn with {name}; it can with {', '.join(flow_names())}"
        )
    sampler, schedule = split(name)
    row = FLOW[sampler]
    shift = base.config.get("shift", base.config.get("flow_shift", 1.0))
    options: dict[str, Any] = {**row.options, **UNSHAPED}
    if sampler == "Euler":
        options |= {"shift": shift}
    else:
        options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if schedule:
        options[FLAGS[schedule]] = True
    return _scheduler(row.scheduler).from_config(base.config, **options)
