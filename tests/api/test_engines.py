"""Engines as seed 000 has them: every route, every error, and the jobs that are drawn by one."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from app.core import attempts, bells, check_in, engine_reports, explain, images, jobs, machines
from app.core.dispatch import ENGINES, GENERATE, engine_queue, machine_queue, model_queue
from app.core.engine_reports import EngineReport
from app.core.errors import NotClaimable
from app.core.fleet import Fleet, Limits
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, EngineState, HoldingState, JobState
from app.core.machines import HoldingReport, Report
from app.core.tables import Image, Job
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_job,
    a_model,
    an_upload,
    claim,
    finish,
    let_pass,
    the_job,
)
from tests.support.fakes import Clock, MemoryImages, RecordingDispatcher
from tests.support.web import Client

GB = 10**9


def machine_with(
    fleet: Fleet,
    machine_id: str = MACHINE,
    *,
    room: int | None = 10 * GB,
    most: int | None = 10 * GB,
    weights: int | None = 4 * GB,
    drawing: int = GB,
    boot_id: str = BOOT,
    tells: Sequence[EngineReport] = (),
    also: Sequence[str] = (),
    **more: Any,
) -> list[UUID]:
    """Let a machine check in that is ready for the model; returns the engines that it should hold."""
    ready = HoldingState.READY
    holdings = [HoldingReport(model_id=MODEL, state=ready, weights_bytes=weights, drawing_bytes=drawing)]
    holdings += [HoldingReport(model_id=model_id, state=ready, bytes_total=GB) for model_id in also]
    device = {"type": "cuda", "name": "a GPU", "engine_room": room, "engine_most": most} | more
    report = Report(machine_id=machine_id, boot_id=boot_id, device=device, holdings=holdings)
    with fleet.transaction() as tx:
        return [engine.id for engine in check_in.check_in(tx, report, tells).engines]


def create(client: Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/engines", json={"checkpoint": MODEL} | more)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json
    return body


def move(client: Client, engine: dict[str, Any], what: str, status: int = 200) -> dict[str, Any]:
    answer: Any = client.patch(f"/v1/engines/{engine['engine_id']}/{what}")
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json
    return body


def seen(client: Client, engine: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/v1/engines/{engine['engine_id']}").json
    return body


def ready(engine: dict[str, Any], **more: Any) -> EngineReport:
    told: dict[str, Any] = {"state": EngineState.READY, "bytes_measured": 4 * GB} | more
    return EngineReport(engine_id=UUID(engine["engine_id"]), **told)


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a fleet with a model and a machine that is ready for it."""
    a_model(fleet, base="sdxl")
    machine_with(fleet)
    return client


def running(client: Client, fleet: Fleet, **more: Any) -> dict[str, Any]:
    """Make an engine, start it, and let its machine say that it is ready."""
    engine = create(client, **more)
    move(client, engine, "start")
    machine_with(fleet, tells=[ready(engine)])
    return seen(client, engine)


def order(client: Client, engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"engine_id": engine["engine_id"], "prompt": "a red circle"} | more)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json
    return body


def a_claim(fleet: Fleet, bell: UUID) -> UUID:
    """Let the machine follow a bell; returns the job that it was given."""
    attempt = claim(fleet, bell)
    assert attempt is not None
    return attempt.job_id


def problem(answer: Any) -> tuple[int, str, str]:
    error = answer.json["error"]
    return answer.status_code, error["code"], error["message"]


