"""Handing out pictures: the same for every dialect."""

from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from app.api.door import fleet
from app.core import images


def picture(image_id: UUID) -> BaseResponse:
    """Answer with a picture's bytes, or 304 to whoever has them already; raises ImageNotFound."""
    with fleet().reading() as session:
        image = images.get(session, image_id)
    response = Response(images.read(fleet(), image), mimetype=image.media_type)
    response.set_etag(image.sha256)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)
