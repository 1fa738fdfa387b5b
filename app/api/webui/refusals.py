"""What Automatic1111 can do and this dialect cannot yet: said in a sentence, never quietly left out of a picture. Pure.

Clients send many of these fields with every request, at values that change nothing; those pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.door import Refused
from app.api.webui import beginnings, controlnet

NEUTRAL_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    # 1 is what ancestral samplers take by themselves; webuiapi sends it whatever the sampler is.
    "eta": (0, 1),
    "s_min_uncond": (0,),
    "s_churn": (0,),
    "s_noise": (1,),
    "refiner_checkpoint": ("", "None"),
    "firstpass_image": ("",),
    "infotext": ("",),
}
"""Fields that would change the picture, with the values that would not; null never does."""

NEUTRAL_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "eta_noise_seed_delta": (0,),
    "sd_hypernetwork": ("", "None"),
    "sd_lora": ("", "None"),
    "face_restoration": (False,),
    "tiling": (False,),
    "token_merging_ratio": (0,),
    "eta_ancestral": (1,),
    "img2img_fix_steps": (False,),
    "img2img_color_correction": (False,),
    "inpainting_mask_weight": (1,),
    "s_churn": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
}
"""The same for settings, in `override_settings` or set by POST options."""

WHY = {
    "restore_faces": "face restoration",
    "face_restoration": "face restoration",
    "tiling": "tiling",
    "refiner_checkpoint": "a refiner",
    "firstpass_image": "a first pass picture",
    "infotext": "reading fields out of an infotext",
    "sd_hypernetwork": "hypernetworks",
    "token_merging_ratio": "token merging",
}


def refuse_what_cannot_be(order: Mapping[str, Any]) -> None:
    """Raise Refused for an order with something in it that would change the picture and cannot be done."""
    _refuse(order, NEUTRAL_FIELDS, "")
    beginnings.refuse_what_cannot_be(order)
    refuse_options(order["override_settings"] or {}, "override_settings.")
    if (order["seed_resize_from_w"] or 0) > 0 and (order["seed_resize_from_h"] or 0) > 0:
        raise _refused("seed_resize_from_w", "resizing from a seed")
    if styles := [name for name in order["styles"] or () if name not in {"", "None"}]:
        raise _refused("styles", f"prompt styles such as {styles[0]!r}")
    _refuse_scripts(order)


def refuse_options(options: Mapping[str, Any], where: str = "") -> None:
    """Raise Refused for settings that would change the picture and cannot be had."""
    _refuse(options, NEUTRAL_OPTIONS, where)


def _refuse(given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for name, values in neutral.items():
        value = given.get(name)
        if value is not None and value not in values:
            raise _refused(f"{where}{name}", WHY.get(name, f"a {name} of {value!r}"))


def _refused(field: str, what: str) -> Refused:
    return Refused(
        422, "not_possible", f"{field}: {what} cannot be done by this server yet; leave it out to draw without"
    )


def _refuse_scripts(order: Mapping[str, Any]) -> None:
    """Raise Refused for scripts, in Automatic1111's words; units that are switched off pass."""
    if order["script_name"] not in {None, "", "None"}:
        raise Refused(422, "script_not_found", f"Script '{order['script_name']}' not found")
    controlnet.units_of(order)
    for name, unit in (order["alwayson_scripts"] or {}).items():
        if is_active(unit) and not controlnet.is_controlnet(name):
            raise Refused(422, "script_not_found", f"always on script {name} not found")


def is_active(unit: Any) -> bool:
    """Say whether an extension's unit asks for anything; many clients always send units that are switched off."""
    arguments = unit.get("args", ()) if isinstance(unit, Mapping) else unit
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if not isinstance(arguments, Sequence) or isinstance(arguments, str) or not arguments:
        return False
    if arguments[0] is False:  # by custom the first argument switches the whole unit
        return False
    return any(_is_on(argument) for argument in arguments)


def _is_on(argument: Any) -> bool:
    if isinstance(argument, Mapping):
        return bool(argument.get("enabled", argument))
    return bool(argument)
