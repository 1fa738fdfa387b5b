"""Lists that Automatic1111's clients ask for, the same in every dialect with its words."""

from typing import Any

from flask_smorest import Blueprint

from app.api.door import fleet
from app.api.webui import networks, samplers
from app.core import models


def add_routes(blueprint: Blueprint) -> None:
    """Answer what an order may name beside its model."""

    @blueprint.get("/samplers")
    @blueprint.response(200)
    def list_samplers() -> list[dict[str, Any]]:
        """List the samplers."""
        return samplers.samplers_to_json()

    @blueprint.get("/schedulers")
    @blueprint.response(200)
    def list_schedulers() -> list[dict[str, Any]]:
        """List the schedules."""
        return samplers.schedules_to_json()

    @blueprint.get("/upscalers")
    @blueprint.response(200)
    def list_upscalers() -> list[dict[str, Any]]:
        """List what makes pictures larger: those of the catalogue come last."""
        with fleet().reading() as session:
            return networks.upscalers_to_json(session)

    @blueprint.get("/sd-vae")
    @blueprint.response(200)
    def list_vaes() -> list[dict[str, Any]]:
        """List the VAEs to choose from, beside each model's own."""
        with fleet().reading() as session:
            return [networks.vae_to_json(model) for model in models.listing(session, kind="vae")]
