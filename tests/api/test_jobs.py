"""Jobs of the v1 dialect: ordering, looking, cancelling, and every way to order wrongly."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.api.application import make_application
from app.core.dispatch import Message
from app.core.fleet import Fleet, Limits
from app.core.lifecycle import AttemptState, HoldingState
from app.core.live import Progress
from app.core.machines import HoldingReport
from app.core.spec import MAX_SEED
from app.settings import Settings
from tests.builders import (
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_running_job,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client, client_of

ORDER = {"model_id": MODEL, "prompt": "a red circle"}


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with one model and one LoRA."""
    a_model(fleet)
    a_model(fleet, "a-lora", kind="lora")
    return client


def order(client: Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=ORDER | more)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json
    return body


def test_an_order_is_accepted_and_its_bell_rung(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER)

    assert answer.status_code == 202
    assert (answer.json["status"], answer.json["progress"], answer.json["images"]) == ("queued", 0.0, [])
    assert answer.headers["Location"].endswith(f"/v1/jobs/{answer.json['job_id']}")
    assert answer.json["url"] == answer.headers["Location"]
    job_id = UUID(answer.json["job_id"])
    assert dispatcher.sent == [Message("imagefleet.generate", f"model.{MODEL}", job_id)]


def test_the_location_leads_to_the_job(stocked: Client) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER, base_url="http://fleet.localhost")

    assert answer.headers["Location"].startswith("http://fleet.localhost/v1/jobs/")
    assert stocked.get(answer.headers["Location"]).json["job_id"] == answer.json["job_id"]


def test_every_parameter_of_an_order_is_kept(stocked: Client) -> None:
    given = {
        "prompt": 'ein roter Kreis ✨ 红色 "quoted" \n\t😀',
        "negative_prompt": "blurry",
        "steps": 12,
        "guidance_scale": 3.5,
        "width": 512,
        "height": 256,
        "seed": MAX_SEED,
        "subseed": 0,
        "subseed_strength": 0.25,
        "n": 3,
        "scheduler": "DPM++ 2M SDE Heun KL Optimal",
        "clip_skip": 2,
        "image_format": "webp",
    }

    body = order(stocked, **given)

    assert body["parameters"] == given | {"model_id": MODEL}
    assert stocked.get(f"/v1/jobs/{body['job_id']}").json["parameters"] == given | {"model_id": MODEL}


def test_an_order_without_a_seed_gets_one_that_a_second_try_keeps(stocked: Client, fleet: Fleet) -> None:
    body = order(stocked, n=4)

    seed = body["parameters"]["seed"]
    assert 0 <= seed <= MAX_SEED - 4
    assert the_job(fleet, UUID(body["job_id"])).spec["seed"] == seed


def test_a_variation_without_a_seed_gets_one(stocked: Client) -> None:
    parameters = order(stocked, subseed_strength=0.5)["parameters"]

    assert 0 <= parameters["subseed"] <= MAX_SEED
    assert "subseed" not in order(stocked)["parameters"]


def test_a_seed_of_zero_is_a_seed(stocked: Client) -> None:
    assert order(stocked, seed=0)["parameters"]["seed"] == 0


def test_what_an_order_leaves_open_comes_from_the_catalogue(client: Client, fleet: Fleet) -> None:
    a_model(fleet, options={"steps": {"min": 4, "max": 50, "default": 12}, "width": 128, "scheduler": "DDIM"})

    parameters = order(client, width=64)["parameters"]

    assert (parameters["steps"], parameters["width"], parameters["scheduler"]) == (12, 64, "DDIM")


def test_a_model_with_fixed_steps_draws_with_no_others(client: Client, fleet: Fleet) -> None:
    a_model(fleet, options={"fixed_steps": 2})

    refused = client.post("/v1/jobs", json=ORDER | {"steps": 20})

    assert order(client)["parameters"]["steps"] == 2
    assert order(client, steps=2)["parameters"]["steps"] == 2
    assert refused.status_code == 422
    assert "exactly 2 steps" in refused.json["error"]["message"]


