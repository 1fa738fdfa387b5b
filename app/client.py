"""The v1 API as the command line uses it."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin

import requests

from app import runfile
from app.settings import Settings

POLL_SECONDS = 0.2


class ApiError(Exception):
    """The server said no, or said nothing."""


class ApiClient:
    """Speaks v1 with one server."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/") + "/"
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def of(cls, settings: Settings) -> "ApiClient":
        """Find the server: the one that runs on this data folder, or else the one at FLEET_URL."""
        running = runfile.find(settings)
        url = running.fleet_url if running else settings.fleet_url
        return cls(url, settings.api_tokens[0] if settings.api_tokens else "")

    def get(self, path: str) -> Any:
        """Ask for something."""
        return self._ask("GET", path).json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send something."""
        return self._ask("POST", path, json=body).json()

    def delete(self, path: str) -> None:
        """Take something away."""
        self._ask("DELETE", path)

    def draw(self, order: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Order pictures, and tell about the job until it has ended."""
        job = self.post("v1/jobs", order)
        while True:
            yield job
            if job["status"] in {"completed", "error", "cancelled"}:
                return
            time.sleep(POLL_SECONDS)
            job = self.get(f"v1/jobs/{job['job_id']}")

    def picture(self, image: Mapping[str, Any]) -> bytes:
        """Fetch a picture of a job."""
        return self._ask("GET", f"v1/images/{image['image_id']}").content

    def _ask(self, method: str, path: str, **request: Any) -> requests.Response:
        url = urljoin(self._url, path)
        try:
            response = self._session.request(method, url, timeout=30, **request)
        except requests.RequestException as exc:
            raise ApiError(
                f"no server answers at {self._url}: start one with `imagefleet up`, or set FLEET_URL"
            ) from exc
        if response.ok:
            return response
        try:
            raise ApiError(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            raise ApiError(f"{method} {url} was answered {response.status_code}") from None
