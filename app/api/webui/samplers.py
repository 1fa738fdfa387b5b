"""Samplers and schedules by Automatic1111's names, as far as the fleet can draw with them. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/sd_samplers_kdiffusion.py, sd_samplers_timesteps.py and
sd_schedulers.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.api.door import Refused
from app.core.samplers import NAMES, UNDRAWABLE, split

AUTOMATIC = "automatic"
UNIFORM = "uniform"

SCHEDULES: Mapping[str, str] = {
    AUTOMATIC: "Automatic",
    UNIFORM: "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "ddim": "DDIM",
    "beta": "Beta",
}
"""Labels by name."""

SAME_AS = {"normal": UNIFORM, "simple": "sgm_uniform", "polyexponential": "exponential"}
"""Names of one thing: the first take the same time steps, and with its rho of 1 the last is the same curve."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "DPM++ 2M": ("k_dpmpp_2m",),
    "DPM++ SDE": ("k_dpmpp_sde",),
    "DPM++ 2M SDE": ("k_dpmpp_2m_sde",),
    "DPM++ 2M SDE Heun": ("k_dpmpp_2m_sde_heun",),
    "DPM++ 2S a": ("k_dpmpp_2s_a",),
    "DPM++ 3M SDE": ("k_dpmpp_3m_sde",),
    "Euler a": ("k_euler_a", "k_euler_ancestral"),
    "Euler": ("k_euler",),
    "LMS": ("k_lms",),
    "Heun": ("k_heun",),
    "DPM2": ("k_dpm_2",),
    "DPM2 a": ("k_dpm_2_a",),
    "DDIM": ("ddim",),
    "PLMS": ("plms",),
    "UniPC": ("unipc",),
    "LCM": ("k_lcm",),
    "DPM fast": ("k_dpm_fast",),
    "DPM adaptive": ("k_dpm_ad",),
    "Restart": ("restart",),
    "DDIM CFG++": ("ddim_cfgpp",),
}

OWN_SCHEDULE: Mapping[str, str] = {
    "DPM++ 2M": "karras",
    "DPM++ SDE": "karras",
    "DPM++ 2S a": "karras",
    "DPM2": "karras",
    "DPM2 a": "karras",
    "DPM++ 2M SDE": "exponential",
    "DPM++ 2M SDE Heun": "exponential",
    "DPM++ 3M SDE": "exponential",
}
"""What `Automatic` means for a sampler; Uniform for all others, and where the fleet has not this one."""

WITHOUT_SCHEDULE = frozenset({"DDIM", "PLMS"})
"""Automatic1111 never looks at the schedule for these. Nor for UniPC, which has schedules here."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a client's words mean."""

    sampler: str
    schedule: str
    scheduler: str
    """In the core's words."""


def resolve(sampler: str, schedule: str | None) -> Choice:
    """Find what to draw with; raises Refused: 404 for an unknown sampler, 422 for a schedule it cannot have here.

    The schedule may stand behind the sampler's name, and wins there over `schedule`, as in Automatic1111.
    """
    name, behind = _split(sampler)
    found = BY_NAME.get(name.lower())
    if found is None:
        for known, why in UNDRAWABLE.items():
            if name.lower() in {known.lower(), *ALIASES[known]}:
                raise Refused(422, "sampler_not_possible", f"sampler_name: {known} cannot be drawn here: {why}")
        raise Refused(404, "sampler_not_found", "Sampler not found")
    wanted = behind or _schedule(schedule)
    if found in WITHOUT_SCHEDULE or wanted == AUTOMATIC:
        wanted = own_schedule(found)
    can = DRAWABLE[found]
    if SAME_AS.get(wanted, wanted) not in can:
        labels = ", ".join(SCHEDULES[known] for known in (AUTOMATIC, *can))
        raise Refused(
            422,
            "schedule_not_possible",
            f"scheduler: {found} is drawn here with {labels}, not with {SCHEDULES[wanted]}",
        )
    return Choice(found, SCHEDULES[wanted], can[SAME_AS.get(wanted, wanted)])


def choice_of(scheduler: str) -> Choice:
    """Say one of the core's schedulers in Automatic1111's words."""
    name, schedule = split(scheduler)
    return Choice(name, schedule or SCHEDULES[UNIFORM], scheduler)


def own_schedule(sampler: str) -> str:
    """Return what `Automatic` means for a sampler here."""
    wanted = OWN_SCHEDULE.get(sampler, UNIFORM)
    return wanted if wanted in DRAWABLE[sampler] else next(iter(DRAWABLE[sampler]))


def samplers_to_json() -> list[dict[str, Any]]:
    """List the samplers, in the order of the core."""
    return [
        {"name": name, "aliases": list(ALIASES.get(name, ())), "options": {"scheduler": own_schedule(name)}}
        for name in DRAWABLE
    ]


def schedules_to_json() -> list[dict[str, Any]]:
    """List the schedules that at least one sampler can have, with their other names."""
    known = {AUTOMATIC}.union(*DRAWABLE.values())
    return [
        {"name": name, "label": SCHEDULES[name], "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name in SCHEDULES
        if SAME_AS.get(name, name) in known
    ]


def _split(name: str) -> tuple[str, str | None]:
    for schedule, label in SCHEDULES.items():
        if name.lower().endswith(f" {label.lower()}"):
            return name[: -len(label) - 1], schedule
    return name, None


def _schedule(name: str | None) -> str:
    if not name:
        return AUTOMATIC
    for schedule, label in SCHEDULES.items():
        if name.lower() in {schedule, label.lower(), label.replace(" ", "").lower()}:
            return schedule
    raise Refused(422, "scheduler_not_found", f"scheduler: there is no {name!r}; GET schedulers lists what there is")


def _drawable() -> dict[str, dict[str, str]]:
    """Return the core's schedulers by sampler and schedule; a sampler's plain name is its uniform schedule."""
    found: dict[str, dict[str, str]] = {}
    names = {label: name for name, label in SCHEDULES.items()}
    for scheduler in NAMES:
        sampler, schedule = split(scheduler)
        found.setdefault(sampler, {})[names[schedule] if schedule else UNIFORM] = scheduler
    return found


DRAWABLE = _drawable()
BY_NAME = {word.lower(): name for name in DRAWABLE for word in (name, *ALIASES.get(name, ()))}