def test_two_orders_are_two_jobs(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    assert order(stocked)["job_id"] != order(stocked)["job_id"]
    assert len(dispatcher.sent) == 2


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("no prompt", {"model_id": MODEL}, 422, "prompt"),
    ("empty prompt", ORDER | {"prompt": ""}, 422, "prompt"),
    ("prompt null", ORDER | {"prompt": None}, 422, "prompt"),
    ("prompt number", ORDER | {"prompt": 5}, 422, "prompt"),
    ("prompt list", ORDER | {"prompt": ["a"]}, 422, "prompt"),
    ("neither drawer", {"prompt": "a"}, 422, "model_id"),
    ("both drawers", ORDER | {"engine_id": "e"}, 422, "model_id"),
    ("model number", ORDER | {"model_id": 5}, 422, "model_id"),
    ("model empty", ORDER | {"model_id": ""}, 422, "model_id"),
    ("model lora", ORDER | {"model_id": "a-lora"}, 422, "a-lora"),
    ("model unknown", ORDER | {"model_id": "nowhere"}, 404, "nowhere"),
    ("model hostile", ORDER | {"model_id": "x' OR '1'='1"}, 404, "OR"),
    ("model nul", ORDER | {"model_id": "a\x00"}, 404, "model_not_found"),
    ("model surrogate", ORDER | {"model_id": "\ud800"}, 404, "model_not_found"),
    ("engine unknown", {"engine_id": "e", "prompt": "a"}, 404, "engine_not_found"),
    ("unknown field", ORDER | {"prompts": "a"}, 422, "prompts"),
    ("steps zero", ORDER | {"steps": 0}, 422, "steps"),
    ("steps over", ORDER | {"steps": 151}, 422, "150"),
    ("steps text", ORDER | {"steps": "20"}, 422, "steps"),
    ("steps float", ORDER | {"steps": 20.5}, 422, "steps"),
    ("steps true", ORDER | {"steps": True}, 422, "steps"),
    ("width odd", ORDER | {"width": 513}, 422, "512 is the nearest"),
    ("width over", ORDER | {"width": 4096}, 422, "2048"),
    ("height negative", ORDER | {"height": -8}, 422, "height"),
    ("height huge", ORDER | {"height": 10**400}, 422, "height"),
    ("n zero", ORDER | {"n": 0}, 422, "n"),
    ("n over", ORDER | {"n": 17}, 422, "16"),
    ("seed negative", ORDER | {"seed": -1}, 422, "seed"),
    ("seed over", ORDER | {"seed": MAX_SEED + 1}, 422, "seed"),
    ("guidance negative", ORDER | {"guidance_scale": -1}, 422, "guidance_scale"),
    ("guidance over", ORDER | {"guidance_scale": 101}, 422, "guidance_scale"),
    ("guidance nan", ORDER | {"guidance_scale": float("nan")}, 422, "guidance_scale"),
    ("guidance infinite", ORDER | {"guidance_scale": float("inf")}, 422, "guidance_scale"),
    ("guidance true", ORDER | {"guidance_scale": True}, 422, "guidance_scale"),
    ("scheduler unknown", ORDER | {"scheduler": "euler"}, 422, "scheduler"),
    ("scheduler undrawable", ORDER | {"scheduler": "DPM adaptive"}, 422, "chooses its own number of steps"),
    ("schedule impossible", ORDER | {"scheduler": "Euler a Karras"}, 422, "SGM Uniform, DDIM"),
    ("subseed over", ORDER | {"subseed": MAX_SEED + 1}, 422, "subseed"),
    ("subseed strength over", ORDER | {"subseed_strength": 1.01}, 422, "subseed_strength"),
    ("subseed strength nan", ORDER | {"subseed_strength": float("nan")}, 422, "subseed_strength"),
    ("clip skip of nothing", ORDER | {"clip_skip": 0}, 422, "clip_skip"),
    ("format unknown", ORDER | {"image_format": "gif"}, 422, "image_format"),
    ("priority over", ORDER | {"priority": 10}, 422, "priority"),
    ("prompt over", ORDER | {"prompt": "a" * 10_001}, 422, "10000"),
    ("negative over", ORDER | {"negative_prompt": "a" * 10_001}, 422, "negative_prompt"),
]


