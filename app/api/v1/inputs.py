"""v1: pictures to begin with, and what makes pictures larger."""

from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify, request
from werkzeug.wrappers import Response as BaseResponse

from app.api import given, ordering, serving
from app.api.door import absolute, fleet
from app.api.v1 import control_schemas
from app.api.v1.blueprint import blueprint
from app.api.v1.picture_schemas import InputSchema, UpscalerListSchema
from app.api.v1.schemas import V1ErrorSchema
from app.core import inputs, models
from app.core.errors import InputNotFound
from app.core.extras import SHA256
from app.core.tables import Input
from app.core.upscaling import BUILT_IN, LATENT

PICTURE = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "content": {
        "image/png": PICTURE,
        "image/jpeg": PICTURE,
        "image/webp": PICTURE,
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": PICTURE["schema"]}}},
    },
}


@blueprint.post("/inputs")
@blueprint.response(201, InputSchema)
@blueprint.doc(requestBody=BODY, parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(409, schema=V1ErrorSchema)
@blueprint.alt_response(413, schema=V1ErrorSchema)
@blueprint.alt_response(422, schema=V1ErrorSchema)
def upload_picture() -> Response:
    """Keep a picture to begin with, as the body or as the part `file` of a form; the same one is kept once.

    What it is its bytes tell, not its name. Its metadata is taken out, and it is turned as its EXIF says.
    """
    data = given.from_body()
    found = given.checked(data)
    with fleet().transaction() as tx:
        ordering.made_once(tx, lambda: [found.sha256], told=data)
    # Also where it came before: the bytes are here, and the picture may have been swept away since.
    shown = InputSchema().dump(_to_json(given.keep_checked(found)))
    response = jsonify(shown)
    response.status_code = 201
    response.headers["Location"] = shown["url"]
    return response


@blueprint.get("/inputs/<input_id>")
@blueprint.doc(**serving.PICTURE)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_picture(input_id: str) -> BaseResponse:
    """Return an uploaded picture, as machines get it."""
    if not SHA256.fullmatch(input_id):
        raise InputNotFound(f"there is no picture {input_id}: an id has 64 hexadecimal digits")
    with fleet().reading() as session:
        found = inputs.get(session, input_id)
    response = Response(inputs.read(fleet(), found), mimetype=found.media_type)
    response.set_etag(found.sha256)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)


@blueprint.get("/upscalers")
@blueprint.response(200, UpscalerListSchema)
def list_upscalers() -> dict[str, Any]:
    """List what `hires` and `upscale` may name."""
    with fleet().reading() as session:
        ids = [model.id for model in models.listing(session, kind="upscaler")]
    built_in = [{"name": name, "latent": name in LATENT, "built_in": True} for name in BUILT_IN]
    return {"upscalers": built_in + [{"name": each, "latent": False, "built_in": False} for each in ids]}


def kept(order: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the pictures that an order brings along, and name them in it instead; raises Refused."""
    found = {name: value for name, value in control_schemas.kept(order).items() if name != "reference_image_blob"}
    for name in ("image", "reference_image_blob"):
        if name in order:
            found["image"] = given.keep_text(order[name], name)
    if "mask" in order:
        found["mask"] = {**order["mask"], "image": given.keep_text(order["mask"]["image"], "mask.image")}
    return found


def _to_json(found: Input) -> dict[str, Any]:
    return {
        "input_id": found.sha256,
        "url": absolute(f"/v1/inputs/{found.sha256}"),
        "width": found.width,
        "height": found.height,
        "media_type": found.media_type,
        "size_bytes": found.size_bytes,
        "created_at": found.created_at,
    }