def test_an_engine_is_made_with_all_the_seeds_fields_and_is_closed(client: Client, fleet: Fleet) -> None:
    a_model(fleet, base="sdxl")
    for model_id, kind in {"a-vae": "vae", "style": "lora", "other": "lora", "word": "embedding"}.items():
        a_model(fleet, model_id, kind=kind, base="sdxl")
    given = {
        "vae": "a-vae",
        "embeddings": ["word"],
        "prompt_weighter": "sd_embed",
        "controlnet": ["openpose"],
        "default_scheduler": "DPM++ 2M Karras",
        "default_steps": 12,
        "default_cfg": 5.5,
        "default_width": 512,
        "default_height": 768,
    }

    made = create(client, loras=["style", {"model_id": "other", "weight": 0.5}], **given)

    assert {name: made[name] for name in given} == given
    assert (made["checkpoint"], made["loras"]) == (MODEL, ["style", "other"])
    assert made["lora_weights"] == {"style": 1.0, "other": 0.5}
    assert (made["status"], made["machine_id"], made["error"]) == ("Closed", None, None)
    assert seen(client, made) == made


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "checkpoint"),
        ({"checkpoint": ""}, "checkpoint"),
        ({"checkpoint": 7}, "checkpoint"),
        ({"checkpoint": MODEL, "vae": ""}, "vae"),
        ({"checkpoint": MODEL, "loras": "style"}, "loras"),
        ({"checkpoint": MODEL, "loras": [7]}, "loras"),
        ({"checkpoint": MODEL, "loras": [{"weight": 1}]}, "loras"),
        ({"checkpoint": MODEL, "embeddings": [""]}, "embeddings"),
        ({"checkpoint": MODEL, "default_steps": "12"}, "default_steps"),
        ({"checkpoint": MODEL, "default_steps": 0}, "default_steps"),
        ({"checkpoint": MODEL, "default_cfg": "much"}, "default_cfg"),
        ({"checkpoint": MODEL, "default_scheduler": "no such"}, "default_scheduler"),
        ({"checkpoint": MODEL, "prompt_weighter": "compel"}, "prompt_weighter"),
        ({"checkpoint": MODEL, "nonsense": 1}, "nonsense"),
    ],
    ids=json.dumps,
)
def test_an_empty_field_or_one_of_the_wrong_type_is_named(stocked: Client, body: dict[str, Any], field: str) -> None:
    answer = stocked.post("/v1/engines", json=body)

    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_request")
    assert list(answer.json["error"]["fields"]) == [field]


def test_a_size_that_can_never_be_drawn_is_refused(stocked: Client) -> None:
    status, code, _ = problem(stocked.post("/v1/engines", json={"checkpoint": MODEL, "default_width": 65}))

    assert (status, code) == (422, "invalid_spec")


def test_a_checkpoint_that_does_not_exist_is_told_by_name(stocked: Client) -> None:
    status, code, message = problem(stocked.post("/v1/engines", json={"checkpoint": "nobody"}))

    assert (status, code) == (404, "checkpoint_not_found")
    assert message.startswith("Checkpoint doesn't exist")
    assert "nobody" in message


@pytest.mark.parametrize("given", [{"vae": "nobody"}, {"loras": ["nobody"]}, {"embeddings": ["nobody"]}], ids=str)
def test_companions_that_do_not_exist_are_told_by_name(stocked: Client, given: dict[str, Any]) -> None:
    status, code, message = problem(stocked.post("/v1/engines", json={"checkpoint": MODEL, **given}))

    assert (status, code) == (404, "model_not_found")
    assert "'nobody' doesn't exist" in message


def test_a_model_of_another_kind_is_refused(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "style", kind="lora")

    as_checkpoint = problem(stocked.post("/v1/engines", json={"checkpoint": "style"}))
    as_vae = problem(stocked.post("/v1/engines", json={"checkpoint": MODEL, "vae": "style"}))

    assert as_checkpoint == (422, "invalid", "'style' is a lora, and not a checkpoint")
    assert as_vae == (422, "invalid", "'style' is a lora, and not a vae")


def test_bases_that_differ_are_refused_with_the_seeds_sentence(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "style", kind="lora", base="sd15")

    status, code, message = problem(stocked.post("/v1/engines", json={"checkpoint": MODEL, "loras": ["style"]}))

    assert (status, code) == (422, "bases_differ")
    assert message.startswith("base of models are not the same between them")
    assert "style is made for sd15" in message


