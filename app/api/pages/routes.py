"""Routes of the page and of the artifacts: files that machines download from the server itself, as from any origin."""

from typing import Any

from flask import Response, make_response, render_template, send_from_directory
from flask_smorest import Blueprint

from app.api.door import Auth, Dialect, Problem, settings
from app.catalogue import artifacts
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


dialect = Dialect("pages", ("/", "/static", "/artifacts", "/openapi.json"), Auth.OPEN, say, (blueprint,))


@blueprint.after_app_request
def forbid_guessing(response: Response) -> Response:
    """Let no browser take a picture or an answer for something else than we say it is."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


@blueprint.get("/")
def home() -> Response:
    """Show the page. It is the same for everybody; what it shows it asks for with the visitor's own token."""
    known = settings()
    page = render_template(
        "home.html",
        needs_token=bool(known.api_tokens),
        schedulers=SCHEDULERS,
        pixel_grid=PIXEL_GRID,
        max_seed=MAX_SEED,
        limits=known,
    )
    response = make_response(page)
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in POLICY.items())
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response


@blueprint.get("/artifacts/<path:name>")
def artifact(name: str) -> Response:
    """Hand out a file of our own, by ranges if asked: the demo model is provisioned from here."""
    return send_from_directory(artifacts(), name, mimetype="application/octet-stream", conditional=True)
