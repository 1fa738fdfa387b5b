"""Noise schedules that diffusers has not, and what is mended in those it has. Knows numpy, and torch when it draws.

Source of the formulas: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/sd_schedulers.py.
"""

from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Shape = Callable[[int, float, float], Floats]
"""Returns so many noise levels, from the second number down to the first, without the zero behind them."""

ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGNED_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""Ten steps found by search for Stable Diffusion 1.5 and XL. Source: Sabour et al. 2024, "Align Your Steps"."""


def kl_optimal(steps: int, lowest: float, highest: float) -> Floats:
    """Space evenly by the angle of the noise level. Source: the paper above, theorem 3.1."""
    angles = np.linspace(np.arctan(highest), np.arctan(lowest), steps + 1)[:-1]
    levels: Floats = np.tan(angles)
    return levels


def align_your_steps(steps: int, _lowest: float, _highest: float) -> Floats:
    """Take the levels that were found for Stable Diffusion 1.5."""
    return _between(ALIGNED, steps)


def align_your_steps_xl(steps: int, _lowest: float, _highest: float) -> Floats:
    """Take the levels that were found for Stable Diffusion XL."""
    return _between(ALIGNED_XL, steps)


def _between(levels: tuple[float, ...], steps: int) -> Floats:
    """Lay so many levels between the known ones, evenly by their logarithms."""
    places = np.linspace(0, 1, steps)
    logarithms: Floats = np.interp(places, np.linspace(0, 1, len(levels)), np.log(levels))
    return np.exp(logarithms)


ROUNDING = 1e-3
"""By so much the noise of a stochastic solver reaches further than its levels: they are rounded on the way."""

SHAPES: Mapping[str, Shape] = {
    "KL Optimal": kl_optimal,
    "Align Your Steps": align_your_steps,
}
"""By the schedule's name."""

SHAPES_XL: Mapping[str, Shape] = {**SHAPES, "Align Your Steps": align_your_steps_xl}


@cache
def mended(scheduler: Any, shape: Shape | None = None) -> Any:
    """Return diffusers' scheduler class with what is wrong in it put right, and with a shape of its own.

    The class has the same name and makes itself from the same configurations.
    """
    changes: dict[str, Any] = {"__module__": scheduler.__module__}
    if hasattr(scheduler, "set_begin_index"):
        changes["set_timesteps"] = _from_the_first_step(scheduler)
    if hasattr(scheduler, "noise_sampler_seed") or scheduler.__name__ == "DPMSolverSDEScheduler":
        changes["step"] = _with_noise_from_the_cpu(scheduler)
    if shape is not None:
        # Karras' schedule is where every one of these classes asks a method for its levels.
        changes["_convert_to_karras"] = _shaped(shape)
    return type(scheduler.__name__, (scheduler,), changes)


def _from_the_first_step(scheduler: Any) -> Callable[..., None]:
    """Begin at the first step, also where several steps have one time, which beta schedules do from 32 steps on.

    diffusers looks the first time up, takes the second place where it is found twice, and runs out of steps at the end.
    Pipelines that begin later, as for img2img, say so after this.
    """

    @wraps(scheduler.set_timesteps)  # pipelines look at its parameters
    def set_timesteps(self: Any, *given: Any, **named: Any) -> None:
        if "mu" in named and not self.config.get("use_dynamic_shifting"):
            del named["mu"]  # Flux always gives one; the solvers insist that it is wanted
        scheduler.set_timesteps(self, *given, **named)
        self.set_begin_index(0)

    return set_timesteps


def _with_noise_from_the_cpu(scheduler: Any) -> Callable[..., Any]:
    """Take the noise of a stochastic solver from the CPU, where a seed gives the same on every computer."""

    @wraps(scheduler.step)
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, *given: Any, **named: Any) -> Any:
        if self.noise_sampler is None:
            from diffusers.schedulers.scheduling_dpmsolver_sde import (  # noqa: PLC0415  # for drawing workers only
                BrownianTreeNoiseSampler,
            )

            levels = self.sigmas[self.sigmas > 0]
            least, most = levels.min().item() * (1 - ROUNDING), levels.max().item() * (1 + ROUNDING)
            tree = BrownianTreeNoiseSampler(sample.detach().float().cpu(), least, most, self.noise_sampler_seed)
            self.noise_sampler = lambda level, following: tree(level.cpu(), following.cpu()).to(sample)
        return scheduler.step(self, model_output, timestep, sample, *given, **named)

    return step


def _shaped(shape: Shape) -> Callable[..., Floats]:
    def _convert_to_karras(_self: Any, in_sigmas: Any, num_inference_steps: int | None = None) -> Floats:
        return shape(num_inference_steps or len(in_sigmas), float(in_sigmas[-1]), float(in_sigmas[0]))

    return _convert_to_karras
