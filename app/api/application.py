"""The web application: every dialect's door in one Flask app."""

from collections.abc import Sequence

from flask import Flask

from app.api import cors, documents, rates, traces, waiting
from app.api.a1111.routes import dialect as a1111
from app.api.catalog.routes import dialect as catalog
from app.api.door import Dialect, guard
from app.api.gallery.routes import dialect as gallery
from app.api.machines.routes import dialect as machines
from app.api.openai.routes import dialect as openai
from app.api.openai.routes import dialect_drawn as openai_drawn
from app.api.ops.routes import counted
from app.api.ops.routes import dialect as ops
from app.api.pages.routes import dialect as pages
from app.api.sdapi.routes import dialect as sdapi
from app.api.simple.routes import dialect as simple
from app.api.v1.routes import dialect as v1
from app.core.fleet import Fleet
from app.settings import Settings

DIALECTS: Sequence[Dialect] = (
    pages,
    ops,
    counted,
    v1,
    simple,
    gallery,
    sdapi,
    a1111,
    openai,
    openai_drawn,
    catalog,
    machines,
)

BYTES_PER_MB = 10**6


def make_application(fleet: Fleet, settings: Settings) -> Flask:
    """Make the application that gunicorn serves."""
    app = Flask("app", static_folder=None)  # the pages hand out their files themselves
    app.extensions["imagefleet"] = fleet
    app.extensions["imagefleet.settings"] = settings
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default JSON provider has it
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_upload_mb * BYTES_PER_MB,
        API_TITLE="Imagefleet",
        API_VERSION="v1",
        OPENAPI_VERSION="3.0.3",
    )
    # A client that waits holds a thread; the other half of them answers everybody else.
    waiting.open_room(app, settings.web_threads // 2)
    rates.open_gate(app, settings)
    traces.follow(app)
    guard(app, DIALECTS)
    cors.allow(app, DIALECTS, settings.cors_origins)
    api = documents.FleetApi(app)
    for dialect in DIALECTS:
        for blueprint in dialect.blueprints:
            api.register_blueprint(blueprint)
    documents.add_documents(app, api, DIALECTS, settings)
    return app
