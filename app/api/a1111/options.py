"""Settings: Automatic1111 has one set of them for everybody, here each caller has its own."""

from collections.abc import Mapping
from typing import Any

from flask import Response, request

from app.api.a1111 import checkpoints
from app.api.a1111.blueprint import blueprint, null, problems
from app.api.door import Refused, caller, fleet
from app.api.webui import refusals, titles
from app.api.webui.checkpoints import named
from app.api.webui.networks import vae_named
from app.api.webui.specs import CLIP_SKIP, clip_skip_of, image_format_of
from app.core import callers
from app.core.fleet import Transaction
from app.core.tables import Model

OPTIONS: Mapping[str, Any] = {
    "sd_model_checkpoint": "",
    "sd_checkpoint_hash": "",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "samples_format": "png",
    "samples_save": True,
    "grid_save": False,
    "return_grid": False,
    "send_seed": True,
    "hide_samplers": [],
    "live_previews_enable": True,
    "show_progress_every_n_steps": 10,
    "jpeg_quality": 80,
    "face_restoration": False,
    "face_restoration_model": None,
    "inpainting_mask_weight": 1.0,
    "upscaler_for_img2img": None,
    "img2img_fix_steps": False,
    "outdir_txt2img_samples": "",
}
"""The settings that clients ask for. Those out of this table are kept for a caller; others are let be."""

OPTIONS_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "example": {"sd_model_checkpoint": "demo-shapes"}}}},
}
"""For the OpenAPI documents only: the view reads the body itself."""

MODEL = "sd_model_checkpoint"
DERIVED = frozenset({MODEL, "sd_checkpoint_hash"})


@blueprint.get("/options")
@blueprint.response(200)
def show_options() -> dict[str, Any]:
    """Show the caller's settings, among them its model."""
    with fleet().reading() as session:
        kept = callers.options_of(session, caller())
        return _to_json(kept, checkpoints.current(session, kept, fleet()))


@blueprint.post("/options")
@blueprint.doc(requestBody=OPTIONS_BODY)
@blueprint.response(200)
@problems(404)
def set_options() -> Response:
    """Keep settings for this caller, and for nobody else; what would change pictures and cannot be had is refused."""
    given = _json_object()
    refusals.refuse_options(given)
    with fleet().transaction() as tx:
        callers.remember(tx, caller(), _to_keep(tx, given))
    return null()


def keep_overrides(tx: Transaction, order: Mapping[str, Any]) -> None:
    """Keep an order's `override_settings` where it says that they are not to be set back; raises Refused."""
    overrides = order["override_settings"]
    if not overrides or order["override_settings_restore_afterwards"] is not False:
        return
    known, kept = callers.options_of(tx.session, caller()), _to_keep(tx, overrides)
    if any(known.get(name) != value for name, value in kept.items()):
        callers.remember(tx, caller(), kept)


def options_of(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Lay what is kept for a caller over the defaults."""
    return {**OPTIONS, **kept}


def _to_json(kept: Mapping[str, Any], model: Model | None) -> dict[str, Any]:
    own = {MODEL: titles.title(model), "sd_checkpoint_hash": titles.sha256_of(model) or ""} if model else {}
    return options_of(kept) | own


def _to_keep(tx: Transaction, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be kept of settings; raises Refused for a model, a VAE or a value that there is not."""
    found = {name: value for name, value in given.items() if name in OPTIONS and name not in DERIVED}
    if CLIP_SKIP in found:
        clip_skip_of({"override_settings": None, "clip_skip": None}, found)
    if "samples_format" in found:
        image_format_of(found["samples_format"])
    if name := given.get(MODEL):
        found[MODEL] = named(tx.session, str(name)).id
    vae_named(tx.session, given.get("sd_vae"))
    return found


def _json_object() -> dict[str, Any]:
    given = request.get_json(silent=True)
    if not isinstance(given, dict):
        raise Refused(422, "invalid_request", "the body is no JSON object", body=["Input should be a valid dictionary"])
    return given
