"""Routes of the page and of the artifacts: files that machines download from the server itself, as from any origin."""

from typing import Any

from flask import Response, render_template, send_from_directory
from flask_smorest import Blueprint

from app.api.door import Auth, Dialect, Problem, settings
from app.catalogue import artifacts

blueprint = Blueprint("pages", __name__, description="The page, and the files we serve ourselves.")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong."""
    return {"error": problem.message}


dialect = Dialect("pages", ("/", "/static", "/artifacts", "/openapi.json"), Auth.OPEN, say, (blueprint,))


@blueprint.get("/")
def home() -> str:
    """Show the page. It is the same for everybody; what it shows it asks for with the visitor's own token."""
    return render_template("home.html", needs_token=bool(settings().api_tokens))


@blueprint.get("/artifacts/<path:name>")
def artifact(name: str) -> Response:
    """Hand out a file of our own, by ranges if asked: the demo model is provisioned from here."""
    return send_from_directory(artifacts(), name, mimetype="application/octet-stream", conditional=True)
