"""What the extension sd-webui-controlnet has beside Automatic1111's API: its lists, and what an annotator would see."""

from typing import Any

from app.api.a1111.blueprint import beside, problems
from app.api.door import Refused, fleet
from app.api.webui.controlnet import MODULES, MOST_UNITS, name_of
from app.core import choices, models

VERSION = 2
"""Of the extension's API, whose clients ask for it."""

MODULE_NAMES = ("none", *(name for names in MODULES.values() for name in names))

TYPES = {"canny": "Canny", "depth": "Depth", "openpose": "OpenPose", "mediapipe_face": "MediaPipe Face"}
"""How the extension groups preprocessors and models."""


@beside.get("/controlnet/version")
@beside.response(200)
def controlnet_version() -> dict[str, int]:
    """Show the version of the extension that this server speaks like."""
    return {"version": VERSION}


@beside.get("/controlnet/model_list")
@beside.response(200)
def list_controlnets() -> dict[str, list[str]]:
    """List the ControlNets of the catalogue, as a unit names them; machines fetch what an order needs."""
    with fleet().reading() as session:
        return {"model_list": [name_of(model) for model in models.listing(session, kind="controlnet")]}


@beside.get("/controlnet/module_list")
@beside.response(200)
def list_modules() -> dict[str, Any]:
    """List the preprocessors that machines may have an annotator for."""
    detail = {"model_free": False, "sliders": []}
    return {"module_list": list(MODULE_NAMES), "module_detail": dict.fromkeys(MODULE_NAMES, detail)}


@beside.get("/controlnet/control_types")
@beside.response(200)
def list_control_types() -> dict[str, Any]:
    """Group modules and models by what they show."""
    with fleet().reading() as session:
        known = [(name_of(each), choices.control_kind_of(each)) for each in models.listing(session, kind="controlnet")]
    found = {"All": _type(MODULE_NAMES, [name for name, _ in known])}
    for kind, label in TYPES.items():
        found[label] = _type(("none", *MODULES[kind]), [name for name, its in known if its == kind])
    return {"control_types": found}


def _type(modules: tuple[str, ...], names: list[str]) -> dict[str, Any]:
    usual = modules[1] if len(modules) > 1 and modules != MODULE_NAMES else "none"
    return {
        "module_list": list(modules),
        "model_list": ["None", *names],
        "default_option": usual,
        "default_model": names[0] if names and usual != "none" else "None",
    }


@beside.get("/controlnet/settings")
@beside.response(200)
def controlnet_settings() -> dict[str, int]:
    """Say how many units an order may have."""
    return {"control_net_unit_count": MOST_UNITS}


@beside.post("/controlnet/detect")
@beside.response(200)
@problems(501)
def detect() -> dict[str, Any]:
    """Say that annotators look at photos only as part of an order."""
    raise Refused(
        501,
        "not_possible",
        "detect: annotators run on the machines that draw; give the photo and the module in a unit of alwayson_scripts",
    )
