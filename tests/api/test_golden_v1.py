"""Golden bodies of the doors of seeds 000 and 003: whole answers, kept in `golden/`, so that no field changes unseen.

After a change that is meant: `GOLDEN=write pytest tests/api/test_golden_v1.py`, and read the difference.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.core import check_in, models
from app.core.engine_reports import EngineReport
from app.core.fleet import Fleet
from app.core.lifecycle import EngineState, HoldingState
from app.core.machines import HoldingReport, Report
from app.core.models import CatalogueEntry
from tests.api.test_catalog import BATCH, FLUX, SDXL
from tests.builders import BOOT, MACHINE
from tests.support.web import Client

GOLDEN = Path(__file__).parent / "golden"
AN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=request )[0-9a-f]{32}")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP8z4AdMOEQH6QSAM1BAQ/oQeJvAAAAAElFTkSuQmCC"
LORA = {"model_type": "LoRA", "model_base": "SD"}
GB = 10**9


class Session:
    """A client that writes down every answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.told: dict[str, Any] = {}

    def ask(self, name: str, method: str, path: str, body: Any = None) -> Any:
        """Ask, and keep what comes back under a name."""
        answer = self._client.open(path, method=method, **({} if body is None else {"json": body}))
        shown = answer.get_json(silent=True)
        self.told[name] = {
            "request": f"{method} {path}" if body is None else [f"{method} {path}", body],
            "status": answer.status_code,
            "body": shown,
        }
        return shown


def masked(told: Any) -> Any:
    """Put numbers in the place of ids, the same for the same one."""
    known: dict[str, str] = {}
    text = json.dumps(told, ensure_ascii=False)
    text = AN_ID.sub(lambda found: known.setdefault(found[0], f"<uuid {len(known) + 1}>"), text)
    return json.loads(text)


def held_against(name: str, told: Any) -> None:
    path = GOLDEN / f"{name}.json"
    found = masked(told)
    if os.environ.get("GOLDEN") == "write":
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert list(found) == list(expected)
    for step in found:
        assert found[step] == expected[step], step


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_session_with_seed_000(client: Client, fleet: Fleet) -> None:
    session = Session(client)
    ask = session.ask
    model = {"path": "hf://owner/repo", "check": False, "model_base": "SDXL", "variant": "fp16", "tags": ["photo"]}

    ask("a model", "POST", "/v1/models", {"name": "SDXL base", "model_type": "Checkpoint", **model})
    ask("a LoRA of another base", "POST", "/v1/models", {"name": "fur", **model, **LORA})
    ask("an empty field", "POST", "/v1/models", {"name": "", "model_type": "Checkpoint"})
    ask("a field of the wrong type", "POST", "/v1/models", {"name": "a", "tags": "photo"})
    ask("a file that is not there", "POST", "/v1/models", {"name": "a", "path": "file:///nowhere/a.safetensors"})
    ask("the models", "GET", "/v1/models?limit=1")
    ask("no checkpoint", "POST", "/v1/engines", {"checkpoint": "nothing"})
    ask("bases differ", "POST", "/v1/engines", {"checkpoint": "SDXL-base", "loras": ["fur"]})
    engine = ask("an engine", "POST", "/v1/engines", {"checkpoint": "SDXL-base", "default_steps": 12})
    path = f"/v1/engines/{engine['engine_id']}"
    ask("nobody to start it", "PATCH", f"{path}/start")
    let_in(fleet, room=2 * GB)
    ask("not enough memory", "PATCH", f"{path}/start")
    let_in(fleet, room=20 * GB)
    ask("started", "PATCH", f"{path}/start")
    loaded: dict[str, Any] = {
        "engine_id": UUID(engine["engine_id"]),
        "state": EngineState.READY,
        "bytes_measured": 5 * GB,
    }
    let_in(fleet, 20 * GB, EngineReport(**loaded))
    ask("the engines", "GET", "/v1/engines")
    ask("a running engine stays", "DELETE", path)
    ask("an engine that is nobody's", "PATCH", "/v1/engines/00000000-0000-0000-0000-000000000007/start")
    job = {"prompt": "a fox", "negative_prompt": "blurry", "loras": [], "embeddings": [], "reference_image_blob": PNG}
    ask("a job for no engine", "POST", "/v1/jobs", {"engine_id": "nothing", **job})
    order = {"engine_id": engine["engine_id"], **job, "seed": 7, "remove_background": False}
    ordered = ask("a job", "POST", "/v1/jobs", order)
    ask("the model is needed", "DELETE", "/v1/models/SDXL-base")
    ask("cancelled", "POST", f"/v1/jobs/{ordered['job_id']}/cancel")
    ask("the model, ready", "GET", "/v1/models/SDXL-base")

    held_against("seed_000", session.told)


def let_in(fleet: Fleet, room: int, *engines: EngineReport) -> None:
    """Let a machine check in that is ready for the model, with so much room for engines."""
    ready = HoldingReport(model_id="SDXL-base", state=HoldingState.READY, weights_bytes=5 * GB, drawing_bytes=GB)
    device = {"type": "cuda", "name": "a GPU", "engine_room": room, "engine_most": 20 * GB}
    with fleet.transaction() as tx:
        check_in.check_in(tx, Report(machine_id=MACHINE, boot_id=BOOT, device=device, holdings=[ready]), engines)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_session_with_seed_003(client: Client, fleet: Fleet) -> None:
    with fleet.transaction() as tx:
        for model in (FLUX, SDXL):
            models.put(tx, CatalogueEntry(**model), origin="api")
    session = Session(client)

    session.ask("one", "GET", "/api/models/flux-dev")
    session.ask("none", "GET", "/api/models/nonexistent-model")
    session.ask("several", "POST", BATCH, {"model_ids": ["flux-dev", "sdxl-base", "controlnet-canny"]})
    session.ask("no list", "POST", BATCH, {"model_ids": "flux-dev"})
    session.ask("no text", "POST", BATCH, {"model_ids": [7]})
    session.ask("no such method", "DELETE", BATCH)

    held_against("seed_003", session.told)