@pytest.mark.parametrize("what", ["start", "stop"])
@pytest.mark.parametrize("method", ["patch", "post"])
def test_an_engine_that_does_not_exist_cannot_be_moved(client: Client, method: str, what: str) -> None:
    answer = getattr(client, method)(f"/v1/engines/{uuid4()}/{what}")

    assert problem(answer) == (404, "engine_not_found", "Engine doesn't exist.")


def test_an_engine_that_does_not_exist_is_told_by_every_route(client: Client) -> None:
    unknown = f"/v1/engines/{uuid4()}"
    answers = [client.get(unknown), client.delete(unknown)]
    answers += [client.post("/v1/jobs", json={"engine_id": each, "prompt": "x"}) for each in (str(uuid4()), "nothing")]

    assert {problem(answer)[:2] for answer in answers} == {(404, "engine_not_found")}


def test_starting_chooses_a_machine_and_tells_it(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    engine = create(stocked)

    started = move(stocked, engine, "start")

    assert (started["status"], started["machine_id"], started["bytes_estimated"]) == ("Starting", MACHINE, 4 * GB)
    bell = dispatcher.sent[-1]
    assert (bell.task, bell.queue, str(bell.job_id)) == (ENGINES, machine_queue(MACHINE), engine["engine_id"])
    assert machine_with(fleet) == [UUID(engine["engine_id"])]


def test_a_lost_bell_does_not_lose_the_start(stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher) -> None:
    engine = create(stocked)
    dispatcher.is_away = True
    move(stocked, engine, "start")

    told = machine_with(fleet)

    assert told == [UUID(engine["engine_id"])]


def test_started_twice_is_started_once(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    engine = create(stocked)

    first, second = (move(stocked, engine, "start") for _ in range(2))

    assert first == second
    assert [message.task for message in dispatcher.sent].count(ENGINES) == 1


def test_an_engine_is_ready_when_its_machine_says_so(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    engine = create(stocked)
    move(stocked, engine, "start")
    machine_with(fleet, tells=[ready(engine, state=EngineState.STARTING, bytes_measured=None)])
    loading = seen(stocked, engine)["status"]
    clock.advance(5)

    machine_with(fleet, tells=[ready(engine, bytes_measured=4_100_000_000)])

    shown = seen(stocked, engine)
    assert (loading, shown["status"], shown["bytes_measured"]) == ("Starting", "Ready", 4_100_000_000)
    assert shown["started_at"] is not None


def test_the_machine_protocol_carries_what_an_engine_is_made_of(stocked: Client, fleet: Fleet) -> None:
    a_model(fleet, "style", kind="lora", base="sdxl")
    engine = create(stocked, loras=[{"model_id": "style", "weight": 0.5}], default_width=512)
    move(stocked, engine, "start")
    body: dict[str, Any] = {"machine_id": MACHINE, "boot_id": BOOT, "device": {}, "holdings": []}
    report = {"engine_id": engine["engine_id"], "state": "Ready", "bytes_measured": 7, "bytes_estimated": 6}

    (told,) = stocked.post("/machines/v1/check-in", json=body).json["engines"]
    stocked.post("/machines/v1/check-in", json={**body, "engines": [report]})

    assert (told["engine_id"], told["base"]) == (engine["engine_id"], "sdxl")
    assert (told["spec"]["model_id"], told["spec"]["width"]) == (MODEL, 512)
    assert [lora["model_id"] for lora in told["spec"]["loras"]] == ["style"]
    shown = seen(stocked, engine)
    assert (shown["status"], shown["bytes_measured"], shown["bytes_estimated"]) == ("Ready", 7, 6)


def test_without_room_anywhere_the_start_is_refused_with_the_figures(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    machine_with(fleet, room=3 * GB)
    engine = create(client)

    answer = client.patch(f"/v1/engines/{engine['engine_id']}/start")

    status, code, message = problem(answer)
    assert (status, code) == (409, "not_enough_memory")
    assert message.startswith("Not enough VRAM to start")
    assert f"{MACHINE} needs 5.00 GB, and there is room for 3.00 GB" in message
    assert seen(client, engine)["status"] == "Closed"


def test_an_engine_that_no_machine_could_ever_hold_is_not_even_made(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    machine_with(fleet, most=3 * GB)

    status, code, message = problem(client.post("/v1/engines", json={"checkpoint": MODEL}))

    assert (status, code) == (409, "not_enough_memory")
    assert message.startswith("Not enough VRAM to start")


def test_what_is_being_loaded_takes_room_before_it_is_measured(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    a_model(fleet, "second")
    machine_with(fleet, room=6 * GB)
    move(client, create(client), "start")
    ready_too = HoldingReport(model_id="second", state=HoldingState.READY, weights_bytes=GB, drawing_bytes=GB + 1)
    device = {"engine_room": 6 * GB, "engine_most": 9 * GB}
    with fleet.transaction() as tx:
        report = Report(machine_id=MACHINE, boot_id=BOOT, device=device, holdings=[ready_too])
        machines.record(tx, report)

    answer = client.patch(f"/v1/engines/{create(client, checkpoint='second')['engine_id']}/start")

    assert problem(answer)[1] == "not_enough_memory"


def test_a_second_engine_of_the_same_checkpoint_needs_no_second_copy(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    machine_with(fleet, room=6 * GB)
    first, second = create(client), create(client)
    move(client, first, "start")
    machine_with(fleet, room=2 * GB, tells=[ready(first)])

    started = move(client, second, "start")

    assert started["machine_id"] == MACHINE


def test_the_machine_with_what_goes_along_comes_first_then_the_one_with_most_room(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    a_model(fleet, "style", kind="lora")
    machine_with(fleet, "large", room=20 * GB)
    machine_with(fleet, "small", room=8 * GB, also=["style"])

    plain = move(client, create(client), "start")
    styled = move(client, create(client, loras=["style"]), "start")

    assert (plain["machine_id"], styled["machine_id"]) == ("large", "small")


def test_machines_that_do_not_hold_the_proof_or_take_no_jobs_are_not_chosen(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    machine_with(fleet, "drained")
    with fleet.transaction() as tx:
        machines.drain(tx, "drained")
    with fleet.transaction() as tx:
        coming = HoldingReport(model_id=MODEL, state=HoldingState.VERIFYING)
        device = {"engine_room": 9 * GB}
        machines.record(tx, Report(machine_id="b", boot_id=BOOT, device=device, holdings=[coming]))
    engine = create(client)

    status, code, message = problem(client.patch(f"/v1/engines/{engine['engine_id']}/start"))

    assert (status, code) == (503, "unserved")
    assert "drained" in message


def test_a_start_that_failed_on_the_machine_says_why_and_may_be_tried_again(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    move(stocked, engine, "start")
    failed = ready(
        engine, state=EngineState.CLOSED, error_code="not_enough_memory", error="Not enough VRAM to start: …"
    )

    still_wanted = machine_with(fleet, tells=[failed])

    shown = seen(stocked, engine)
    assert (shown["status"], shown["error"]["code"], still_wanted) == ("Closed", "not_enough_memory", [])
    assert move(stocked, engine, "start")["error"] is None


def test_stopping_ends_when_the_machine_holds_it_no_longer(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)

    stopping = move(stocked, engine, "stop")
    told = machine_with(fleet, tells=[ready(engine)])
    still = seen(stocked, engine)
    machine_with(fleet)

    assert (stopping["status"], stopping["stopping"], told) == ("Ready", True, [])
    assert still["stopping"] is True
    closed = seen(stocked, engine)
    assert (closed["status"], closed["stopping"], closed["error"], closed["bytes_measured"]) == (
        "Closed",
        False,
        None,
        None,
    )


def test_an_engine_that_is_being_stopped_cannot_be_started_yet(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    move(stocked, engine, "stop")

    answer = stocked.patch(f"/v1/engines/{engine['engine_id']}/start")

    assert problem(answer)[:2] == (409, "engine_running")


def test_stopping_on_a_machine_that_has_gone_closes_at_once(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    engine = running(stocked, fleet)
    clock.advance(60)

    assert move(stocked, engine, "stop")["status"] == "Closed"


def test_a_running_engine_is_not_deleted(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)

    status, code, message = problem(stocked.delete(f"/v1/engines/{engine['engine_id']}"))

    assert (status, code) == (409, "engine_running")
    assert message.startswith("engine is running")
    assert seen(stocked, engine)["status"] == "Ready"


def test_deleting_takes_its_jobs_and_their_pictures_along(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    job_ids = [UUID(order(stocked, engine)["job_id"]) for _ in range(2)]
    other = a_job(fleet)
    job = the_job(fleet, a_claim(fleet, job_ids[0]))
    images.receive(fleet, an_upload(job))
    finish(fleet, job)
    move(stocked, engine, "stop")
    machine_with(fleet)

    answer = stocked.delete(f"/v1/engines/{engine['engine_id']}")

    assert answer.status_code == 204
    assert {stocked.get(f"/v1/jobs/{each}").status_code for each in job_ids} == {404}
    assert stocked.get(f"/v1/jobs/{other.id}").status_code == 200
    assert stocked.get(f"/v1/engines/{engine['engine_id']}").status_code == 404
    assert isinstance(fleet.images, MemoryImages)
    assert fleet.images.kept == {}
    with fleet.reading() as session:
        assert session.scalars(select(Image)).all() == []


def test_engines_are_listed_filtered_sorted_and_paged(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet, "b-model")
    made = []
    for checkpoint in (MODEL, "b-model", MODEL):
        made.append(create(stocked, checkpoint=checkpoint)["engine_id"])
        clock.advance(1)
    machine_with(fleet)
    stocked.patch(f"/v1/engines/{made[2]}/start")

    def listed(query: str = "") -> list[str]:
        return [each["engine_id"] for each in stocked.get(f"/v1/engines?{query}").json["engines"]]

    assert listed() == made
    assert listed("sort=-created_at") == made[::-1]
    assert listed("sort=-checkpoint")[0] == made[1]
    assert listed(f"checkpoint={MODEL}") == [made[0], made[2]]
    assert listed("status=Starting,Ready") == [made[2]]
    first = stocked.get("/v1/engines?limit=2").json
    assert ([e["engine_id"] for e in first["engines"]], first["total"]) == (made[:2], 3)
    second = stocked.get("/v1/engines", query_string={"limit": 2, "after": first["next"]}).json
    assert ([e["engine_id"] for e in second["engines"]], second["next"]) == (made[2:], None)


@pytest.mark.parametrize("query", ["status=ready", "sort=name", "limit=0", "after=x", "offset=1"])
def test_a_question_about_engines_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    assert client.get(f"/v1/engines?{query}").status_code == 422


def test_a_job_takes_from_its_engine_what_it_does_not_say_itself(stocked: Client, fleet: Fleet) -> None:
    for model_id in ("style", "extra"):
        a_model(fleet, model_id, kind="lora", base="sdxl")
    a_model(fleet, "a-vae", kind="vae", base="sdxl")
    given = {"default_steps": 9, "default_cfg": 4.0, "default_width": 512, "default_height": 256}
    engine = create(
        stocked, vae="a-vae", loras=[{"model_id": "style", "weight": 0.5}], default_scheduler="Euler", **given
    )

    job = order(stocked, engine, width=640)

    parameters = job["parameters"]
    assert (job["model_id"], job["engine_id"]) == (MODEL, engine["engine_id"])
    assert (parameters["width"], parameters["height"], parameters["steps"]) == (640, 256, 9)
    assert (parameters["guidance_scale"], parameters["scheduler"], parameters["vae_id"]) == (4.0, "Euler", "a-vae")
    assert [(lora["model_id"], lora["weight"]) for lora in parameters["loras"]] == [("style", 0.5)]


def test_a_jobs_bell_goes_to_its_engines_queue(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    engine = create(stocked)

    order(stocked, engine)

    assert (dispatcher.sent[-1].task, dispatcher.sent[-1].queue) == (GENERATE, engine_queue(engine["engine_id"]))


def test_a_job_of_a_closed_engine_waits_and_says_for_what(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    job = order(stocked, engine)

    waiting_for = stocked.get(f"/v1/jobs/{job['job_id']}").json["waiting_for"]
    told = stocked.get(f"/v1/jobs/{job['job_id']}/explain").json

    assert f"PATCH /v1/engines/{engine['engine_id']}/start" in waiting_for
    assert "Closed" in waiting_for
    assert told["summary"] == waiting_for
    assert told["unblock"] == f"PATCH /v1/engines/{engine['engine_id']}/start"
    assert [(m["machine_id"], m["reason"]) for m in told["machines"]] == [(MACHINE, "no_engine")]


def test_explaining_tells_the_machine_that_loads_an_engine_from_others(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    move(stocked, engine, "start")
    machine_with(fleet, "gpu-2")
    job = order(stocked, engine)
    with fleet.reading() as session:
        starting = explain.explain(explain.gather(fleet, session, UUID(job["job_id"])))
    machine_with(fleet, tells=[ready(engine)])
    with fleet.reading() as session:
        begun = explain.explain(explain.gather(fleet, session, UUID(job["job_id"])))

    assert [str(verdict.reason) for verdict in starting.verdicts] == ["starting", "no_engine"]
    assert [str(verdict.reason) for verdict in begun.verdicts] == ["free", "no_engine"]
    assert "being loaded" in starting.summary
    assert "it is next" in begun.summary


def test_an_order_for_a_closed_engine_is_refused_where_unserved_orders_are(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    object.__setattr__(fleet, "limits", Limits(reject_unserved=True))

    answer = stocked.post("/v1/jobs", json={"engine_id": engine["engine_id"], "prompt": "x"})

    assert problem(answer)[:2] == (503, "unserved")


def test_only_the_machine_that_holds_the_engine_ready_is_given_its_jobs(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    job_id = UUID(order(stocked, engine)["job_id"])
    closed = claim(fleet, job_id)
    move(stocked, engine, "start")
    starting = claim(fleet, job_id)
    machine_with(fleet, tells=[ready(engine)])
    machine_with(fleet, "gpu-2")

    elsewhere, here = claim(fleet, job_id, "gpu-2"), claim(fleet, job_id)

    assert (closed, starting, elsewhere) == (None, None, None)
    assert here is not None
    assert (here.job_id, here.machine_id) == (job_id, MACHINE)


def test_jobs_of_engines_and_of_their_model_wait_in_lines_of_their_own(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    of_engine = UUID(order(stocked, engine, priority=9)["job_id"])
    of_model = a_job(fleet)

    by_model, nothing, by_engine = claim(fleet, of_model.id), claim(fleet, of_model.id), claim(fleet, of_engine)

    assert by_model is not None
    assert by_engine is not None
    assert (by_model.job_id, nothing, by_engine.job_id) == (of_model.id, None, of_engine)


def test_the_place_in_the_queue_counts_the_engines_jobs_alone(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    engine = create(stocked)
    for _ in range(3):
        a_job(fleet)
    first = order(stocked, engine)
    clock.advance(1)
    second = order(stocked, engine)

    positions = [stocked.get(f"/v1/jobs/{job['job_id']}").json["queue_position"] for job in (first, second)]

    assert positions == [1, 2]


def test_an_engine_is_working_while_one_of_its_jobs_is_drawn(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    job_ids = [UUID(order(stocked, engine)["job_id"]) for _ in range(2)]

    before = seen(stocked, engine)["status"]
    drawn = a_claim(fleet, job_ids[0])
    while_drawn = seen(stocked, engine)["status"]
    images.receive(fleet, an_upload(the_job(fleet, drawn)))
    finish(fleet, the_job(fleet, drawn))
    after = seen(stocked, engine)["status"]
    second = a_claim(fleet, job_ids[0])
    again = seen(stocked, engine)["status"]
    stocked.post(f"/v1/jobs/{second}/cancel")

    said = [before, while_drawn, after, again, seen(stocked, engine)["status"]]
    assert said == ["Ready", "Working", "Ready", "Working", "Ready"]


def test_a_working_engine_that_is_stopped_ends_its_job_first_and_begins_no_other(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    waiting = [UUID(order(stocked, engine)["job_id"]) for _ in range(2)]
    a_claim(fleet, waiting[0])

    stopping = move(stocked, engine, "stop")
    begun = claim(fleet, waiting[0])

    assert (stopping["status"], stopping["stopping"], begun) == ("Working", True, None)


def test_a_machine_that_was_started_anew_has_lost_its_engines(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    job_id = UUID(order(stocked, engine)["job_id"])
    claim(fleet, job_id)

    machine_with(fleet, boot_id="boot-2")

    shown = seen(stocked, engine)
    assert (shown["status"], shown["error"]["code"]) == ("Closed", "machine_lost")
    assert the_job(fleet, job_id).state == JobState.QUEUED
    waiting_for = stocked.get(f"/v1/jobs/{job_id}").json["waiting_for"]
    assert "started anew" in waiting_for


def test_the_engines_of_a_silent_machine_are_closed_by_the_sweeper(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    engine = running(stocked, fleet)
    with fleet.transaction() as tx:
        before = engine_reports.close_of_silent_machines(tx)
    let_pass(fleet, clock, 30)
    with fleet.transaction() as tx:
        after = engine_reports.close_of_silent_machines(tx)

    assert (before, after) == (0, 1)
    assert "has been silent" in seen(stocked, engine)["error"]["message"]


def test_an_api_that_was_away_closes_no_engine(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    engine = running(stocked, fleet)
    clock.advance(60)

    with fleet.transaction() as tx:
        closed = engine_reports.close_of_silent_machines(tx)

    assert (closed, seen(stocked, engine)["status"]) == (0, "Ready")


def test_draining_a_machine_stops_its_engines_and_says_so(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet)
    with fleet.transaction() as tx:
        machines.drain(tx, MACHINE)

    told = machine_with(fleet, tells=[ready(engine)])
    machine_with(fleet)

    shown = seen(stocked, engine)
    assert told == []
    assert (shown["status"], shown["error"]["code"]) == ("Closed", "machine_takes_no_jobs")
    assert "drained" in shown["error"]["message"]


def test_a_retry_goes_to_the_same_engine(stocked: Client, fleet: Fleet) -> None:
    engine = running(stocked, fleet, default_width=512)
    job = order(stocked, engine)
    stocked.post(f"/v1/jobs/{job['job_id']}/cancel")

    again = stocked.post(f"/v1/jobs/{job['job_id']}/retry").json

    assert (again["engine_id"], again["parameters"]) == (engine["engine_id"], job["parameters"])


def test_the_sweeper_rings_in_the_engines_queue(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher, clock: Clock
) -> None:
    engine = running(stocked, fleet)
    order(stocked, engine)
    a_job(fleet)
    dispatcher.lose_everything()
    clock.advance(60)

    rung = bells.ring_forgotten(fleet)

    assert rung == 2
    assert {message.queue for message in dispatcher.waiting} == {
        engine_queue(engine["engine_id"]),
        model_queue(MODEL),
    }


def test_what_an_engine_failed_it_may_try_again_at_once_and_no_other_machine_is_rung(
    stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    engine = running(stocked, fleet)
    machine_with(fleet, "gpu-2")
    job_id = UUID(order(stocked, engine)["job_id"])
    claim(fleet, job_id)
    finish(fleet, the_job(fleet, job_id), AttemptState.ERROR, error_code="strange", error="once")

    second = claim(fleet, job_id)

    assert second is not None
    assert second.number == 2
    assert machine_queue("gpu-2") not in {message.queue for message in dispatcher.sent}


def test_an_engine_that_is_deleted_takes_no_order_any_more(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    assert stocked.delete(f"/v1/engines/{engine['engine_id']}").status_code == 204

    answer = stocked.post("/v1/jobs", json={"engine_id": engine["engine_id"], "prompt": "x"})

    assert problem(answer)[:2] == (404, "engine_not_found")


def test_a_claim_for_an_engine_says_why_it_is_refused(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    job = order(stocked, engine)

    with pytest.raises(NotClaimable, match="is not ready on machine"), fleet.transaction() as tx:
        attempts.claim(tx, UUID(job["job_id"]), MACHINE, BOOT)


def test_jobs_are_listed_by_their_engine(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)
    job = order(stocked, engine)
    a_job(fleet)

    listed = stocked.get(f"/v1/jobs?engine_id={engine['engine_id']}").json["jobs"]

    assert [each["job_id"] for each in listed] == [job["job_id"]]


def test_a_forecast_knows_only_the_machine_that_holds_the_engine(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    paced = a_job(fleet)
    a_claim(fleet, paced.id)
    clock.advance(5)
    images.receive(fleet, an_upload(the_job(fleet, paced.id)))
    finish(fleet, the_job(fleet, paced.id), timings={"denoising": 4.0})
    machine_with(fleet)
    engine = create(stocked)

    closed = stocked.get(f"/v1/jobs/{order(stocked, engine)['job_id']}").json["eta"]
    move(stocked, engine, "start")
    machine_with(fleet, "gpu-2")
    machine_with(fleet, tells=[ready(engine)])
    held = stocked.get(f"/v1/jobs/{order(stocked, engine)['job_id']}").json["eta"]

    assert closed["seconds"] is None
    assert f"engine {engine['engine_id']} is in no machine's memory" in closed["basis"]
    assert held["seconds"] > 0
    assert "1 machine can draw it" in held["basis"]


@pytest.mark.parametrize("kind", ["openpose", "mediapipe", "midaspose"])
def test_the_seeds_words_for_controlnets_are_taken(stocked: Client, kind: str) -> None:
    assert create(stocked, controlnet=[kind])["controlnet"] == [kind]


def test_orders_in_a_list_may_be_for_an_engine_too(stocked: Client, fleet: Fleet) -> None:
    engine = create(stocked)

    body = {"engine_id": engine["engine_id"], "prompts": ["one", "two"]}
    answer = stocked.post("/v1/jobs", json=body)

    assert [job["engine_id"] for job in answer.json["jobs"]] == [engine["engine_id"]] * 2


def test_a_model_that_an_engine_is_made_of_is_not_deleted(stocked: Client) -> None:
    engine = create(stocked)

    answer = stocked.delete(f"/v1/models/{MODEL}")

    assert answer.status_code == 409
    assert engine["engine_id"] in answer.json["error"]["message"]


def test_a_job_knows_the_queue_that_it_waits_in(fleet: Fleet) -> None:
    job = a_job(fleet, terms=Terms())

    with fleet.reading() as session:
        stored = session.get_one(Job, job.id)
        assert stored.queue == model_queue(MODEL)
        assert jobs.bell(stored).queue == stored.queue


def test_an_engine_that_is_asked_for_twice_under_one_key_is_made_once(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    key = {"Idempotency-Key": "an-engine"}

    first, second = (client.post("/v1/engines", json={"checkpoint": MODEL}, headers=key) for _ in range(2))
    other = client.post("/v1/engines", json={"checkpoint": MODEL, "default_steps": 5}, headers=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["engine_id"] == second.json["engine_id"]
    assert (first.headers.get("Idempotent-Replayed"), second.headers.get("Idempotent-Replayed")) == (None, "true")
    assert (other.status_code, other.json["error"]["code"]) == (409, "idempotency_key_reused")
    assert client.get("/v1/engines").json["total"] == 1
