"""Samplers and schedules that can be drawn with, by Automatic1111's names. Pure: machines import this too.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/sd_samplers_kdiffusion.py, sd_samplers_timesteps.py and
sd_schedulers.py.
"""

from collections.abc import Mapping

SHAPED = ("Karras", "Exponential", "Beta", "KL Optimal", "Align Your Steps")
"""Schedules that say how much noise is left at each step."""

SPACED = ("SGM Uniform", "DDIM")
"""Schedules that say which of the training's time steps are taken."""

SCHEDULES = (*SHAPED, *SPACED)
"""What may stand behind a sampler's name; without one the time steps are evenly spaced, which is called Uniform."""

UNIFORM = "Uniform"

SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "DPM++ 2M": SCHEDULES,
    "DPM++ SDE": SCHEDULES,
    "DPM++ 2M SDE": SCHEDULES,
    "DPM++ 2M SDE Heun": SCHEDULES,
    "DPM++ 2S a": SHAPED,
    "DPM++ 3M SDE": SCHEDULES,
    "Euler a": SPACED,
    "Euler": SCHEDULES,
    "LMS": SCHEDULES,
    "Heun": SCHEDULES,
    "DPM2": SCHEDULES,
    "DPM2 a": SCHEDULES,
    "DDIM": (),
    "PLMS": (),
    "UniPC": SCHEDULES,
    "LCM": (),
    # Not in Automatic1111's table, but in that of its descendants.
    # It stops at the last level that a schedule names, and this one's is far from no noise.
    "DEIS": tuple(schedule for schedule in SCHEDULES if schedule != "KL Optimal"),
    "DDPM": (),
    "TCD": (),
}
"""Samplers with the schedules they can have beside the uniform one."""

UNDRAWABLE: Mapping[str, str] = {
    "DPM fast": "diffusers has no such solver; DPM++ 2S a is the nearest",
    "DPM adaptive": "diffusers has no solver that chooses its own number of steps; DPM++ 2M Karras is close to it",
    "Restart": "diffusers has no sampler that adds noise again in between; Heun Karras is the nearest",
    "DDIM CFG++": "diffusers has no guidance of that kind; DDIM with a guidance scale of about 1.5 is the nearest",
}
"""Automatic1111's samplers that nothing here can draw with, and why."""


def name_of(sampler: str, schedule: str | None = None) -> str:
    """Say a sampler and its schedule in one name."""
    return f"{sampler} {schedule}" if schedule else sampler


def split(name: str) -> tuple[str, str | None]:
    """Take a name apart into sampler and schedule; None is the uniform one."""
    for schedule in SCHEDULES:
        sampler = name.removesuffix(f" {schedule}")
        if sampler != name:
            return sampler, schedule
    return name, None


NAMES = tuple(name_of(sampler, schedule) for sampler, can in SAMPLERS.items() for schedule in (None, *can))
"""Everything that can be drawn with."""


def why_unknown(name: str) -> str:
    """Say why there is no such name, for whoever asked for it."""
    sampler, _ = split(name)
    if sampler in UNDRAWABLE:
        return f"{name} cannot be drawn: {UNDRAWABLE[sampler]}"
    if can := SAMPLERS.get(next((known for known in sorted(SAMPLERS, key=len)[::-1] if name.startswith(known)), "")):
        return f"{name!r} is unknown; schedules that can follow a sampler's name are {', '.join(can)}"
    return f"{name!r} is unknown; known are {', '.join(SAMPLERS)}"
