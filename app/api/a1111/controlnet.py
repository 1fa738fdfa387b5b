"""What the extension sd-webui-controlnet has beside Automatic1111's API: its lists, and what an annotator would see."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from app.api import given, ordering
from app.api.a1111 import checkpoints, ordered, schemas, translate
from app.api.a1111.blueprint import beside, problems
from app.api.door import Refused, caller, fleet
from app.api.webui.controlnet import MODULES, MOST_UNITS, NOTHING, name_of
from app.core import callers, choices, jobs, models
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.spec import GenerationSpec
from app.core.tables import Job

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
@beside.arguments(schemas.A1111DetectSchema)
@beside.response(200, schemas.A1111DetectedSchema)
@beside.doc(parameters=[ordering.KEY_HEADER])
@problems(409, 413, 429, 500, 503, 504)
def detect(order: Mapping[str, Any]) -> dict[str, Any]:
    """Show what a preprocessor sees in pictures: each is a job, of a machine that has an annotator for it."""
    module = (order["controlnet_module"] or "none").strip().lower()
    kind = next((kind for kind, names in MODULES.items() if module in names), None)
    if kind is None and module not in NOTHING:
        raise Refused(
            422, "invalid_module", f"Module not available: {module!r}; GET /controlnet/module_list lists them"
        )
    texts = order["controlnet_input_images"] or order["controlnet_images"] or []
    if not texts:
        raise Refused(422, "no_image", "No image selected: give some in controlnet_input_images, in base64")
    names = [given.keep_text(text, f"controlnet_input_images.{number}") for number, text in enumerate(texts)]
    found = ordered.awaited(lambda: _placed(names, kind))
    return {"images": [translate.to_base64(_read(job)) for job in found], "info": "Success"}


def _placed(names: Sequence[str], kind: str | None) -> list[UUID]:
    def look(tx: Transaction, terms: Terms) -> list[Job]:
        options = callers.options_of(tx.session, caller())
        model = checkpoints.to_draw_with(tx.session, None, options, fleet())
        look_at = GenerationSpec(model_id=model.id, prompt="", image=names[0], strength=0.0, seed=0, detect=kind)
        return jobs.submit_list(tx, [replace(look_at, image=name) for name in names], terms)

    return ordered.placed(look)


def _read(job: Job) -> bytes:
    found = ordered.pictures_of(job)
    if not found:
        raise Refused(409, "interrupted", f"job {job.id} was interrupted; there is nothing to show")
    return found[0]
