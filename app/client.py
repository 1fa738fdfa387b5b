"""The v1 API as the command line uses it."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin

import requests

from app import runfile
from app.settings import Settings

POLL_SECONDS = 0.2

NOT_LET_IN = 401

ENDED = frozenset({"completed", "error", "cancelled"})


class ApiError(Exception):
    """The server said no, or said nothing."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Take what it said, and its HTTP status; None where it said nothing."""
        super().__init__(message)
        self.status = status


class ApiClient:
    """Speaks v1 with one server."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/") + "/"
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> "ApiClient":
        """Find the server: the one that is named, or runs on this data folder, or else the one at FLEET_URL."""
        running = runfile.find(settings)
        found = url or (running.fleet_url if running else settings.fleet_url)
        return cls(found, settings.token_to_show())

    def get(self, path: str) -> Any:
        """Ask for something."""
        return self._ask("GET", path).json()

    def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None) -> Any:
        """Send something; with a `key` of its own it may be sent again without being done again."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._ask("POST", path, json=body, headers=headers).json()

    def delete(self, path: str) -> None:
        """Take something away."""
        self._ask("DELETE", path)

    def draw(self, order: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Order pictures, and tell about the job until it has ended."""
        job = self.post("v1/jobs", order)
        while True:
            yield job
            if job["status"] in ENDED:
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
                f"no server answers at {self._url}: start one with `make run` or `imagefleet up`, or set FLEET_URL"
            ) from exc
        if response.ok:
            return response
        # The answer is for programs: it speaks of a header and of the server's variables.
        remedy = "; set CLIENT_TOKEN to one" if response.status_code == NOT_LET_IN else ""
        try:
            raise ApiError(response.json()["error"]["message"] + remedy, response.status_code)
        except (ValueError, KeyError, TypeError):
            raise ApiError(f"{method} {url} was answered {response.status_code}", response.status_code) from None
