"""Units of the extension sd-webui-controlnet, as what steers an order.

Source: Mikubill/sd-webui-controlnet 1.1.455, its wiki's page API, and internal_controlnet/args.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.api import given
from app.api.door import Refused
from app.api.webui import titles
from app.core import choices, models
from app.core.extras import CONTROL_KINDS, Control
from app.core.tables import Model

SCRIPT = "controlnet"
"""What `alwayson_scripts` calls the extension, in lower case."""

MOST_UNITS = 8
"""As of every order here; each is a network as large as half of the model's own. The extension shows three."""

NOTHING = ("", "none")
"""What a model or a module is called that is none, in lower case."""

MODULES: Mapping[str, tuple[str, ...]] = {
    "canny": ("canny",),
    "depth": ("depth", "depth_midas", "depth_anything", "depth_anything_v2"),
    "openpose": (
        *("openpose", "openpose_face", "openpose_faceonly", "openpose_full", "openpose_hand"),
        *("dw_openpose_full", "dw_openpose"),
    ),
    "mediapipe_face": ("mediapipe_face",),
}
"""The extension's preprocessors that a machine may have an annotator for, by our kinds; the first is the usual one."""

MOST_WEIGHT = 2

RESIZE_MODES: Mapping[Any, str] = {
    0: "stretch",
    "just resize": "stretch",
    "resizemode.resize": "stretch",
    1: "crop",
    "crop and resize": "crop",
    "resizemode.inner_fit": "crop",
    "scale to fit (inner fit)": "crop",
    "inner fit (scale to fit)": "crop",
    2: "fill",
    "resize and fill": "fill",
    "resizemode.outer_fit": "fill",
    "envelope (outer fit)": "fill",
    "outer fit (shrink to fit)": "fill",
}
"""By its numbers and its words, old and new."""

USUAL_RESIZE_MODE = 1

BALANCED = (None, 0, "balanced", "controlmode.balanced")
"""What `control_mode` may be: the others change how strongly each step is steered, which no pipeline here does."""


