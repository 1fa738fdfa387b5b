"""Handing out pictures: the same for every dialect."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from app import thumbnails
from app.api.door import fleet
from app.core import enrichments, images, picture_files
from app.core.enrichments import Known
from app.core.errors import ImageNotFound
from app.core.tables import Model

FILE: Mapping[str, str] = {"type": "string", "format": "binary"}
"""Bytes, as OpenAPI says it."""

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")

PICTURE: Mapping[str, Any] = {
    "responses": {
        "200": {
            "description": "The picture's bytes",
            "content": {media_type: {"schema": FILE} for media_type in MEDIA_TYPES},
            "headers": {"ETag": {"schema": {"type": "string"}, "description": "its SHA-256"}},
        },
        "304": {"description": "You have it already: it is what `If-None-Match` says"},
    }
}
"""A picture as an answer, for the OpenAPI documents: `@blueprint.doc(**serving.PICTURE)`."""

UPLOAD: Mapping[str, Any] = {
    "required": True,
    "content": {media_type: {"schema": FILE} for media_type in MEDIA_TYPES},
}
"""A picture as the body of a request."""


def thumbnail(image_id: UUID) -> BaseResponse:
    """Answer with a picture in small, made when it is first asked for; raises ImageNotFound."""
    with fleet().reading() as session:
        image = images.get(session, image_id)
    if thumbnails.is_small(image.width, image.height):
        return _answer(images.read(fleet(), image), image.media_type, image.sha256)
    store, key = fleet().images, picture_files.thumbnail_key(image.id)
    try:
        data = store.get(key)
    except KeyError:
        data = thumbnails.make(images.read(fleet(), image))
        store.put(key, data)
    return _answer(data, thumbnails.MEDIA_TYPE, f"{image.sha256}-{thumbnails.SIDE}")


def picture_of_model(model: Model, known: Known) -> BaseResponse:
    """Answer with what the store keeps as a model's picture; raises ImageNotFound where it has none."""
    wanted = enrichments.hash_of(model)
    if wanted is None or not (known.found or {}).get(enrichments.PICTURE):
        raise ImageNotFound(f"there is no picture of the model {model.id!r}")
    try:
        data = fleet().images.get(enrichments.picture_key(wanted))
    except KeyError as exc:
        raise ImageNotFound(f"the picture of the model {model.id!r} is no longer in the store") from exc
    response = Response(data, mimetype=thumbnails.MEDIA_TYPE)
    response.set_etag(sha256(data).hexdigest())
    response.headers["Cache-Control"] = "private, max-age=86400"  # another one may be found when it is looked for again
    return response.make_conditional(request)


def picture(image_id: UUID) -> BaseResponse:
    """Answer with a picture's bytes, or 304 to whoever has them already; raises ImageNotFound."""
    with fleet().reading() as session:
        image = images.get(session, image_id)
    return _answer(images.read(fleet(), image), image.media_type, image.sha256)


def _answer(data: bytes, media_type: str, tag: str) -> BaseResponse:
    response = Response(data, mimetype=media_type)
    response.set_etag(tag)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)
