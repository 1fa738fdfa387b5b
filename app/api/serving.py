"""Handing out pictures: the same for every dialect."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from app import thumbnails
from app.api.door import fleet
from app.core import images, picture_files

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
