"""v1: the session of a browser."""

from flask import Response

from app.api import session
from app.api.auth import bearer_token
from app.api.door import settings
from app.api.v1.blueprint import blueprint

KEPT = {
    "responses": {
        "204": {
            "description": "The cookie stands for the token from now on",
            "headers": {"Set-Cookie": {"schema": {"type": "string"}}},
        }
    }
}


@blueprint.post("/session")
@blueprint.doc(**KEPT)
def begin_session() -> Response:
    """Keep the token of this request's `Authorization` in a cookie that no script can read, for pages of this server.

    A cookie is taken from pages of this server only. Programs send their token with each request instead.
    """
    response = Response(status=204)
    if given := bearer_token():
        session.begin(response, given, settings())
    return response


@blueprint.delete("/session")
@blueprint.response(204)
def end_session() -> Response:
    """Forget the cookie."""
    response = Response(status=204)
    session.end(response)
    return response
