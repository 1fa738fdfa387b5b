"""A real fleet on this computer for the browser to look at: `imagefleet up`, with a driver that draws colour fields."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml

from tests.support.hurry import hurried
from tests.support.processes import WAIT_SECONDS, free_port
from tests.web.origin import SLOW, SMALL, digest_of

LONG_STEPS = 2000
"""Of one picture: forty seconds. With `LONG_COUNT` pictures a job is under way for longer than any test waits."""

LONG_COUNT = 16

FEW = 4
"""Pictures of a job that a test watches to its end, each as long: who has seen enough hurries it."""

FIELDS_OPTIONS = {
    "steps": {"min": 2, "max": LONG_STEPS, "default": 4},
    "width": {"min": 64, "max": 512, "default": 192},
    "height": {"min": 64, "max": 512, "default": 128},
    "guidance_scale": 6.5,
    "scheduler": "Euler a",
}
"""Of the model that pictures are drawn with: small and quick, as far as a test does not ask for more."""


@dataclass(frozen=True, slots=True)
class RunningFleet:
    """A fleet that runs, and its API as a test prepares things with it."""

    url: str
    token: str = ""
    pid: int = 0
    """Of `imagefleet up`, whose children are its parts."""
    data: Path = Path()
    """Its folder."""

    def get(self, path: str) -> Any:
        """Ask for JSON."""
        return self._ask(path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON."""
        return self._ask(path, body)

    def add_model(self, model_id: str, **about: Any) -> str:
        """Put a model into the catalogue that no machine was told to fetch; returns its id."""
        self.post(
            "/v1/models", {"id": model_id, "name": model_id, "download_url": f"https://host.test/{model_id}"} | about
        )
        return model_id

    def order(self, **order: Any) -> str:
        """Send a job; returns its id."""
        return str(self.post("/v1/jobs", {"model_id": "fields", "prompt": "a field"} | order)["job_id"])

    def wait_for(self, job_id: str, status: str = "completed") -> Any:
        """Wait until a job is in a state."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (job := self.get(f"/v1/jobs/{job_id}"))["status"] != status:
            assert time.monotonic() < deadline, f"job {job_id} is {job['status']}, not {status}"
            time.sleep(0.05)
        return job

    def hurry(self, job_id: str) -> Any:
        """Have a job end soon, with less of each picture drawn; returns it."""
        broker_url = json.loads((self.data / "run.json").read_text(encoding="utf-8"))["broker_url"]
        return hurried(broker_url, job_id, lambda: self.get(f"/v1/jobs/{job_id}"))

    @contextmanager
    def kept_busy(self) -> Iterator[None]:
        """Let the machine draw something else as long as the block lasts: what is sent meanwhile waits."""
        other = self.order(prompt="something else", steps=LONG_STEPS, n=LONG_COUNT)
        try:
            self.wait_for(other, "processing")
            yield
        finally:
            self.post("/v1/jobs/cancel", {"job_ids": [other]})

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        request = Request(f"{self.url}{path}", data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urlopen(request, timeout=WAIT_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def running_fleet(folder: Path, origin: str, **environ: str) -> Iterator[RunningFleet]:
    """Start a fleet with one machine and a few models, wait until `fields` can be drawn, and stop it in the end."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"models": list(_models(origin))}), encoding="utf-8")
    log = folder / "log"
    port = free_port()
    known = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "HOME", "LANG"}},
        "CONFIG_FILE": str(config),
        "DRIVER": "fake",
        "ALLOW_PRIVATE_ADDRESSES": "1",
        "MACHINE_ID": "easel",
        "MACHINE_MODELS_NEEDED": "fields,slow,damaged",
        "A1111_PORT": str(free_port()),  # two that start at once would both find Automatic1111's own port free
        "MAX_STEPS": str(LONG_STEPS),
        "DRAIN_SECONDS": "1",  # what is still drawn in the end is of no interest
        **environ,
    }
    command = [sys.executable, "-m", "app.cli", "up", "--port", str(port), "--data-dir", str(folder / "data")]
    with log.open("wb") as lines:
        process = subprocess.Popen(command, env=known, cwd=folder, stdout=lines, stderr=subprocess.STDOUT)
    fleet = RunningFleet(f"http://127.0.0.1:{port}", environ.get("API_TOKENS", ""), process.pid, folder / "data")
    try:
        _wait_until_ready(fleet, process, log)
        yield fleet
    finally:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _models(origin: str) -> Iterator[dict[str, Any]]:
    small, about = digest_of(SMALL), "Colour fields."
    yield {
        "id": "fields",
        "download_url": f"{origin}/fields.bin",
        "hash": small,
        "options": FIELDS_OPTIONS,
        "description": about,
    }
    yield {"id": "slow", "download_url": f"{origin}/slow.bin", "hash": digest_of(SLOW), "size_bytes": len(SLOW)}
    yield {"id": "damaged", "download_url": f"{origin}/damaged.bin", "hash": digest_of(b"something else")}


def _wait_until_ready(fleet: RunningFleet, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not _is_ready(fleet):
        told = log.read_text(encoding="utf-8", errors="replace")
        assert process.poll() is None, f"the fleet ended with status {process.returncode}:\n{told}"
        assert time.monotonic() < deadline, f"the fleet was not ready after {WAIT_SECONDS:g} s:\n{told}"
        time.sleep(0.1)


def _is_ready(fleet: RunningFleet) -> bool:
    try:
        return bool(fleet.get("/v1/models/fields")["availability"] == "ready")
    except (URLError, ConnectionError, TimeoutError):
        return False