def units_of(order: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the units of an order that are switched on; raises Refused for what cannot be one, or cannot be done."""
    scripts = order.get("alwayson_scripts") or {}
    given = [unit for name, script in scripts.items() if is_controlnet(name) for unit in _arguments(script)]
    units = [_checked(unit, number) for number, unit in enumerate(given) if _is_on(unit)]
    if len(units) > MOST_UNITS:
        raise _refused("args", f"{len(units)} units are switched on, and {MOST_UNITS} can be")
    return units


def is_controlnet(script: str) -> bool:
    """Say whether an always-on script is this extension."""
    return script.lower() == SCRIPT


def with_pictures_kept(order: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the pictures of an order's units, and name them in it instead; those to begin with are named already.

    A unit without a picture of its own looks at the one to begin with. Raises Refused.
    """
    units = units_of(order)
    if not units:
        return order
    begun_with = next(iter(order.get("init_images") or ()), None)
    kept = []
    for number, unit in enumerate(units):
        own = _picture_of(unit)
        if not own and begun_with is None:
            raise _refused(f"args.{number}.image", "there is no control picture; give one in base64")
        named = given.keep_text(own, f"alwayson_scripts.controlnet.args.{number}.image") if own else begun_with
        kept.append({**unit, "image": named, "input_image": None})
    return {**order, "alwayson_scripts": {SCRIPT: {"args": kept}}}


def controls_of(session: Session, order: Mapping[str, Any]) -> tuple[Control, ...]:
    """Read the units of an order whose pictures are kept already; raises Refused."""
    units = units_of(order)
    known = models.listing(session, kind="controlnet") if units else ()
    return tuple(_control(unit, number, known) for number, unit in enumerate(units))


def name_of(model: Model) -> str:
    """Name a ControlNet as the extension's list does: its file without the ending, and the head of its hash."""
    stem = model.name.rpartition(".")[0] or model.name
    digest = titles.sha256_of(model)
    return f"{stem} [{digest[:8]}]" if digest else stem


def _control(unit: Mapping[str, Any], number: int, known: Sequence[Model]) -> Control:
    model = _model_of(unit, number, known)
    module = _word(unit, "module")
    kind = next((kind for kind, names in MODULES.items() if module in names), None)
    if kind is None and model is None:
        raise _refused(f"args.{number}.model", "name one of GET /controlnet/model_list, or a module")
    if kind is None and model is not None:
        kind = choices.control_kind_of(model) or CONTROL_KINDS[0]
    return Control(
        model_id=model.id if model else None,
        image=unit["image"],
        kind=str(kind),
        annotate=module not in NOTHING,
        weight=_number(unit, number, "weight", 1.0),
        start=_number(unit, number, "guidance_start", 0.0),
        end=_number(unit, number, "guidance_end", 1.0),
        resize_mode=_resize_mode(unit, number),
    )


def _model_of(unit: Mapping[str, Any], number: int, known: Iterable[Model]) -> Model | None:
    """Find the ControlNet that a unit names; None leaves it to the server, by what the module draws."""
    wanted = str(unit.get("model") or "").strip()
    if wanted.lower() in NOTHING:
        return None
    named = {name_of(model).lower(): model for model in known}
    found = named.get(wanted.lower()) or titles.match(list(known), wanted)
    if found is None:
        raise _refused(
            f"args.{number}.model", f"ControlNet {wanted!r} not found; GET /controlnet/model_list lists them"
        )
    return found


def _arguments(script: Any) -> list[Any]:
    arguments = script.get("args") if isinstance(script, Mapping) else script
    return list(arguments) if isinstance(arguments, (list, tuple)) else [arguments]


def _is_on(unit: Any) -> bool:
    """Say whether a unit asks for anything; clients send empty ones, and such as are switched off."""
    if not isinstance(unit, Mapping):
        return bool(unit) and unit is not True
    asks = _word(unit, "model") not in NOTHING or _word(unit, "module") not in NOTHING
    return bool(unit.get("enabled", True)) and asks


def _checked(unit: Any, number: int) -> Mapping[str, Any]:
    where = f"args.{number}"
    if not isinstance(unit, Mapping):
        raise _refused(where, 'a unit is an object such as {"image": …, "module": …, "model": …}')
    module, mode = _word(unit, "module"), unit.get("control_mode")
    if module not in NOTHING and not any(module in names for names in MODULES.values()):
        raise _refused(f"{where}.module", f"{module!r} cannot be done here; GET /controlnet/module_list lists what can")
    if (mode.lower() if isinstance(mode, str) else mode) not in BALANCED:
        raise _refused(f"{where}.control_mode", f"{mode!r} cannot be done by this server; leave it Balanced")
    if unit.get("mask") or unit.get("mask_image") or unit.get("effective_region_mask"):
        raise _refused(f"{where}.mask", "a unit with a mask cannot be done by this server; leave it out")
    return unit


def _picture_of(unit: Mapping[str, Any]) -> str | None:
    """Return a unit's own picture, by any of the names that it has had."""
    found = unit.get("image") or unit.get("input_image")
    if isinstance(found, Mapping):
        found = found.get("image")
    if isinstance(found, (list, tuple)):
        found = next(iter(found), None)
    return found if isinstance(found, str) else None


def _resize_mode(unit: Mapping[str, Any], number: int) -> str:
    mode = unit.get("resize_mode")
    mode = USUAL_RESIZE_MODE if mode is None else mode
    found = RESIZE_MODES.get(
        mode.lower() if isinstance(mode, str) else mode if isinstance(mode, (int, float)) else None
    )
    if found is None:
        raise _refused(
            f"args.{number}.resize_mode", f"{mode!r} is none of Just Resize, Crop and Resize, Resize and Fill"
        )
    return found


def _number(unit: Mapping[str, Any], number: int, name: str, usual: float) -> float:
    value = unit.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_WEIGHT:
        raise _refused(f"args.{number}.{name}", f"must be a number from 0 to {MOST_WEIGHT}")
    return float(value)


def _word(unit: Mapping[str, Any], name: str) -> str:
    return str(unit.get(name) or "").strip().lower()


def _refused(place: str, what: str) -> Refused:
    sentence = f"alwayson_scripts.controlnet.{place}: {what}"
    return Refused(422, "invalid_request", sentence)
