"""The Automatic1111 dialect's blueprints, which each module of its routes adds to."""

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from app.api.a1111 import translate
from app.api.a1111.root import PREFIX
from app.api.a1111.schemas import A1111ErrorSchema
from app.api.door import Auth, Dialect

NAME = "a1111"

blueprint = Blueprint(
    NAME, __name__, url_prefix=f"{PREFIX}/sdapi/v1", description="Automatic1111's API, answered by the fleet."
)
beside = Blueprint(
    f"{NAME}-beside", __name__, url_prefix=PREFIX, description="What Automatic1111 and its extensions have beside it."
)
dialect = Dialect(
    NAME,
    (PREFIX,),
    Auth.CLIENT_OR_BASIC,
    translate.say,
    (blueprint, beside),
    error=A1111ErrorSchema,
    title="Automatic1111, synchronous",
    about="What unmodified clients of Automatic1111 expect, answered by the fleet: pictures come in the answer. The "
    "same is at the root of the second port (7860).",
)


def problems(*statuses: int) -> Callable[[Any], Any]:
    """Document the problems that a route can have beside those of every route."""

    def documented(view: Any) -> Any:
        for status in statuses:
            view = blueprint.alt_response(status, schema=A1111ErrorSchema)(view)
        return view

    return documented


def null() -> Response:
    """Answer null: Automatic1111 does where it has nothing to say, and clients read every body as JSON."""
    return jsonify(None)
