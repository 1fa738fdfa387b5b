"""The sdapi dialect, seed 002: orders answered at once with a UUID, progress, pictures, cancelling."""

import base64
import json
import re
import threading
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.api.application import make_application
from app.core import images, jobs, webhooks
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.live import Progress
from app.core.tables import Delivery, Hook
from app.settings import Settings
from tasks.control.deliver import headers_of
from tests.builders import (
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_picture,
    a_running_job,
    an_upload,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock, MemoryLive, RecordingDispatcher
from tests.support.processes import wait_until
from tests.support.web import Client, client_of

API = "/sdapi/v1"
SHA = "c0ffee" + "0" * 58
WEBHOOK = "https://hooks.example.org/ready?token=in-the-query"

CLIENTS_SEND = {
    "firstphase_width": 0,
    "styles": [],
    "seed_resize_from_h": 0,
    "do_not_save_samples": False,
    "s_tmax": None,
    "override_settings": {},
    "alwayson_scripts": {"ADetailer": {"args": [False]}},
    "hr_prompt": "",
    "distilled_cfg_scale": 3.5,
    "use_deprecated_controlnet": False,
    "url": "http://127.0.0.1:7860",
    "auth": "",
    "nobody-knows-this": {"a": [1, None]},
}
"""What real clients send along, with a field that is nowhere."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database but listing, which is tested with it elsewhere."""
    return sqlite_url


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    a_model(fleet, hash=SHA, options={"steps": 4})
    a_machine(fleet, ready_for=[MODEL])
    return client


def order(client: Client, **more: Any) -> dict[str, Any]:
    kind = "img2img" if "init_images" in more else "txt2img"
    answer = client.post(f"{API}/{kind}", json={"prompt": "a cat", **more})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json
    return body


def detail(client: Client, uuid: UUID | str, query: str = "") -> dict[str, Any]:
    answer = client.get(f"{API}/jobs/{uuid}{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


def as_text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_an_order_is_answered_at_once_with_its_uuid(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    answer = stocked.post(f"{API}/txt2img", json={"prompt": "a cat", "steps": 20})

    uuid = answer.json["uuid"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == answer.json["url"] == f"http://localhost{API}/jobs/{uuid}"
    assert answer.json == {
        "uuid": uuid,
        "status": "queued",
        "type": "txt2img",
        "model": MODEL,
        "progress": 0.0,
        "image_count": 1,
        "error": None,
        "created_at": "2026-01-05T12:00:00+00:00",
        "started_at": None,
        "ended_at": None,
        "url": answer.json["url"],
    }
    assert [message.job_id for message in dispatcher.sent] == [UUID(uuid)]


def test_the_fields_of_automatic1111_become_the_job(stocked: Client, fleet: Fleet) -> None:
    given = {
        "negative_prompt": "a dog",
        "seed": 7,
        "steps": 12,
        "cfg_scale": 5.5,
        "width": 300,
        "height": 256,
        "batch_size": 2,
        "n_iter": 2,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
    }

    job = the_job(fleet, UUID(order(stocked, **given)["uuid"]))

    wanted = {
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "seed": 7,
        "steps": 12,
        "guidance_scale": 5.5,
        "width": 296,
        "height": 256,
        "n": 4,
        "scheduler": "DPM++ 2M Karras",
    }
    assert {name: job.spec[name] for name in wanted} == wanted
    assert (job.dialect, job.model_id) == ("sdapi", MODEL)


def test_what_real_clients_send_along_is_ignored(stocked: Client, fleet: Fleet) -> None:
    job = the_job(fleet, UUID(order(stocked, **CLIENTS_SEND)["uuid"]))

    assert job.spec["prompt"] == "a cat"


def test_an_empty_order_is_one_with_automatic1111s_defaults(stocked: Client) -> None:
    answer = stocked.post(f"{API}/txt2img", json={})

    shown = detail(stocked, answer.json["uuid"])["parameters"]
    assert (shown["steps"], shown["cfg_scale"], shown["width"], shown["height"]) == (4, 7.0, 512, 512)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_picture_to_begin_with_comes_in_base64(stocked: Client, fleet: Fleet, prefix: str) -> None:
    picture = prefix + as_text(a_picture())

    accepted = order(stocked, init_images=[picture], mask=picture, denoising_strength=0.5)

    spec = the_job(fleet, UUID(accepted["uuid"])).spec
    assert accepted["type"] == "img2img"
    assert (spec["strength"], spec["image"]) == (0.5, spec["mask"]["image"])


def test_the_model_may_be_named_as_automatic1111_does(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "another", hash="ab" * 32)

    for name in ("another", "another.safetensors", "another.safetensors [ababababab]", "ab" * 32, "ababababab"):
        assert order(stocked, override_settings={"sd_model_checkpoint": name})["model"] == "another"


def test_without_a_name_it_is_a_model_that_is_ready(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "a-first-one")

    assert order(stocked)["model"] == MODEL


def test_a_model_that_no_machine_has_may_wait_and_the_job_says_so(client: Client, fleet: Fleet) -> None:
    a_model(fleet)

    shown = detail(client, order(client)["uuid"])

    assert shown["status"] == "queued"
    assert MODEL in shown["textinfo"]
    assert (shown["queue_position"], shown["eta_relative"]) == (1, None)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("txt2img", {"steps": 0}, (422, "invalid_request", "steps: Must be greater than or equal to 1")),
        ("txt2img", {"steps": "many"}, (422, "invalid_request", "steps: Not a valid integer")),
        ("txt2img", {"steps": 10**6}, (422, "invalid_request", "limit is 150")),
        ("txt2img", {"batch_size": 9, "n_iter": 9}, (422, "invalid_request", "81 pictures")),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "x"}}, (404, "model_not_found", "GET sd-models")),
        ("txt2img", {"sampler_name": "Eulr"}, (404, "sampler_not_found", "Sampler not found")),
        ("txt2img", {"script_name": "x/y/z plot"}, (422, "script_not_found", "Script 'x/y/z plot' not found")),
        ("txt2img", {"tiling": True}, (422, "not_possible", "tiling")),
        ("txt2img", {"webhook_url": "ftp://x"}, (422, "invalid_request", "webhook_url")),
        ("txt2img", {"webhook_url": "http://10.0.0.1/"}, (422, "invalid_request", "WEBHOOK_ALLOW_PRIVATE")),
        ("txt2img", {"webhook_key": "alone"}, (422, "invalid_request", "webhook_url: is missing")),
        ("img2img", {}, (404, "init_image_not_found", "Init image not found")),
        ("img2img", {"init_images": []}, (404, "init_image_not_found", "Init image not found")),
        ("img2img", {"init_images": ["bm90IGEgcGljdHVyZQ=="]}, (422, "invalid_image", "init_images")),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_ordered(
    stocked: Client, kind: str, body: dict[str, Any], said: tuple[int, str, str]
) -> None:
    answer = stocked.post(f"{API}/{kind}", json={"prompt": "a cat", **body})

    status, word, sentence = said
    assert (answer.status_code, answer.json["error"]) == (status, word)
    assert sentence in answer.json["detail"]
    assert set(answer.json) <= {"detail", "error", "fields"}
    assert stocked.get(f"{API}/jobs").json["jobs"] == []


@pytest.mark.parametrize(
    ("data", "kind", "status"), [(b"{", "application/json", 400), (b"prompt=a", "text/plain", 415)]
)
def test_a_body_that_is_no_json_is_refused(stocked: Client, data: bytes, kind: str, status: int) -> None:
    answer = stocked.post(f"{API}/txt2img", data=data, content_type=kind)

    assert answer.status_code == status
    assert "JSON" in answer.json["detail"]


def test_without_any_model_the_answer_says_how_to_add_one(client: Client) -> None:
    answer = client.post(f"{API}/txt2img", json={"prompt": "a cat"})

    assert (answer.status_code, answer.json["error"]) == (404, "model_not_found")
    assert "POST /v1/models" in answer.json["detail"]


def test_the_same_order_under_the_same_key_is_one_job(stocked: Client) -> None:
    def ask() -> Any:
        return stocked.post(f"{API}/txt2img", json={"prompt": "a cat"}, headers={"Idempotency-Key": "k-1"})

    first, second = ask(), ask()

    assert first.json["uuid"] == second.json["uuid"]
    assert second.headers["Idempotent-Replayed"] == "true"


def test_a_running_job_shows_its_progress_and_a_preview(stocked: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet, n=2, steps=10, width=512, height=512)
    fleet.live.report(job.id, Progress(attempt=1, phase="denoising", step=5, steps=10, image=1, images=2), b"JPEG")

    shown = detail(stocked, job.id)
    (listed,) = stocked.get(f"{API}/jobs?status=processing").json["jobs"]

    assert (shown["status"], shown["progress"], shown["current_image"]) == ("processing", 0.75, as_text(b"JPEG"))
    assert shown["state"] == {
        "job_no": 1,
        "job_count": 2,
        "sampling_step": 5,
        "sampling_steps": 10,
        "phase": "denoising",
    }
    assert (listed["progress"], shown["images"], shown["info"]) == (0.75, [], None)
    assert detail(stocked, job.id, "?skip_current_image=true")["current_image"] is None


def test_a_completed_job_has_its_pictures_and_automatic1111s_answer(
    stocked: Client, fleet: Fleet, clock: Clock
) -> None:
    uuid = UUID(order(stocked, seed=7, batch_size=2, width=64, height=64)["uuid"])
    clock.advance(1)
    a_machine(fleet, ready_for=[MODEL])
    claim(fleet, uuid)
    pictures = [a_picture("red"), a_picture("blue")]
    for position, data in enumerate(pictures):
        images.receive(fleet, an_upload(the_job(fleet, uuid), position=position, data=data))
    clock.advance(1)
    finish(fleet, the_job(fleet, uuid))

    shown = detail(stocked, uuid)

    info = json.loads(shown.pop("info"))
    assert shown == {
        "uuid": str(uuid),
        "status": "completed",
        "type": "txt2img",
        "model": MODEL,
        "progress": 1.0,
        "image_count": 2,
        "error": None,
        "created_at": "2026-01-05T12:00:00+00:00",
        "started_at": "2026-01-05T12:00:01+00:00",
        "ended_at": "2026-01-05T12:00:02+00:00",
        "url": f"http://localhost{API}/jobs/{uuid}",
        "eta_relative": None,
        "queue_position": None,
        "textinfo": None,
        "state": {"job_no": 0, "job_count": 2, "sampling_step": 0, "sampling_steps": 0, "phase": None},
        "current_image": None,
        "images": [as_text(picture) for picture in pictures],
        "parameters": {
            "prompt": "a cat",
            "negative_prompt": "",
            "seed": 7,
            "subseed": None,
            "subseed_strength": 0.0,
            "steps": 4,
            "cfg_scale": 7.0,
            "width": 64,
            "height": 64,
            "batch_size": 2,
            "n_iter": 1,
            "sampler_name": "Euler",
            "scheduler": "Uniform",
            "clip_skip": None,
            "denoising_strength": None,
            "enable_hr": False,
            "override_settings": {"sd_model_checkpoint": f"{MODEL}.safetensors [c0ffee0000]"},
        },
    }
    assert (info["all_seeds"], info["sd_model_name"]) == ([7, 8], MODEL)
    assert info["infotexts"][1].startswith("a cat\nSteps: 4, Sampler: Euler, Schedule type: Uniform, CFG scale: 7.0")
    assert detail(stocked, uuid, "?skip_images=true")["images"] == []


def test_the_parameters_of_a_job_order_the_same_again(stocked: Client, fleet: Fleet) -> None:
    given = {"seed": 3, "sampler_name": "DPM++ 2M", "scheduler": "Karras", "enable_hr": True, "hr_scale": 1.5}
    first = order(stocked, **given)["uuid"]

    second = order(stocked, **detail(stocked, first)["parameters"])["uuid"]

    assert the_job(fleet, UUID(second)).spec == the_job(fleet, UUID(first)).spec


def test_a_job_that_failed_says_why(stocked: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    finish(fleet, job, AttemptState.ERROR, error_code="out_of_memory", error="the GPU is full", permanent=True)

    shown = detail(stocked, job.id)

    assert (shown["status"], shown["error"], shown["images"]) == ("error", "the GPU is full", [])


def test_jobs_of_every_door_are_shown(stocked: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)

    shown = detail(stocked, job.id)

    assert (shown["parameters"]["width"], shown["parameters"]["sampler_name"]) == (8, None)
    assert "Size: 8x8" in json.loads(shown["info"])["infotexts"][0]


@pytest.mark.parametrize("how", ["POST cancel", "DELETE"])
@pytest.mark.parametrize("make", [a_job, a_running_job])
def test_a_job_that_waits_or_runs_can_be_cancelled_once(stocked: Client, fleet: Fleet, make: Any, how: str) -> None:
    job = make(fleet)
    path = f"{API}/jobs/{job.id}"

    def cancel() -> Any:
        return stocked.delete(path) if how == "DELETE" else stocked.post(f"{path}/cancel")

    first, second = cancel(), cancel()

    assert (first.status_code, first.json["status"], first.json["uuid"]) == (200, "cancelled", str(job.id))
    assert (second.status_code, second.json["error"]) == (409, "job_ended")
    assert "already cancelled" in second.json["detail"]
    assert fleet.live.is_unwanted(job.id) == (make is a_running_job)


@pytest.mark.parametrize("path", ["jobs/{}", "jobs/{}/cancel"])
def test_a_job_that_is_nowhere_is_404(stocked: Client, path: str) -> None:
    path = f"{API}/{path.format(uuid4())}"

    answer = stocked.post(path) if path.endswith("cancel") else stocked.get(path)

    assert (answer.status_code, answer.json["error"]) == (404, "job_not_found")


def test_the_list_shows_pages_filters_and_how_many_wait_and_run(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet, "another")
    done = a_completed_job(fleet)
    running = a_running_job(fleet)
    clock.advance(1)
    waiting = [a_job(fleet, model_id="another")]
    clock.advance(1)
    waiting.append(a_job(fleet, model_id="another"))

    first = stocked.get(f"{API}/jobs?limit=3").json
    rest = stocked.get(f"{API}/jobs?limit=3&after={first['next']}").json

    listed = [job["uuid"] for job in first["jobs"] + rest["jobs"]]
    assert listed[:2] == [str(job.id) for job in reversed(waiting)]
    assert set(listed) == {str(job.id) for job in (done, running, *waiting)}
    assert (first["summary"], rest["next"]) == ({"queued": 2, "processing": 1}, None)
    assert len(stocked.get(f"{API}/jobs?status=completed&status=processing").json["jobs"]) == 2
    assert len(stocked.get(f"{API}/jobs?model=another").json["jobs"]) == 2
    assert stocked.get(f"{API}/jobs?sort=created_at").json["jobs"][-1]["uuid"] == str(waiting[-1].id)


@pytest.mark.parametrize("query", ["status=done", "limit=0", "after=nonsense", "sort=prompt", "colour=red"])
def test_a_wrong_question_for_the_list_is_refused_by_field(stocked: Client, query: str) -> None:
    answer = stocked.get(f"{API}/jobs?{query}")

    assert answer.status_code == 422
    assert set(answer.json["fields"]) == {query.partition("=")[0]} or "status" in answer.json["fields"]


def test_a_job_is_told_to_its_webhook_with_its_own_key(stocked: Client, fleet: Fleet) -> None:
    uuid = UUID(order(stocked, webhookUrl=WEBHOOK, webhookKey="a-key-of-this-job")["uuid"])

    with fleet.reading() as session:
        hook = session.get_one(Hook, uuid)
        target = webhooks.unseal(fleet.vault, hook.sealed)
    headers = headers_of(target, "an-id", 1, b"{}")
    assert (target.url, hook.url) == (WEBHOOK, "https://hooks.example.org/ready")
    assert headers["X-Webhook-Key"] == "a-key-of-this-job"
    assert headers["webhook-signature"].startswith("v1,")
    assert "a-key-of-this-job" not in json.dumps(detail(stocked, uuid))


def test_what_the_webhook_is_sent_has_the_uuid_and_the_state(stocked: Client, fleet: Fleet) -> None:
    uuid = UUID(order(stocked, webhook_url=WEBHOOK, webhook_key="k")["uuid"])
    stocked.post(f"{API}/jobs/{uuid}/cancel")

    (delivery,) = stocked.get(f"/v1/jobs/{uuid}/deliveries").json["deliveries"]
    with fleet.reading() as session:
        body = session.get_one(Delivery, UUID(delivery["delivery_id"])).body
    assert (body["type"], body["uuid"], body["status"]) == ("job.cancelled", str(uuid), "cancelled")


def test_a_client_that_prefers_to_wait_gets_the_pictures(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    def draw() -> None:
        wait_until(lambda: dispatcher.sent, "it is ordered")
        job_id = dispatcher.sent[0].job_id
        claim(fleet, job_id)
        images.receive(fleet, an_upload(the_job(fleet, job_id)))
        finish(fleet, the_job(fleet, job_id))

    thread = threading.Thread(target=draw)
    thread.start()
    answer = stocked.post(f"{API}/txt2img", json={"prompt": "a cat"}, headers={"Prefer": "wait=60"})
    thread.join()

    assert (answer.status_code, answer.json["status"]) == (200, "completed")
    assert answer.json["images"] == [as_text(a_picture())]


def test_waiting_ends_with_202_when_it_takes_longer(fleet: Fleet, settings: Settings) -> None:
    a_model(fleet)
    client = client_of(make_application(fleet, replace(settings, wait_seconds=1)))

    answer = client.post(f"{API}/txt2img", json={"prompt": "a cat"}, headers={"Prefer": "wait=600"})

    assert (answer.status_code, answer.json["status"]) == (202, "queued")


def test_models_are_listed_with_automatic1111s_names_ready_ones_first(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "a-first-one", base="sdxl", tags=["photo"], description="a model", size_bytes=7)

    ready, other = stocked.get(f"{API}/models").json

    assert stocked.get(f"{API}/sd-models").json == [ready, other]
    assert (ready["model_name"], ready["ready"], ready["sha256"], ready["hash"]) == (MODEL, True, SHA, SHA[:10])
    assert other == {
        "title": "a-first-one.safetensors",
        "model_name": "a-first-one",
        "hash": None,
        "sha256": None,
        "filename": "checkpoints/a-first-one.safetensors",
        "config": None,
        "ready": False,
        "base_model": "sdxl",
        "description": "a model",
        "size_bytes": 7,
        "tags": ["photo"],
        "civitai_status": "no_hash",
        "civitai": None,
    }


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}.safetensors", f"{MODEL}.safetensors [c0ffee0000]", SHA])
def test_a_model_is_found_by_any_of_its_names(stocked: Client, name: str) -> None:
    for kind in ("models", "sd-models"):
        assert stocked.get(f"{API}/{kind}/{name}").json["model_name"] == MODEL


def test_loras_are_listed_with_what_a_prompt_calls_them(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "detail", kind="lora", name="add_detail.safetensors", save_path="loras/add_detail.safetensors")

    (lora,) = stocked.get(f"{API}/loras").json

    assert lora == stocked.get(f"{API}/loras/detail").json == stocked.get(f"{API}/loras/add_detail").json
    assert lora == {
        "name": "detail",
        "alias": "add_detail",
        "path": "loras/add_detail.safetensors",
        "metadata": {},
        "hash": None,
        "sha256": None,
        "trigger_words": [],
        "base_model": None,
        "description": None,
        "size_bytes": None,
        "tags": [],
        "civitai_status": "no_hash",
        "civitai": None,
    }


@pytest.mark.parametrize("kind", ["checkpoint", "lora"])
def test_the_lists_of_models_and_loras_are_filtered_and_paged_and_stay_lists(
    client: Client, fleet: Fleet, kind: str
) -> None:
    for number in range(5):
        base = "sdxl" if number % 2 else "sd15"
        a_model(fleet, f"thing-{number}", kind=kind, base=base, tags=["odd"] if number == 3 else [])
    path, name = (f"{API}/models", "model_name") if kind == "checkpoint" else (f"{API}/loras", "name")

    def names(query: str) -> list[str]:
        return [each[name] for each in client.get(f"{path}?{query}").json]

    first = client.get(f"{path}?limit=2&sort=-id&search=thing")
    link = re.fullmatch(r'<(http[^>]+)>; rel="next"', first.headers["Link"])
    assert link
    second = client.get(link[1])
    last = client.get(str(second.headers["Link"]).split(">", 1)[0].lstrip("<"))

    pages = [[each[name] for each in page.json] for page in (first, second, last)]
    assert pages == [["thing-4", "thing-3"], ["thing-2", "thing-1"], ["thing-0"]]
    assert "Link" not in last.headers
    assert "Link" not in client.get(path).headers
    assert (names("base=sdxl"), names("tag=odd")) == (["thing-1", "thing-3"], ["thing-3"])
    assert (names("search=HING-2"), names("search=%00"), len(names(""))) == (["thing-2"], [], 5)
    for wrong in ("limit=0", "limit=x", "sort=size", "after=x", "colour=red", "base="):
        refused = client.get(f"{path}?{wrong}")
        assert (refused.status_code, sorted(refused.json["fields"])) == (422, [wrong.split("=", maxsplit=1)[0]])


@pytest.mark.parametrize("path", ["models/nobody", "loras/nobody", f"loras/{MODEL}"])
def test_a_model_that_is_nowhere_is_404(stocked: Client, path: str) -> None:
    answer = stocked.get(f"{API}/{path}")

    assert (answer.status_code, answer.json["error"]) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["samplers", "schedulers", "upscalers", "sd-vae"])
def test_what_orders_may_name_is_listed_as_on_the_synchronous_side(stocked: Client, fleet: Fleet, name: str) -> None:
    a_model(fleet, "a-vae", kind="vae")
    a_model(fleet, "an-upscaler", kind="upscaler")

    found = stocked.get(f"{API}/{name}").json

    assert found
    assert found == stocked.get(f"/a1111/sdapi/v1/{name}").json


def test_only_a_token_opens_the_door(guarded: Client, fleet: Fleet) -> None:
    a_model(fleet)

    without = guarded.post(f"{API}/txt2img", json={"prompt": "a cat"})
    with_one = guarded.post(
        f"{API}/txt2img", json={"prompt": "a cat"}, headers={"Authorization": "Bearer first-client"}
    )

    assert (without.status_code, set(without.json)) == (401, {"detail", "error"})
    assert without.headers["WWW-Authenticate"].startswith("Bearer")
    assert with_one.status_code == 202


def test_what_another_token_has_ordered_is_not_cancelled(fleet: Fleet, settings: Settings) -> None:
    tokens = ("alice:client:of-alice", "bob:client:of-bob", "ops:operator:of-ops")
    client = client_of(make_application(fleet, replace(settings, api_tokens=tokens, machine_token="a-machine")))
    a_model(fleet)

    def ask(path: str, token: str, body: Any = None) -> Any:
        return client.post(f"{API}/{path}", json=body, headers={"Authorization": f"Bearer {token}"})

    uuid = ask("txt2img", "of-alice", {"prompt": "a cat"}).json["uuid"]
    refused, taken = ask(f"jobs/{uuid}/cancel", "of-bob"), ask(f"jobs/{uuid}/cancel", "of-ops")

    assert (refused.status_code, refused.json["error"], taken.status_code) == (403, "not_your_job", 200)


def test_the_states_are_the_seeds_words(stocked: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    with fleet.transaction() as tx:
        jobs.end(tx, jobs.locked(tx.session, job.id), JobState.ERROR, "a_code", None)

    assert detail(stocked, job.id)["error"] == "the job failed, and no reason was given"
    assert [state.value for state in JobState] == ["queued", "processing", "completed", "error", "cancelled"]
    assert isinstance(fleet.live, MemoryLive)
