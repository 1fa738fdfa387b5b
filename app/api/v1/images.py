"""v1: the pictures of completed jobs."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from marshmallow import RAISE
from werkzeug.wrappers import Response as BaseResponse

from app.api import paging, serving
from app.api.auth import require_own
from app.api.door import absolute, fleet
from app.api.v1 import job_schemas, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import images, listing


@blueprint.get("/images")
@blueprint.arguments(job_schemas.ImageQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, job_schemas.ImageListSchema)
def list_images(query: Mapping[str, Any]) -> dict[str, Any]:
    """List pictures by pages, the newest first where nothing else is asked for."""
    filters = {name: query[name] for name in ("model_id", "job_id", "search", "since", "before") if name in query}
    part = paging.part_of(query, listing.IMAGES)
    wanted = listing.ImageQuery(part=part, is_favourite=query.get("favourite"), **filters)
    with fleet().reading() as session:
        page = listing.page_of_images(session, wanted)
        shown = [translate.listed_image_to_json(image, absolute) for image in page.rows]
    return {"images": shown, "next": paging.to_text(page.next)}


@blueprint.get("/images/<uuid:image_id>")
@blueprint.doc(**serving.PICTURE)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_image(image_id: UUID) -> BaseResponse:
    """Return a picture."""
    return serving.picture(image_id)


@blueprint.get("/images/<uuid:image_id>/thumbnail")
@blueprint.doc(**serving.PICTURE)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_thumbnail(image_id: UUID) -> BaseResponse:
    """Return a picture made small enough for a gallery; one that is small already as it is."""
    return serving.thumbnail(image_id)


@blueprint.patch("/images/<uuid:image_id>")
@blueprint.arguments(job_schemas.ImageChangeSchema)
@blueprint.response(200, job_schemas.ListedImageSchema)
@blueprint.alt_response(403, schema=V1ErrorSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def change_image(body: Mapping[str, Any], image_id: UUID) -> dict[str, Any]:
    """Make a picture a favourite, or an ordinary one again."""
    with fleet().transaction() as tx:
        require_own(tx.session, images.get(tx.session, image_id).job_id)
        image = images.mark(tx, image_id, is_favourite=body["favourite"])
        return translate.listed_image_to_json(image, absolute)


@blueprint.delete("/images/<uuid:image_id>")
@blueprint.response(204)
@blueprint.alt_response(403, schema=V1ErrorSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def delete_image(image_id: UUID) -> None:
    """Delete a picture for good; its job stays, without it."""
    with fleet().transaction() as tx:
        require_own(tx.session, images.get(tx.session, image_id).job_id)
        images.remove(tx, image_id, fleet())
