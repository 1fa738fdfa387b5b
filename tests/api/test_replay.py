"""Replays and receipts: what drew a picture, drawing it again, and how far that is from the first time."""

import io
from typing import Any
from uuid import UUID

import pytest
from PIL import Image as Pillow

from app.core import images, models
from app.core.dispatch import Message
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.replay import LONGEST_RECEIPT
from app.core.tables import Job
from app.core.turns import KEPT_FOR_OTHERS_SECONDS
from tasks.machine.client import Claim
from tasks.machine.drivers.seats import Seat
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_picture,
    a_running_job,
    an_entry,
    an_upload,
    claim,
    finish,
    let_pass,
    the_job,
)
from tests.support.fakes import Clock, MemoryImages, RecordingDispatcher
from tests.support.web import Client

CARD = {"type": "cuda", "name": "NVIDIA L40S"}
OTHER_CARD = {"type": "cuda", "name": "NVIDIA T4"}

RECEIPT = {
    "format": 1,
    "seed": 7,
    "device": "NVIDIA L40S",
    "versions": {"torch": "2.13.0", "diffusers": "0.42.1"},
    "files": [{"model_id": MODEL, "path": "m.safetensors", "hash": "sha256:aa"}],
}


def replay(client: Client, job: Job) -> dict[str, Any]:
    answer = client.post(f"/v1/jobs/{job.id}/replay", json={})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json
    return body


def drawn_with(fleet: Fleet, job: Job, *pictures: bytes, receipts: list[dict[str, Any]] | None = None) -> Job:
    """Let the machine that holds a job finish it with these pictures."""
    for position, data in enumerate(pictures):
        images.receive(fleet, an_upload(job, position=position, data=data))
    return finish(fleet, job, AttemptState.COMPLETED, receipts=receipts or [])


def replayed(client: Client, fleet: Fleet, first: Job, *pictures: bytes, **more: Any) -> dict[str, Any]:
    """Replay a job, let a machine draw these pictures, and ask how near they came."""
    job_id = UUID(replay(client, first)["job_id"])
    assert claim(fleet, job_id) is not None
    drawn_with(fleet, the_job(fleet, job_id), *pictures, **more)
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}/replay").json
    return found


def almost(colour: tuple[int, int, int]) -> bytes:
    """Make the file of a red picture with one pixel of another colour."""
    picture = Pillow.new("RGB", (8, 8), (255, 0, 0))
    picture.putpixel((3, 3), colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_a_replay_has_the_very_same_order_whatever_the_catalogue_says_now(client: Client, fleet: Fleet) -> None:
    a_model(fleet, options={"steps": 20})
    first = a_completed_job(fleet, n=2, seed=5)
    with fleet.transaction() as tx:
        models.put(tx, an_entry(options={"steps": 4, "guidance_scale": 1.0}), origin="api")

    body = replay(client, first)

    again = the_job(fleet, UUID(body["job_id"]))
    assert again.spec == first.spec
    assert (body["replay_of"], body["retry_of"], again.is_replay) == (str(first.id), None, True)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PROCESSING, JobState.ERROR])
def test_only_what_was_drawn_can_be_replayed(client: Client, fleet: Fleet, state: JobState) -> None:
    job = a_job(fleet) if state == JobState.QUEUED else a_running_job(fleet)
    if state == JobState.ERROR:
        finish(fleet, job, AttemptState.ERROR, permanent=True)

    answer = client.post(f"/v1/jobs/{job.id}/replay", json={})

    assert (answer.status_code, answer.json["error"]["code"]) == (409, "not_replayable")
    assert str(state) in answer.json["error"]["message"]


def test_equal_pixels_are_equal_whatever_else_the_files_say(client: Client, fleet: Fleet) -> None:
    first = drawn_with(fleet, a_running_job(fleet), a_picture())
    bare = io.BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(bare, "PNG", compress_level=0)

    found = replayed(client, fleet, first, bare.getvalue())

    (picture,) = found["pictures"]
    assert (found["compared"], found["equal"], picture["equal"]) == (True, True, True)
    assert (picture["largest_difference"], picture["mean_difference"], picture["psnr"]) == (0, 0.0, None)


def test_a_difference_is_measured(client: Client, fleet: Fleet) -> None:
    first = drawn_with(fleet, a_running_job(fleet, n=2), a_picture(), a_picture())

    found = replayed(client, fleet, first, a_picture(), almost((255, 0, 12)))

    same, other = found["pictures"]
    assert (found["equal"], same["equal"], other["equal"]) == (False, True, False)
    assert other["largest_difference"] == 12
    assert other["mean_difference"] == pytest.approx(12 / (64 * 3))
    assert other["psnr"] == pytest.approx(49.38, abs=0.01)  # 10 lg(255² / (12² / 192))


def test_what_differs_in_the_receipts_is_named(client: Client, fleet: Fleet) -> None:
    first = drawn_with(fleet, a_running_job(fleet), a_picture(), receipts=[RECEIPT])
    newer = RECEIPT | {"versions": {"torch": "2.14.0", "diffusers": "0.42.1"}}
    newer["files"] = [{"model_id": MODEL, "path": "m.safetensors", "hash": "sha256:bb"}]

    (picture,) = replayed(client, fleet, first, a_picture(), receipts=[newer])["pictures"]

    assert picture["differs"] == {
        f"files.{MODEL}/m.safetensors": ["sha256:aa", "sha256:bb"],
        "versions.torch": ["2.13.0", "2.14.0"],
    }


