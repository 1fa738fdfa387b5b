"""What Automatic1111 has beside checkpoints: LoRAs, VAEs and upscalers, as its clients name and see them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy.orm import Session

from app.api.door import Refused
from app.api.webui import titles
from app.core import models
from app.core.prompt_tags import without_networks
from app.core.spec import GenerationSpec
from app.core.tables import Model
from app.core.upscaling import PIXELS

OWN_VAE = ("", "automatic", "none")
"""What `sd_vae` is called that leaves a model its own, in lower case."""


def vae_named(session: Session, name: Any) -> str | None:
    """Find the VAE that a client's word means; None: the model's own. Raises Refused for one that is not there."""
    if str(name or "").strip().lower() in OWN_VAE:
        return None
    found = titles.match(models.listing(session, kind="vae"), str(name))
    if found is None:
        raise Refused(422, "vae_not_found", f"VAE {name!r} not found; GET sd-vae lists what there is")
    return found.id


def with_networks(
    session: Session, spec: GenerationSpec, order: Mapping[str, Any], options: Mapping[str, Any]
) -> GenerationSpec:
    """Add the VAE that an order or its caller's settings name; networks that are switched off leave the prompt."""
    if order["disable_extra_networks"]:
        spec = replace(spec, prompt=without_networks(spec.prompt)[0])
    wanted = (order["override_settings"] or {}).get("sd_vae", options.get("sd_vae"))
    return replace(spec, vae_id=vae_named(session, wanted))


def lora_to_json(model: Model) -> dict[str, Any]:
    """Show a LoRA by the name that a prompt gives it; its metadata are what machines have read."""
    return {
        "name": model.id,
        "alias": stem_of(model),
        "path": model.save_path,
        "metadata": {"modelspec.trigger_phrase": ", ".join(model.trigger_words)} if model.trigger_words else {},
    }


def vae_to_json(model: Model) -> dict[str, Any]:
    """Show a VAE."""
    return {"model_name": model.name, "filename": model.save_path}


def upscalers_to_json(session: Session) -> list[dict[str, Any]]:
    """Show what extras and the hires fix may name: those of the catalogue come last."""
    known = [model.id for model in models.listing(session, kind="upscaler")]
    nothing = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [{"name": name, **nothing} for name in ("None", *PIXELS, *known)]


def stem_of(model: Model) -> str:
    """Return the name of a model's file without its ending."""
    return PurePosixPath(model.save_path).stem
