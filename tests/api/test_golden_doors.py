"""Golden bodies of the doors of seeds 001, 002 and 004, of Automatic1111's and OpenAI's clients: every route's answer.

Written down as those of test_golden_v1.py are, and written anew in the same way.
"""

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask
from PIL import Image

from app.core.fleet import Fleet
from app.core.live import Progress
from tests.api.test_a1111 import drawing
from tests.api.test_golden_v1 import PNG, Session, held_against
from tests.builders import MODEL, a_completed_job, a_machine, a_model, a_running_job
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client

SHA = "c0ffee00" * 8
BASE64 = re.compile(r"[A-Za-z0-9+/]{100,}={0,2}")
SEALED = re.compile(r"(?<=/drawn/)[\w=-]+")
STILL_HERE = ": still here\n\n"
"""Stands between events now and then, where drawing takes its time."""
OWN_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]*")
READ_AS_JSON = frozenset({"info"})
"""Texts that clients read as JSON."""

AT_ONCE = {"Prefer": "respond-async"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def stocked(fleet: Fleet) -> Fleet:
    """Have a model that a machine is ready for, a LoRA, a ControlNet and an upscaler."""
    options = {"steps": {"min": 1, "max": 40, "default": 12}, "width": 64, "height": 64}
    a_model(fleet, hash=SHA, description="circles", tags=["demo"], base="sd15", options=options)
    a_model(fleet, "detail", kind="lora", save_path="loras/detail.safetensors", base="sd15")
    a_model(fleet, "edges", kind="controlnet", tags=["canny"], save_path="controlnet/edges.safetensors")
    a_model(fleet, "larger", kind="upscaler", save_path="upscalers/larger.safetensors")
    gpu = {"type": "cuda", "name": "a GPU", "memory_total": 24 * 10**9, "memory_free": 20 * 10**9}
    computer = {"name": "rack-1", "cpus": 16, "load": 0.5, "memory_total": 64 * 10**9, "memory_free": 48 * 10**9}
    a_machine(fleet, ready_for=[MODEL], version="1.2.3", device=gpu | {"computer": computer})
    return fleet


class Visit(Session):
    """A client that also writes down which routes it has asked, and pictures as words."""

    def __init__(self, client: Client, application: Flask) -> None:
        super().__init__(client)
        self._application = application
        self.asked: set[str] = set()

    def ask(self, name: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Ask, and keep what comes back under a name."""
        sent = {} if body is None else {"data" if more.get("content_type") else "json": body}
        headers = {"X-Request-Id": "a-request", **more.pop("headers", {})}
        answer = self._client.open(path, method=method, headers=headers, **sent, **more)
        matched, _ = self._application.url_map.bind("localhost").match(path.partition("?")[0], method, return_rule=True)
        self.asked.add(f"{method} {matched.rule}")
        shown = answer.get_json(silent=True) if answer.is_json else as_text(answer)
        told = {name: answer.headers[name] for name in ("Location", "Retry-After") if name in answer.headers}
        self.told[name] = {
            "request": f"{method} {SEALED.sub('<sealed>', path)}",
            "status": answer.status_code,
            **({"headers": told} if told else {}),
            "body": without_pictures(shown),
        }
        return shown


def as_text(answer: Any) -> str:
    """Say what an answer is that is no JSON; events are written down."""
    is_read = answer.mimetype == "text/event-stream"
    return str(answer.text).replace(STILL_HERE, "") if is_read else f"<{answer.mimetype}>"


def without_pictures(shown: Any) -> Any:
    """Put words in the place of pictures, and the version that is installed in that of ours."""
    if isinstance(shown, Mapping):
        return {name: _readable(name, without_pictures(value)) for name, value in shown.items()}
    if isinstance(shown, list):
        return [without_pictures(each) for each in shown]
    return BASE64.sub("<base64>", SEALED.sub("<sealed>", shown)) if isinstance(shown, str) else shown


def _readable(name: str, value: Any) -> Any:
    if name == "next" and value is not None:
        return "<place>"
    if name == "version" and isinstance(value, str):
        return OWN_VERSION.sub("<version>", value)
    if name in READ_AS_JSON and isinstance(value, str) and value.startswith("{"):
        return without_pictures(json.loads(value))
    return OWN_VERSION.sub("<version>", value) if isinstance(value, str) and "imagefleet " in value else value


def routes_below(application: Flask, *blueprints: str) -> set[str]:
    """Return every route of these blueprints."""
    return {
        f"{method} {rule.rule}"
        for rule in application.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in blueprints
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.fixture
def visit(client: Client, application: Flask) -> Visit:
    """Return a client that writes down what it is told."""
    return Visit(client, application)


def test_a_session_with_seed_001(
    visit: Visit, application: Flask, stocked: Fleet, dispatcher: RecordingDispatcher
) -> None:
    order = {"model": MODEL, "prompt": "a red circle", "seed": 7}
    with drawing(stocked, dispatcher):
        visit.ask("a picture in the answer", "POST", "/generate", order)
        visit.ask("its address", "POST", "/generate", order | {"response": "url"})
        visit.ask("its bytes", "POST", "/generate", order, headers={"Accept": "image/png"})
    visit.ask("not waited for", "POST", "/generate", order | {"wait": 0})
    visit.ask("the models", "GET", "/models")
    visit.ask("the status", "GET", "/status")

    assert visit.asked == routes_below(application, "simple")
    held_against("seed_001", visit.told)


def test_a_session_with_seed_002(visit: Visit, application: Flask, stocked: Fleet, clock: Clock) -> None:
    api, order = "/sdapi/v1", {"prompt": "a red circle", "seed": 7, "steps": 12, "width": 64, "height": 64}
    done = a_completed_job(stocked, seed=7, steps=12)
    running = a_running_job(stocked, seed=8, steps=12)
    stocked.live.report(running.id, Progress(1, "denoising", step=6, steps=12), b"a small JPEG")
    clock.advance(1)
    first = visit.ask("an order", "POST", f"{api}/txt2img", order)
    clock.advance(1)
    again = visit.ask("from a picture", "POST", f"{api}/img2img", order | {"init_images": [PNG]})
    visit.ask("a waiting job", "GET", f"{api}/jobs/{first['uuid']}")
    visit.ask("a running job", "GET", f"{api}/jobs/{running.id}")
    visit.ask("a completed job", "GET", f"{api}/jobs/{done.id}")
    visit.ask("cancelled", "POST", f"{api}/jobs/{first['uuid']}/cancel")
    visit.ask("cancelled otherwise", "DELETE", f"{api}/jobs/{again['uuid']}")
    visit.ask("the jobs", "GET", f"{api}/jobs?limit=1&sort=status&status=completed&status=processing")
    for name in ("models", "sd-models"):
        visit.ask(f"the {name}", "GET", f"{api}/{name}")
        visit.ask(f"one of the {name}", "GET", f"{api}/{name}/{MODEL}")
    visit.ask("the LoRAs", "GET", f"{api}/loras")
    visit.ask("a LoRA", "GET", f"{api}/loras/detail")
    for name in sorted(routes_below(application, "sdapi") - visit.asked):
        visit.ask(name, *name.split(" "))

    assert visit.asked == routes_below(application, "sdapi")
    held_against("seed_002", visit.told)


def test_a_session_with_automatic1111(
    visit: Visit, application: Flask, stocked: Fleet, dispatcher: RecordingDispatcher
) -> None:
    api, order = "/a1111/sdapi/v1", {"prompt": "a red circle", "seed": 7, "steps": 12, "width": 64, "height": 64}
    with drawing(stocked, dispatcher):
        visit.ask("pictures", "POST", f"{api}/txt2img", order | {"n_iter": 2})
        visit.ask("from a picture", "POST", f"{api}/img2img", order | {"init_images": [PNG], "denoising_strength": 0.4})
        larger = {"image": PNG, "upscaler_1": "Lanczos", "upscaling_resize": 2}
        visit.ask("larger", "POST", f"{api}/extra-single-image", larger)
        several = {"imageList": [{"data": PNG, "name": "a.png"}], **{k: v for k, v in larger.items() if k != "image"}}
        visit.ask("several larger", "POST", f"{api}/extra-batch-images", several)
        seen = {"controlnet_module": "canny", "controlnet_input_images": [PNG]}
        visit.ask("what a preprocessor sees", "POST", "/a1111/controlnet/detect", seen)
    visit.ask("what a picture tells", "POST", f"{api}/png-info", {"image": PNG})
    visit.ask("a setting", "POST", f"{api}/options", {"CLIP_stop_at_last_layers": 2})
    for name in sorted(routes_below(application, "a1111", "a1111-beside") - visit.asked):
        visit.ask(name, *name.split(" "))

    assert visit.asked == routes_below(application, "a1111", "a1111-beside")
    held_against("automatic1111", visit.told)


def test_a_session_with_seed_004(visit: Visit, application: Flask, stocked: Fleet, clock: Clock) -> None:
    done = a_completed_job(stocked, seed=9, steps=12)
    running = a_running_job(stocked, seed=8, steps=12)
    stocked.live.report(running.id, Progress(1, "denoising", step=6, steps=12))
    clock.advance(1)
    ordered = visit.ask(
        "an order",
        "POST",
        "/api/generate",
        {"model": MODEL, "prompt": "a red circle", "settings": {"num_images": 1, "steps": 12, "seed": 7}},
    )
    visit.ask("pending", "GET", f"/api/status/{ordered['job_id']}")
    visit.ask("processing", "GET", f"/api/status/{running.id}")
    shown = visit.ask("completed", "GET", f"/api/status/{done.id}")
    visit.ask("its picture", "GET", f"/api/image/{shown['images'][0]['image_id']}")
    visit.ask("the models", "GET", "/api/models")
    visit.ask("the queue", "GET", "/api/queue")

    assert visit.asked == routes_below(application, "gallery")
    held_against("seed_004", visit.told)


def test_a_session_with_openai(
    visit: Visit, application: Flask, stocked: Fleet, dispatcher: RecordingDispatcher
) -> None:
    api, order = "/openai/v1", {"model": MODEL, "prompt": "a red circle", "seed": 7, "size": "64x64"}
    with drawing(stocked, dispatcher):
        visit.ask("two pictures", "POST", f"{api}/images/generations", order | {"n": 2, "user": "somebody"})
        shown = visit.ask("an address", "POST", f"{api}/images/generations", order | {"response_format": "url"})
        visit.ask("events", "POST", f"{api}/images/generations", order | {"stream": True, "partial_images": 1})
        for name in ("edits", "variations"):
            words = {"prompt": "a hat"} if name == "edits" else {}
            form = {"model": MODEL, **words, "seed": "7", "image": (io.BytesIO(a_file()), "a.png")}
            visit.ask(name, "POST", f"{api}/images/{name}", form, content_type="multipart/form-data")
    visit.ask("not waited for", "POST", f"{api}/images/generations", order, headers=AT_ONCE)
    sealed = str(shown["data"][0]["url"]).removeprefix("http://localhost")
    visit.ask("the picture", "GET", sealed)
    visit.ask("the models", "GET", f"{api}/models")
    visit.ask("a model", "GET", f"{api}/models/{MODEL}")

    assert visit.asked == routes_below(application, "openai", "openai-drawn")
    held_against("openai", visit.told)


def a_file() -> bytes:
    """Make the file of a picture to begin with."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()