def test_what_cannot_be_compared_says_why(client: Client, fleet: Fleet) -> None:
    first = drawn_with(fleet, a_running_job(fleet, n=2), a_picture(), a_picture())
    larger = io.BytesIO()
    Pillow.new("RGB", (16, 8), "red").save(larger, "PNG")
    stored = fleet.images
    assert isinstance(stored, MemoryImages)
    del stored.kept[first.images[1].key]

    found = replayed(client, fleet, first, larger.getvalue(), a_picture())

    assert found["equal"] is False
    assert [picture["equal"] for picture in found["pictures"]] == [None, None]
    assert "8 x 8 pixels and the new one 16 x 8" in found["pictures"][0]["problem"]
    assert "no longer in the store" in found["pictures"][1]["problem"]


def test_it_is_compared_once(client: Client, fleet: Fleet) -> None:
    first = drawn_with(fleet, a_running_job(fleet), a_picture())
    found = replayed(client, fleet, first, a_picture())
    stored = fleet.images
    assert isinstance(stored, MemoryImages)
    stored.kept.clear()

    assert client.get(f"/v1/jobs/{found['job_id']}/replay").json == found


def test_before_its_end_nothing_is_compared(client: Client, fleet: Fleet) -> None:
    first = a_completed_job(fleet)
    job_id = replay(client, first)["job_id"]

    found = client.get(f"/v1/jobs/{job_id}/replay").json

    assert (found["status"], found["compared"], found["equal"], found["pictures"]) == ("queued", False, None, [])
    assert client.get(f"/v1/jobs/{first.id}/replay").status_code == 404


def test_receipts_are_kept_beside_their_pictures(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet, n=3)
    too_long = {"files": "x" * LONGEST_RECEIPT}

    done = drawn_with(fleet, job, *[a_picture()] * 3, receipts=[RECEIPT, too_long])

    shown = [client.get(f"/v1/images/{image.id}/receipt").json["receipt"] for image in done.images]
    assert shown == [RECEIPT, None, None]
    assert client.get(f"/v1/images/{job.id}/receipt").status_code == 404


def test_a_replay_is_kept_for_the_kind_of_device_that_drew_the_first(
    client: Client, fleet: Fleet, clock: Clock, dispatcher: RecordingDispatcher
) -> None:
    first = _drawn_on(fleet, CARD)
    a_machine(fleet, "t4", ready_for=[MODEL], device=OTHER_CARD)
    a_machine(fleet, "l40s-2", ready_for=[MODEL], device=CARD)
    job_id = UUID(replay(client, first)["job_id"])

    others = claim(fleet, job_id, "t4")
    alike = claim(fleet, job_id, "l40s-2")

    assert others is None
    assert alike is not None
    assert Message("imagefleet.generate", f"machine.{MACHINE}", job_id) in dispatcher.sent


@pytest.mark.parametrize("seconds", [0.0, KEPT_FOR_OTHERS_SECONDS])
def test_where_there_is_none_of_that_kind_or_not_soon_any_machine_replays(
    client: Client, fleet: Fleet, clock: Clock, seconds: float
) -> None:
    first = _drawn_on(fleet, CARD)
    a_machine(fleet, "t4", ready_for=[MODEL], device=OTHER_CARD)
    if not seconds:
        a_machine(fleet, MACHINE, ready_for=[], device=CARD)  # it has given the model up
    job_id = UUID(replay(client, first)["job_id"])
    for _ in range(round(seconds)):
        let_pass(fleet, clock, 1.0)
        a_machine(fleet, MACHINE, ready_for=[MODEL], device=CARD)

    assert claim(fleet, job_id, "t4") is not None


def _drawn_on(fleet: Fleet, device: dict[str, str]) -> Job:
    job = a_job(fleet)
    a_machine(fleet, MACHINE, ready_for=[MODEL], device=device)
    assert claim(fleet, job.id) is not None
    return drawn_with(fleet, the_job(fleet, job.id), a_picture())


def claimed(client: Client, job_id: str) -> dict[str, Any]:
    """Have the machine claim a job; returns the answer."""
    body = {"machine_id": MACHINE, "boot_id": BOOT}
    answer = client.post(f"/machines/v1/jobs/{job_id}/claim", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def test_a_machine_that_replays_is_told_where_in_its_pass_each_picture_lay(client: Client, fleet: Fleet) -> None:
    seats: list[dict[str, Any]] = [{"together": 4, "row": 1, "left": [[0, 3]]}, {"together": 4, "row": 2}]
    receipts = [{**RECEIPT, **seat} for seat in seats]
    first = drawn_with(fleet, a_running_job(fleet, n=2), a_picture(), a_picture(), receipts=receipts)

    found = claimed(client, replay(client, first)["job_id"])

    assert found["seats"] == seats
    assert Claim.of(found).seats == [Seat(4, 1, ((0, 3),)), Seat(4, 2)]


@pytest.mark.parametrize("receipts", [[], [{**RECEIPT, "together": 4}] * 2, [{**RECEIPT, "together": 4, "row": 1}]])
def test_where_that_is_not_known_of_all_it_is_told_nothing(
    client: Client, fleet: Fleet, receipts: list[dict[str, Any]]
) -> None:
    first = drawn_with(fleet, a_running_job(fleet, n=2), a_picture(), a_picture(), receipts=receipts)

    found = claimed(client, replay(client, first)["job_id"])

    assert "seats" not in found


def test_a_job_that_is_no_replay_is_given_no_seats(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])

    assert "seats" not in claimed(client, str(a_job(fleet).id))
