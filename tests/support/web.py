"""A client of the web application, typed for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server


class Client(FlaskClient):
    """Flask's own test client. Its answers are Any: a test knows which of them are JSON, a type checker cannot."""

    if TYPE_CHECKING:

        def open(self, *args: Any, **more: Any) -> Any:
            """Ask with any method."""

        def get(self, *args: Any, **more: Any) -> Any:
            """Ask for something."""

        def post(self, *args: Any, **more: Any) -> Any:
            """Send something."""

        def put(self, *args: Any, **more: Any) -> Any:
            """Put something in its place."""

        def patch(self, *args: Any, **more: Any) -> Any:
            """Change a part of something."""

        def delete(self, *args: Any, **more: Any) -> Any:
            """Take something away."""


def client_of(app: Flask) -> Client:
    """Return a client of an application."""
    return cast("Client", app.test_client())


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Answer on a free port of loopback as long as the block lasts; yields the address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
