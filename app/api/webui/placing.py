"""From an order in Automatic1111's words to one that can be placed: its pictures kept, its networks found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from app.api import given
from app.api.webui import controlnet, networks, specs
from app.core import models
from app.core.spec import GenerationSpec
from app.core.tables import Model


def with_pictures_kept(order: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the pictures that an order brings along, and name them in it instead; raises Refused."""
    if order.get("init_images"):
        images = [given.keep_text(each, "init_images") for each in order["init_images"]]
        order = {**order, "init_images": images, "mask": order["mask"] and given.keep_text(order["mask"], "mask")}
    return controlnet.with_pictures_kept(order)


def to_spec(session: Session, order: Mapping[str, Any], model: Model, options: Mapping[str, Any]) -> GenerationSpec:
    """Read an order whose pictures are kept already; `options` are all of its caller's settings. Raises Refused."""
    upscalers = [each.id for each in models.listing(session, kind="upscaler")]
    spec = replace(specs.to_spec(order, model, options, upscalers), controls=controlnet.controls_of(session, order))
    return networks.with_networks(session, spec, order, options)
