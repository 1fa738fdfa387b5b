"""Routes of the page and of the artifacts: files that machines download from the server itself, as from any origin."""

from collections.abc import Mapping
from typing import Any

from flask import Response, current_app, render_template, send_from_directory
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from app.api import serving
from app.api.auth import gatekeeper
from app.api.documents import documents
from app.api.door import Auth, Dialect, Problem, Refused, settings
from app.api.pages import assets, doc, public
from app.catalogue import artifacts
from app.core.models import KINDS
from app.core.spec import MAX_SEED, PIXEL_GRID, SCHEDULERS

blueprint = Blueprint("pages", __name__, description="The page, and the files we serve ourselves.")

POLICY = {
    "default-src": "'self'",
    "img-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",  # scripts send the orders; a form that sends itself would put prompts into the address
    "frame-ancestors": "'none'",
}
"""Content-Security-Policy of the page: nothing from elsewhere, no script or style within it, in nobody's frame."""


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong."""
    return {"error": problem.message}


OPENAPI = {"type": "object", "required": ["openapi", "info", "paths"]}
HTML = {"type": "string"}


class PagesErrorSchema(Schema):
    """A problem in this dialect's shape."""

    error = fields.String(required=True)


dialect = Dialect(
    "pages",
    ("/", "/static", "/artifacts", "/doc", "/openapi", "/openapi.json"),
    Auth.OPEN,
    say,
    (blueprint,),
    error=PagesErrorSchema,
    title="pages, what browsers show",
    about="The page, the files that the server hands out itself, and these descriptions.",
)


@blueprint.get("/openapi.json")
@blueprint.response(200, OPENAPI)
def show_document() -> Response:
    """Describe every route of every dialect, as OpenAPI 3.0.3."""
    return _described(documents().whole())


@blueprint.get("/openapi/<name>.json")
@blueprint.response(200, OPENAPI)
def show_document_of(name: str) -> Response:
    """Describe the routes of one dialect, such as `v1`; `all` is every one of them."""
    found = documents().of(name)
    if found is None:
        known = ", ".join(each.name for each in documents().listing())
        raise Refused(404, "not_found", f"there is no dialect {name!r}; there are {known}")
    return _described(found)


def _described(document: Mapping[str, Any]) -> Response:
    return public.answer(current_app.json.dumps(document).encode(), "application/json")


@blueprint.get("/")
@blueprint.response(200, HTML, content_type="text/html")
def home() -> Response:
    """Show the page. It is the same for everybody; what it shows it asks for with the visitor's own token."""
    known = settings()
    page = render_template(
        "home.html",
        needs_token=not gatekeeper().is_open(Auth.CLIENT),
        schedulers=SCHEDULERS,
        pixel_grid=PIXEL_GRID,
        max_seed=MAX_SEED,
        limits=known,
        kinds=KINDS,
        flower_url=known.flower_url,
        asset=assets.address,
    )
    response = public.answer(page.encode(), "text/html")
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in POLICY.items())
    return response


@blueprint.get("/artifacts/<path:name>")
@blueprint.response(200, serving.FILE, content_type="application/octet-stream")
@blueprint.alt_response(206, schema=serving.FILE, content_type="application/octet-stream", success=True)
@blueprint.alt_response(304, description="you have it already", success=True)
@blueprint.alt_response(416, schema=PagesErrorSchema)
def artifact(name: str) -> Response:
    """Hand out a file of our own, by ranges if asked: the demo model is provisioned from here."""
    return send_from_directory(artifacts(), name, mimetype="application/octet-stream", conditional=True)


assets.add_routes(blueprint)
doc.add_routes(blueprint)
