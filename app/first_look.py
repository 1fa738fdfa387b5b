"""What `imagefleet up` tells once everything runs: how the models come along, and the first picture."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.client import ApiClient

DEMO_MODEL = "demo-shapes"
FIRST_PROMPT = "a red circle on a blue background"


@dataclass(slots=True)
class FirstLook:
    """Looks at the fleet with eyes of a client. Raises ApiError where the web part does not answer."""

    api: ApiClient
    say: Callable[[str, str], None]
    stopping: threading.Event
    """Set when nobody waits for the picture any more."""
    _told: dict[tuple[str, str], str] = field(default_factory=dict)

    def tell_models(self) -> set[str]:
        """Say what changed since the last look; returns the models that can be drawn with."""
        ready = set()
        for machine in live_machines(self.api):
            for model in machine["models"]:
                key, state = (machine["machine_id"], model["model_id"]), model["state"]
                if state == "ready":
                    ready.add(model["model_id"])
                if self._told.get(key) != state and state in {"ready", "error"}:
                    reason = f": {model['error']['message']}" if model["error"] else ""
                    self.say("model", f"{state:<8} {model['model_id']} on {machine['machine_id']}{reason}")
                self._told[key] = state
        return ready

    def draw_first(self, ready: set[str], path: Path) -> None:
        """Draw the first picture into a file, with the demo model if it is there, and say where it lies."""
        model_id = DEMO_MODEL if DEMO_MODEL in ready else min(ready)
        self.say("picture", f"drawing {FIRST_PROMPT!r} with {model_id}")
        began = time.monotonic()
        job: Mapping[str, Any] = {}
        for news in self.api.draw({"model_id": model_id, "prompt": FIRST_PROMPT}):
            job = news
            if self.stopping.is_set():
                return
        if job["status"] != "completed":
            self.say("picture", f"the first job ended as {job['status']}: {job['error']}")
            return
        path.write_bytes(self.api.picture(job["images"][0]))
        self.say("picture", f"ready    {path} ({time.monotonic() - began:.1f} s; also {job['images'][0]['url']})")


def live_machines(api: ApiClient) -> list[dict[str, Any]]:
    """Return the machines that are there, as the API tells them."""
    return [machine for machine in api.get("v1/machines")["machines"] if machine["alive"]]
