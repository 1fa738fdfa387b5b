"""A span for each request that does something."""

from flask import Flask, Response, g, request

from app import tracing

QUIET = ("/health", "/ready", "/metrics", "/static/", "/machines/v1/check-in", "/machines/v1/peers")
"""What is asked every few seconds by everybody: a trace of it tells nothing, and there would be nothing else."""


def follow(app: Flask) -> None:
    """Trace the requests of an application, as part of the trace that they come with."""

    @app.before_request
    def begin() -> None:
        if request.path.startswith(QUIET):
            return
        route = request.url_rule.rule if request.url_rule else "unknown"
        parent = request.headers.get(tracing.TRACEPARENT, "")
        named = {name: value for name, value in (request.view_args or {}).items() if name == "job_id"}
        g.tracing = tracing.span(f"{request.method} {route}", "server", parent, **named)
        g.span = g.tracing.__enter__()
        if g.span is not None:
            g.span.set_attributes({"http.request.method": request.method, "http.route": route})

    @app.after_request
    def note(response: Response) -> Response:
        if g.get("span") is not None:
            g.span.set_attribute("http.response.status_code", response.status_code)
        return response

    @app.teardown_request
    def end(_exc: BaseException | None) -> None:
        if (entered := g.pop("tracing", None)) is not None:
            entered.__exit__(None, None, None)
