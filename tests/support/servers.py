"""Whole servers as users start them."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.support.processes import ROOT, WAIT_SECONDS, Process, free_port, wait_until

DRIVE = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}

DEMO = "demo-shapes"
"""The model that comes with the project, and that every server has in its catalogue."""

ANSWER_SECONDS = 90.0
"""The bound of one answer, on a computer that is busy with other things as well."""

LOOK_SECONDS = 30.0
"""The bound of one look whether a server is there: after it, the next one is taken."""

ENDED = frozenset({"completed", "error", "cancelled"})


def environ_of(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment that knows nothing of this computer's own settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "DATA_DIR": str(folder),
        **DRIVE,
        **more,
    }


class Api:
    """A server that answers, seen as its clients see it."""

    url: str
    token: str = ""

    def get(self, path: str) -> Any:
        """Ask for JSON."""
        return requests.get(f"{self.url}/{path}", headers=self._headers(), timeout=ANSWER_SECONDS).json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON, and return what comes back."""
        answer = requests.post(f"{self.url}/{path}", json=body, headers=self._headers(), timeout=ANSWER_SECONDS)
        assert answer.ok, answer.text
        return answer.json()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def ended(self, job_id: str, seconds: float = WAIT_SECONDS) -> Any:
        """Wait for the end of a job."""

        def look() -> Any:
            job = self.get(f"v1/jobs/{job_id}")
            return job if job["status"] in ENDED else None

        return wait_until(look, f"job {job_id} ends", seconds)

    def holding(self, model_id: str) -> dict[str, Any]:
        """Return how far the machine is with a model; nothing before it has said anything."""
        found = [
            model
            for machine in self.get("v1/machines")["machines"]
            for model in machine["models"]
            if machine["alive"] and model["model_id"] == model_id
        ]
        return found[0] if found else {"state": None, "error": None}


class Up(Api):
    """A running `imagefleet up`."""

    def __init__(self, folder: Path, *options: str, environ: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "app.cli", "up", "--port", str(self.port), *options]
        more = {"A1111_PORT": str(free_port())} | dict(environ or {})
        self.a1111_port = int(more["A1111_PORT"])
        self.process = Process(command, folder / f"up-{self.port}.log", environ=environ_of(folder, **more), cwd=folder)

    def wait_until_serving(self) -> "Up":
        """Wait for the line that comes when all parts are ready."""
        self.process.wait_for_line("Ctrl-C stops")
        return self

    def running(self) -> dict[str, Any]:
        """Return what it published for other programs."""
        found: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        return found


class Web(Api):
    """The web part alone, which can be taken away and brought back under the same address."""

    def __init__(self, folder: Path, broker_url: str, **more: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._environ = environ_of(folder, BROKER_URL=broker_url, PORT=str(self._port), WEB_WORKERS="1", **more)
        self._process: Process | None = None

    def migrate(self) -> None:
        """Bring the database to the newest schema."""
        command = [sys.executable, "-m", "app.cli", "db", "upgrade"]
        process = Process(command, self._folder / "web.log", environ=self._environ)
        assert process.wait() == 0, process.said()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "gunicorn", "-c", "python:app.server", "app.wsgi:application"]
        self._process = Process(command, self._folder / "web.log", environ=self._environ)
        self._process.wait_until(self._answers, "the web part answers")

    def stop(self) -> None:
        """Take it away."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=LOOK_SECONDS).ok
        except requests.RequestException:
            return False
