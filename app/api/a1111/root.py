"""The dialect at the root of a host: many Automatic1111 clients know no path before `/sdapi`."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask

from app.api.door import SECOND_PORT

PREFIX = "/a1111"

AS_THEY_ARE = ("/health", "/ready", PREFIX)
"""Paths that mean the same on both ports."""


class AtTheRoot:
    """The same application, in which everything else on this port is meant for this dialect."""

    def __init__(self, application: Flask) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as if its path began with the dialect's prefix."""
        path = environ.get("PATH_INFO", "")
        if not any(path == known or path.startswith(f"{known}/") for known in AS_THEY_ARE):
            environ["PATH_INFO"] = PREFIX + path
        environ[SECOND_PORT] = True
        return self.application(environ, start_response)
