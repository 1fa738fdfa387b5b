"""The machine protocol: check-in, claim, pictures, finish, and the fence around each attempt."""

from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.live import Progress
from app.core.tables import Job
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_job,
    a_machine,
    a_model,
    a_picture,
    a_running_job,
    claim,
    the_job,
)
from tests.support.fakes import Clock, MemoryImages, RecordingDispatcher
from tests.support.web import Client

HUGE = 10**30


def check_in(client: Client, machine_id: str = MACHINE, boot_id: str = BOOT, **more: Any) -> dict[str, Any]:
    answer = client.post("/machines/v1/check-in", json={"machine_id": machine_id, "boot_id": boot_id, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


def ask_for(client: Client, job: Job, machine_id: str = MACHINE, boot_id: str = BOOT) -> Any:
    return client.post(f"/machines/v1/jobs/{job.id}/claim", json={"machine_id": machine_id, "boot_id": boot_id})


def bring(client: Client, job: Job, data: bytes | None = None, **about: Any) -> Any:
    data = a_picture() if data is None else data
    query = {"machine_id": MACHINE, "seed": 7, "width": 8, "height": 8, "sha256": sha256(data).hexdigest()}
    attempt, position, kind = about.pop("attempt", 1), about.pop("position", 0), about.pop("kind", "image/png")
    path = f"/machines/v1/jobs/{job.id}/attempts/{attempt}/images/{position}"
    return client.put(path, query_string=query | about, data=data, content_type=kind)


def end(client: Client, job: Job, state: str = "completed", attempt: int = 1, **more: Any) -> Any:
    body = {"machine_id": MACHINE, "state": state, **more}
    return client.post(f"/machines/v1/jobs/{job.id}/attempts/{attempt}/finish", json=body)


def attempts(*keys: tuple[UUID, int]) -> list[dict[str, Any]]:
    return [{"job_id": str(job_id), "number": number} for job_id, number in keys]


def test_a_job_goes_through_the_whole_protocol(client: Client, fleet: Fleet) -> None:
    a_model(fleet, base="sd15")
    job = a_job(fleet, n=2, seed=5)
    check_in(client, holdings=[{"model_id": MODEL, "state": "ready"}], needed=[MODEL])

    claimed = ask_for(client, job)
    first, second = bring(client, job), bring(client, job, position=1, seed=6)
    ended = end(client, job, timings={"drawing": 1.5})

    about: dict[str, Any] = {"base": "sd15", "variant": None, "companions": {}}
    assert claimed.json == {"job_id": str(job.id), "attempt": 1, "spec": job.spec, **about}
    assert (first.status_code, second.status_code) == (201, 201)
    assert ended.json == {"status": "completed"}
    kept = the_job(fleet, job.id)
    assert (kept.state, kept.attempts[0].timings) == (JobState.COMPLETED, {"drawing": 1.5})
    assert [str(image.id) for image in kept.images] == [first.json["image_id"], second.json["image_id"]]


def test_only_one_attempt_wins_the_claim(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    check_in(client, "gpu-1")
    check_in(client, "gpu-2")

    first, second = ask_for(client, job, "gpu-1"), ask_for(client, job, "gpu-2")

    assert (first.status_code, first.json["attempt"]) == (200, 1)
    assert (second.status_code, second.json["code"], second.json["facts"]) == (
        409,
        "not_claimable",
        {"state": "processing"},
    )
    assert the_job(fleet, job.id).machine_id == "gpu-1"


@pytest.mark.parametrize("boot_id", ["another", None])
def test_a_machine_that_has_not_checked_in_since_it_started_gets_no_job(
    client: Client, fleet: Fleet, boot_id: str | None
) -> None:
    job = a_job(fleet)
    if boot_id:
        check_in(client, boot_id=boot_id)

    assert ask_for(client, job).json["code"] == "not_claimable"


def test_a_claim_of_an_unknown_job_is_404(client: Client) -> None:
    check_in(client)

    answer = client.post(f"/machines/v1/jobs/{uuid4()}/claim", json={"machine_id": MACHINE, "boot_id": BOOT})

    assert (answer.status_code, answer.json["code"]) == (404, "job_not_found")


def test_an_ended_job_cannot_be_claimed(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    check_in(client)
    client.post(f"/v1/jobs/{job.id}/cancel")

    assert ask_for(client, job).json["facts"] == {"state": "cancelled"}


@pytest.fixture
def overtaken(fleet: Fleet) -> Job:
    """Return a job whose first attempt was lost and whose second one runs on another machine."""
    job = a_running_job(fleet)
    a_machine(fleet, boot_id="boot-2")
    a_machine(fleet, "gpu-2")
    claim(fleet, job.id, "gpu-2")
    return the_job(fleet, job.id)


def test_everything_a_stale_attempt_brings_is_refused(client: Client, fleet: Fleet, overtaken: Job) -> None:
    picture, ending = bring(client, overtaken), end(client, overtaken)

    assert (picture.status_code, picture.json["code"]) == (409, "stale_attempt")
    assert (ending.status_code, ending.json["code"]) == (409, "stale_attempt")
    kept = the_job(fleet, overtaken.id)
    assert (kept.state, kept.attempt, kept.images) == (JobState.PROCESSING, 2, [])
    assert isinstance(fleet.images, MemoryImages)
    assert fleet.images.kept == {}


def test_the_newer_attempt_is_not_disturbed_by_the_stale_one(client: Client, fleet: Fleet, overtaken: Job) -> None:
    end(client, overtaken, "error", error_code="late", error="late", permanent=True)

    assert bring(client, overtaken, attempt=2, machine_id="gpu-2").status_code == 201
    assert end(client, overtaken, attempt=2, machine_id="gpu-2").json == {"status": "completed"}


def test_another_machine_cannot_end_an_attempt(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    assert end(client, job, "error", machine_id="gpu-2").status_code == 409
    assert bring(client, job, machine_id="gpu-2").status_code == 409
    assert the_job(fleet, job.id).state == JobState.PROCESSING


@pytest.mark.parametrize("attempt", [0, 2, HUGE])
def test_an_attempt_that_never_was_is_refused(client: Client, fleet: Fleet, attempt: int) -> None:
    job = a_running_job(fleet)

    assert end(client, job, attempt=attempt).status_code == 409
    assert bring(client, job, attempt=attempt).status_code == 409


def test_a_picture_whose_hash_is_wrong_is_refused_and_not_kept(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    answer = bring(client, job, sha256="0" * 64)

    assert answer.status_code == 422
    assert "send it again" in answer.json["message"]
    assert the_job(fleet, job.id).images == []


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"kind": "text/html"}, "text/html"),
        ({"kind": "image/jpeg"}, "do not begin as"),
        ({"sha256": "x"}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"seed": "x"}, "seed"),
        ({"seed": HUGE}, "seed"),
        ({"seed": -1}, "seed"),
        ({"width": 0}, "width"),
        ({"height": HUGE}, "height"),
        ({"machine_id": "a b"}, "machine_id"),
        ({"position": 1}, "position"),
        ({"position": HUGE}, "position"),
    ],
)
def test_a_picture_that_is_not_what_was_ordered_is_refused(
    client: Client, fleet: Fleet, about: dict[str, Any], told: str
) -> None:
    job = a_running_job(fleet)

    answer = bring(client, job, **about)

    assert answer.status_code == 422, answer.text
    assert told in str(answer.json)
    assert the_job(fleet, job.id).images == []


def test_an_empty_picture_is_refused(client: Client, fleet: Fleet) -> None:
    assert bring(client, a_running_job(fleet), data=b"").status_code == 422


def test_the_same_picture_twice_changes_nothing(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    first, second = bring(client, job), bring(client, job)

    assert first.json == second.json
    assert len(the_job(fleet, job.id).images) == 1
    assert isinstance(fleet.images, MemoryImages)
    assert len(fleet.images.kept) == 1


def test_a_job_is_not_completed_while_pictures_are_missing(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet, n=3)
    bring(client, job)

    early = end(client, job)

    assert (early.status_code, early.json["code"]) == (409, "conflict")
    assert "3 pictures, and 1 were delivered" in early.json["message"]
    for position in (1, 2):
        bring(client, job, position=position)
    assert end(client, job).json == {"status": "completed"}


def test_a_completed_attempt_cannot_end_again(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    bring(client, job)
    end(client, job)

    assert end(client, job, "error", permanent=True).json["code"] == "stale_attempt"
    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_a_failure_that_may_pass_sends_the_job_back_until_its_tries_are_used(
    client: Client, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    job = a_running_job(fleet)
    states = []

    for number in (1, 2, 3):
        if number > 1:
            assert ask_for(client, job).json["attempt"] == number
        states.append(end(client, job, "error", number, error_code="out_of_memory", error="no memory").json["status"])

    assert states == ["queued", "queued", "error"]
    assert [message.job_id for message in dispatcher.sent] == [job.id] * 3
    kept = the_job(fleet, job.id)
    assert (kept.error_code, kept.error) == ("out_of_memory", "no memory")
    assert [attempt.state for attempt in kept.attempts] == [AttemptState.ERROR] * 3


def test_a_failure_for_good_ends_the_job_at_once(client: Client, fleet: Fleet) -> None:
    assert end(client, a_running_job(fleet), "error", permanent=True).json == {"status": "error"}


def test_handing_a_job_back_is_nobodys_fault(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    states = []
    for number in range(1, 6):
        states.append(end(client, job, "lost", number, error_code="handed_back").json["status"])
        assert ask_for(client, job).status_code == 200

    assert states == ["queued"] * 5


@pytest.mark.parametrize("state", ["running", "cancelled", "done", "", None, 5])
def test_an_attempt_ends_only_in_the_three_ways_the_protocol_has(client: Client, fleet: Fleet, state: object) -> None:
    job = a_running_job(fleet)

    answer = client.post(f"/machines/v1/jobs/{job.id}/attempts/1/finish", json={"machine_id": MACHINE, "state": state})

    assert answer.status_code == 422
    assert the_job(fleet, job.id).state == JobState.PROCESSING


@pytest.mark.parametrize(
    ("error_code", "error"), [("c" * 500, "e"), ("c", "e" * 100_000), ("c\x00", "nul \x00"), ("c", "\ud800")]
)
def test_a_failure_is_recorded_whatever_its_words_are(
    client: Client, fleet: Fleet, error_code: str, error: str
) -> None:
    job = a_running_job(fleet)

    answer = end(client, job, "error", permanent=True, error_code=error_code, error=error)

    assert answer.json == {"status": "error"}
    assert client.get(f"/v1/jobs/{job.id}").json["error"]["message"].startswith(error[:1].replace("\ud800", ""))


def test_a_check_in_is_kept_whatever_is_in_it(client: Client) -> None:
    holding = {
        "model_id": "m" * 500,
        "state": "error",
        "bytes_done": HUGE,
        "bytes_total": HUGE,
        "bytes_per_second": 1e308,
        "error_code": "c" * 500,
        "error": "nul \x00 and half \ud800",
    }

    check_in(client, version="v" * 500, device={"name": "GPU \x00"}, needed=["m" * 500], holdings=[holding])

    (machine,) = client.get("/v1/machines").json["machines"]
    assert machine["alive"] is True
    assert machine["models"][0]["state"] == "error"


def test_a_newer_machine_may_say_more(client: Client) -> None:
    check_in(client, colour="red", holdings=[{"model_id": "a", "state": "ready", "colour": "red"}])

    (machine,) = client.get("/v1/machines").json["machines"]
    assert [model["model_id"] for model in machine["models"]] == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"machine_id": MACHINE},
        {"machine_id": "", "boot_id": BOOT},
        {"machine_id": "a/b", "boot_id": BOOT},
        {"machine_id": "a\n", "boot_id": BOOT},
        {"machine_id": "a" * 201, "boot_id": BOOT},
        {"machine_id": MACHINE, "boot_id": "b" * 65},
        {"machine_id": MACHINE, "boot_id": BOOT, "holdings": [{"model_id": "a", "state": "done"}]},
        {"machine_id": MACHINE, "boot_id": BOOT, "attempts": [{"job_id": "x", "number": 1}]},
        {"machine_id": MACHINE, "boot_id": BOOT, "holdings": "a"},
        [],
    ],
)
def test_a_check_in_that_makes_no_sense_is_refused(client: Client, body: Any) -> None:
    answer = client.post("/machines/v1/check-in", json=body)

    assert answer.status_code == 422
    assert list(answer.json) == ["code", "message", "facts"]


def test_a_machine_is_told_which_attempts_to_abandon(client: Client, fleet: Fleet) -> None:
    running, cancelled, gone = a_running_job(fleet), a_running_job(fleet), (uuid4(), 1)
    client.post(f"/v1/jobs/{cancelled.id}/cancel")

    orders = check_in(client, attempts=attempts((running.id, 1), (cancelled.id, 1), gone, (running.id, HUGE)))

    unwanted = {(entry["job_id"], entry["number"]) for entry in orders["abandon"]}
    assert unwanted == {(str(cancelled.id), 1), (str(gone[0]), 1), (str(running.id), HUGE)}
    assert orders["drained"] is False


def test_a_fresh_claim_may_be_missing_from_a_check_in(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)

    check_in(client)
    before = the_job(fleet, job.id).state
    clock.advance(6)
    check_in(client)

    assert before == JobState.PROCESSING
    assert the_job(fleet, job.id).state == JobState.QUEUED


def test_a_machine_that_started_anew_has_lost_what_it_does_not_name(client: Client, fleet: Fleet) -> None:
    lost, kept = a_running_job(fleet), a_running_job(fleet)

    orders = check_in(client, boot_id="boot-2", attempts=attempts((kept.id, 1)))

    assert the_job(fleet, lost.id).state == JobState.QUEUED
    assert the_job(fleet, kept.id).state == JobState.PROCESSING
    assert orders["abandon"] == []
    (attempt,) = the_job(fleet, lost.id).attempts
    assert (attempt.state, attempt.error_code) == (AttemptState.LOST, "machine_lost")


def test_a_job_that_loses_its_machine_too_often_ends_as_an_error(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    for number in range(2, 5):
        check_in(client, boot_id=f"boot-{number}")
        ask_for(client, job, boot_id=f"boot-{number}")

    kept = the_job(fleet, job.id)
    assert (kept.state, kept.attempt, kept.error_code) == (JobState.ERROR, 3, "machine_lost")


def test_models_a_machine_no_longer_names_are_forgotten(client: Client) -> None:
    check_in(client, holdings=[{"model_id": "a", "state": "ready"}, {"model_id": "b", "state": "ready"}])
    check_in(client, holdings=[{"model_id": "b", "state": "error", "error": "changed on disk"}])

    (machine,) = client.get("/v1/machines").json["machines"]
    assert [(model["model_id"], model["state"]) for model in machine["models"]] == [("b", "error")]


def test_the_same_model_named_twice_is_one(client: Client) -> None:
    check_in(client, holdings=[{"model_id": "a", "state": "wanted"}, {"model_id": "a", "state": "ready"}])

    (machine,) = client.get("/v1/machines").json["machines"]
    assert [(model["model_id"], model["state"]) for model in machine["models"]] == [("a", "ready")]


BOOTED = {
    "started_at": "2026-01-05T11:59:00+00:00",
    "phases": [
        {"phase": "booting", "start": 0.0, "seconds": 2.5, "model_id": None},
        {"phase": "downloading", "start": 2.5, "seconds": None, "model_id": MODEL},
    ],
    "first_picture_seconds": None,
}


def test_how_a_machine_came_up_is_kept_and_shown(client: Client) -> None:
    check_in(client, boot=BOOTED | {"of_a_newer_machine": 1})
    first = client.get(f"/v1/machines/{MACHINE}").json["boot"]
    check_in(client, boot=BOOTED | {"first_picture_seconds": 31.25})
    second = client.get("/v1/machines").json["machines"][0]["boot"]
    check_in(client, boot_id="another-process")

    assert first == BOOTED
    assert second["first_picture_seconds"] == 31.25
    assert client.get(f"/v1/machines/{MACHINE}").json["boot"] is None  # an older version tells nothing


def test_what_a_machine_draws_is_shown_with_how_far_it_is(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    before = client.get(f"/v1/machines/{MACHINE}").json["jobs"]
    fleet.live.report(job.id, Progress(1, "denoising", step=3, steps=4))

    (shown,) = client.get(f"/v1/machines/{MACHINE}").json["jobs"]

    assert [each["progress"] for each in before] == [0.0]
    assert (shown["job_id"], shown["model_id"], shown["progress"]) == (str(job.id), MODEL, 0.75)