@pytest.mark.parametrize(("body", "status", "told"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_order_is_refused_with_the_reason_and_nothing_is_kept(
    stocked: Client, dispatcher: RecordingDispatcher, body: dict[str, Any], status: int, told: str
) -> None:
    answer = stocked.post("/v1/jobs", json=body)

    assert answer.status_code == status, answer.text
    assert told in str(answer.json["error"])
    assert {"code", "message"} <= set(answer.json["error"])
    assert stocked.get("/v1/jobs").json["jobs"] == []
    assert dispatcher.sent == []


@pytest.mark.parametrize("body", [[], "text", 5, None, [ORDER]])
def test_an_order_that_is_no_object_is_422(stocked: Client, body: Any) -> None:
    answer = stocked.post("/v1/jobs", json=body)

    assert answer.status_code == 422
    assert answer.json["error"]["message"]


@pytest.mark.parametrize("data", [b"{not json", b"", b"\xff"])
def test_an_order_that_is_no_json_is_refused_in_words(stocked: Client, data: bytes) -> None:
    answer = stocked.post("/v1/jobs", data=data, content_type="application/json")

    assert answer.status_code in {400, 422}
    assert answer.json["error"]["message"]


def test_an_order_larger_than_the_limit_is_413(fleet: Fleet, settings: Settings) -> None:
    client = client_of(make_application(fleet, replace(settings, max_upload_mb=1)))

    answer = client.post("/v1/jobs", json=ORDER | {"prompt": "a" * 1_100_000})

    assert answer.status_code == 413
    assert "MAX_UPLOAD_MB" in answer.json["error"]["message"]


def test_every_wrong_field_is_told_at_once(stocked: Client) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER | {"steps": 0, "n": "two", "colour": "red"})

    assert set(answer.json["error"]["fields"]) == {"steps", "n", "colour"}


def test_prompts_that_are_hard_to_store_are_kept_exactly(stocked: Client) -> None:
    prompt = "nul \x00, half a pair \ud83d, '; DROP TABLE jobs; --"

    body = order(stocked, prompt=prompt)

    assert stocked.get(f"/v1/jobs/{body['job_id']}").json["parameters"]["prompt"] == prompt


def test_jobs_for_models_nobody_holds_are_refused_where_that_is_wished(
    fleet: Fleet, settings: Settings, clock: Clock
) -> None:
    strict = replace(fleet, limits=Limits(reject_unserved=True))
    client = client_of(make_application(strict, settings))
    a_model(fleet)

    before = client.post("/v1/jobs", json=ORDER)
    a_machine(fleet, ready_for=[MODEL])
    while_ready = client.post("/v1/jobs", json=ORDER)
    clock.advance(60)
    after = client.post("/v1/jobs", json=ORDER)

    assert (before.status_code, before.json["error"]["code"]) == (503, "unserved")
    assert while_ready.status_code == 202
    assert after.status_code == 503


def test_an_order_is_kept_while_the_broker_is_away(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    dispatcher.is_away = True

    body = order(stocked)

    assert stocked.get(f"/v1/jobs/{body['job_id']}").json["status"] == "queued"


def test_jobs_are_listed_newest_first_and_by_pages(stocked: Client, clock: Clock) -> None:
    ids = []
    for _ in range(5):
        ids.append(order(stocked)["job_id"])
        clock.advance(1)

    first = stocked.get("/v1/jobs?limit=2").json["jobs"]
    second = stocked.get("/v1/jobs", query_string={"limit": 2, "before": first[-1]["created_at"]}).json["jobs"]

    assert [job["job_id"] for job in first + second] == list(reversed(ids))[:4]


def test_jobs_are_listed_by_state_and_by_model(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "other")
    queued, cancelled = order(stocked)["job_id"], order(stocked, model_id="other")["job_id"]
    stocked.post(f"/v1/jobs/{cancelled}/cancel")

    def ids(**query: str) -> list[str]:
        return [job["job_id"] for job in stocked.get("/v1/jobs", query_string=query).json["jobs"]]

    assert ids(status="queued") == [queued]
    assert ids(status="cancelled") == ids(model_id="other") == [cancelled]
    assert ids(status="completed") == ids(model_id="nowhere") == ids(model_id="a\x00") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "status=done", "before=yesterday"])
def test_a_wrong_query_is_422(stocked: Client, query: str) -> None:
    assert stocked.get(f"/v1/jobs?{query}").status_code == 422


@pytest.mark.parametrize(("path", "code"), [(str(UUID(int=7)), "job_not_found"), ("not-a-uuid", "not_found")])
def test_an_unknown_job_is_404(client: Client, path: str, code: str) -> None:
    shown, cancelled = client.get(f"/v1/jobs/{path}"), client.post(f"/v1/jobs/{path}/cancel")

    assert (shown.status_code, shown.json["error"]["code"]) == (404, code)
    assert (cancelled.status_code, cancelled.json["error"]["code"]) == (404, code)


def test_a_queued_job_says_that_no_machine_fetches_its_model(stocked: Client) -> None:
    job = order(stocked)

    told = stocked.get(f"/v1/jobs/{job['job_id']}").json["waiting_for"]

    assert f"MACHINE_MODELS_NEEDED={MODEL}" in told


