"""/doc: Swagger UI over our own descriptions (seed 002). Its files come from a package and are served by us.

The package is flask-swagger-ui, which brings swagger-ui-dist along; its own page, with a script within it, is not used.
"""

from importlib.resources import files
from pathlib import Path

from flask import Response, abort, render_template
from flask_smorest import Blueprint

from app.api.documents import documents
from app.api.pages import assets, public

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",  # its icons are in its style sheet
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""Content-Security-Policy of this page: no script or style within it, nothing from elsewhere, no eval."""

FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "LICENSE")
"""What is handed out of the package."""

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}


def folder() -> Path:
    """Return where Swagger UI's files are installed."""
    return Path(str(files("flask_swagger_ui") / "dist"))


def add_routes(blueprint: Blueprint) -> None:
    """Add the page and its files."""

    @blueprint.get("/doc")
    @blueprint.response(200, {"type": "string"}, content_type="text/html")
    def show_doc() -> Response:
        """Show every route of every dialect, to read and to try. The token goes behind the button Authorize."""
        listed = [{"name": each.title, "url": each.path} for each in documents().listing()]
        page = render_template("doc.html", documents=listed, asset=assets.address)
        response = public.answer(page.encode(), "text/html")
        response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in POLICY.items())
        return response

    @blueprint.get("/doc/<name>")
    @blueprint.response(200, {"type": "string", "format": "binary"}, content_type="text/plain")
    @blueprint.alt_response(304, description="you have it already", success=True)
    def show_doc_file(name: str) -> Response:
        """Hand out a file of Swagger UI."""
        if name not in FILES:
            abort(404)
        return public.answer((folder() / name).read_bytes(), MEDIA_TYPES.get(Path(name).suffix, "text/plain"))
