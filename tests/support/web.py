"""A client of the web application, typed for tests."""

from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from flask.testing import FlaskClient


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

        def delete(self, *args: Any, **more: Any) -> Any:
            """Take something away."""


def client_of(app: Flask) -> Client:
    """Return a client of an application."""
    return cast("Client", app.test_client())