@pytest.mark.parametrize(
    ("holding", "told"),
    [
        ({"state": HoldingState.WANTED}, "gpu-1 is going to fetch it"),
        ({"state": HoldingState.DOWNLOADING, "bytes_done": 25, "bytes_total": 100}, "25 % done"),
        ({"state": HoldingState.DOWNLOADING}, "gpu-1 is downloading it"),
        ({"state": HoldingState.VERIFYING}, "gpu-1 is checking its hash"),
        ({"state": HoldingState.ERROR, "error": "wrong hash"}, "gpu-1: wrong hash"),
        ({"state": HoldingState.READY}, "it is next; gpu-1 can draw"),
    ],
)
def test_a_queued_job_says_how_far_machines_are(
    stocked: Client, fleet: Fleet, holding: dict[str, Any], told: str
) -> None:
    job = order(stocked)

    a_machine(fleet, holdings=[HoldingReport(model_id=MODEL, **holding)])

    assert told in stocked.get(f"/v1/jobs/{job['job_id']}").json["waiting_for"]


def test_a_queued_job_counts_those_before_it(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, ready_for=[MODEL])
    order(stocked)
    clock.advance(1)
    mine = order(stocked)
    clock.advance(1)
    order(stocked, priority=9)

    assert "2 jobs are before it" in stocked.get(f"/v1/jobs/{mine['job_id']}").json["waiting_for"]


def test_a_running_job_shows_its_progress(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet, n=2)
    fleet.live.report(job.id, Progress(1, "denoising", step=5, steps=10, image=1, images=2))

    body = client.get(f"/v1/jobs/{job.id}").json

    assert (body["status"], body["progress"], body["waiting_for"]) == ("processing", 0.75, None)
    assert body["running"] == {"phase": "denoising", "step": 5, "steps": 10, "image": 1, "images": 2}
    assert [attempt["machine_id"] for attempt in body["attempts"]] == ["gpu-1"]


def test_progress_of_an_older_attempt_is_not_shown(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    fleet.live.report(job.id, Progress(1, "denoising", step=9, steps=10))
    finish(fleet, job, AttemptState.LOST)
    claim(fleet, job.id)

    body = client.get(f"/v1/jobs/{job.id}").json

    assert (body["status"], body["progress"], body["running"]) == ("processing", 0.0, None)


def test_a_completed_job_shows_its_pictures(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet, n=2, seed=7)

    body = client.get(f"/v1/jobs/{job.id}").json

    assert (body["status"], body["progress"], body["error"]) == ("completed", 1.0, None)
    assert [image["seed"] for image in body["images"]] == [7, 8]
    assert client.get(body["images"][1]["url"]).content_type == "image/png"


def test_a_failed_job_says_why(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    finish(fleet, job, AttemptState.ERROR, error_code="cannot_draw", error="no such layer", permanent=True)

    body = client.get(f"/v1/jobs/{job.id}").json

    assert (body["status"], body["error"]) == ("error", {"code": "cannot_draw", "message": "no such layer"})


def test_a_queued_job_is_cancelled_once(stocked: Client) -> None:
    job = order(stocked)

    first, second = (stocked.post(f"/v1/jobs/{job['job_id']}/cancel") for _ in range(2))

    assert (first.status_code, first.json["status"]) == (200, "cancelled")
    assert (second.status_code, second.json["error"]["code"]) == (409, "job_ended")
    assert second.json["error"]["state"] == "cancelled"


def test_cancelling_a_running_job_tells_its_machine(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    answer = client.post(f"/v1/jobs/{job.id}/cancel")

    assert answer.json["status"] == "cancelled"
    assert fleet.live.report(job.id, Progress(1, "denoising")) is True
    assert [attempt.state for attempt in the_job(fleet, job.id).attempts] == [AttemptState.CANCELLED]


def test_a_completed_job_cannot_be_cancelled(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)

    answer = client.post(f"/v1/jobs/{job.id}/cancel")

    assert (answer.status_code, answer.json["error"]["state"]) == (409, "completed")
    assert the_job(fleet, job.id).state == "completed"


def test_a_cancelled_job_is_not_to_be_claimed(fleet: Fleet, client: Client) -> None:
    job = a_job(fleet)
    a_machine(fleet)
    client.post(f"/v1/jobs/{job.id}/cancel")

    assert claim(fleet, job.id) is None
