"""Steering and finishing as v1's clients ask for them, and as machines are told."""

import base64
from typing import Any
from uuid import UUID

import pytest

from app.core.fleet import Fleet
from tests.builders import BOOT, MACHINE, a_machine, a_model, a_picture, an_upload, the_job
from tests.support.web import Client

RED, BLUE = (base64.b64encode(a_picture(colour)).decode() for colour in ("red", "blue"))


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with a model, ControlNets, a cut-out and a safety checker."""
    a_model(fleet, "sd", base="sd15")
    for kind, word in (("openpose", "openpose"), ("depth", "midas"), ("mediapipe", "mediapipe")):
        a_model(fleet, f"{kind}-net", kind="controlnet", base="sd15", tags=[word])
    a_model(fleet, "cutter", kind="onnx", tags=["background"], options={"background": {"size": 320}})
    a_model(fleet, "safety", kind="safety")
    return client


def order(client: Client, **given: Any) -> Any:
    return client.post("/v1/jobs", json={"model_id": "sd", "prompt": "a cat", **given})


def ordered(client: Client, **given: Any) -> Any:
    answer = order(client, **given)
    assert answer.status_code == 202, answer.json
    return answer.json["parameters"]


def test_controls_are_taken_with_what_is_left_to_the_server(stocked: Client) -> None:
    given = [{"image": RED, "kind": "depth", "weight": 0.5, "end": 0.8}, {"image": BLUE, "model_id": "openpose-net"}]

    first, second = ordered(stocked, controls=given)["controls"]

    assert (first["model_id"], first["weight"], first["start"], first["end"]) == ("depth-net", 0.5, 0, 0.8)
    assert (second["model_id"], second["kind"], second["weight"]) == ("openpose-net", "openpose", 1)
    assert len({first["image"], second["image"]}) == 2
    assert {len(each["image"]) for each in (first, second)} == {64}


def test_a_picture_that_was_uploaded_is_named(stocked: Client) -> None:
    uploaded = stocked.post("/v1/inputs", data=a_picture("green"), content_type="image/png").json["input_id"]

    (control,) = ordered(stocked, controls=[{"image": uploaded}])["controls"]

    assert control["image"] == uploaded


def test_the_poses_of_seed_000_are_controls(stocked: Client) -> None:
    poses = {"openpose_blob": RED, "midaspose_blob": BLUE, "mediapipe_blob": f"data:image/png;base64,{RED}"}

    parameters = ordered(stocked, poses=poses, controls=[{"image": BLUE, "kind": "openpose"}])

    assert [each["model_id"] for each in parameters["controls"]] == [
        "openpose-net",
        "openpose-net",
        "depth-net",
        "mediapipe-net",
    ]
    assert "poses" not in parameters


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"controls": [{"image": RED, "kind": "sketch"}]}, "controls.0.kind"),
        ({"controls": [{"kind": "canny"}]}, "controls.0.image"),
        ({"controls": [{"image": RED, "start": 0.5, "end": 0.5}]}, "controls.0.end"),
        ({"controls": [{"image": RED, "weight": 3}]}, "controls.0.weight"),
        ({"controls": [{"image": "no picture"}]}, "controls.0.image"),
        ({"poses": {"openpose_blob": "bm8gcGljdHVyZQ=="}}, "poses.openpose_blob"),
        ({"poses": {"yoga_blob": RED}}, "poses.yoga_blob"),
        ({"remove_background": 1}, "remove_background"),
        ({"remove_background": ""}, "remove_background"),
        ({"remove_background": "*"}, "remove_background"),
        ({"safety_check": "perhaps"}, "safety_check"),
    ],
)
def test_what_cannot_be_read_is_named(stocked: Client, given: dict[str, Any], field: str) -> None:
    answer = order(stocked, **given)

    assert answer.status_code == 422
    assert field in str(flattened(answer.json["error"]["fields"]))


def flattened(fields: Any, prefix: str = "") -> list[str]:
    """Return the paths of all fields that something is said about."""
    if not isinstance(fields, dict):
        return [prefix]
    return [path for name, each in fields.items() for path in flattened(each, f"{prefix}.{name}".lstrip("."))]


@pytest.mark.parametrize(("given", "taken"), [(True, "cutter"), ("cutter", "cutter"), (False, None)])
def test_the_background_is_removed_by_the_usual_model_or_the_one_named(
    stocked: Client, given: Any, taken: str | None
) -> None:
    assert ordered(stocked, remove_background=given).get("remove_background") == taken


def test_a_cut_out_that_is_no_onnx_model_is_refused(stocked: Client) -> None:
    for name, words in (("sd", "is a checkpoint, and not a onnx"), ("nobody", "not in the catalogue")):
        answer = order(stocked, remove_background=name)

        assert answer.status_code == 422
        assert words in answer.json["error"]["message"]


def test_a_see_through_jpeg_is_refused(stocked: Client) -> None:
    answer = order(stocked, remove_background=True, image_format="jpeg")

    assert answer.status_code == 422
    assert "image_format png or webp" in answer.json["error"]["message"]


def test_an_order_can_ask_to_be_checked(stocked: Client) -> None:
    assert ordered(stocked, safety_check=True)["safety_checker"] == "safety"
    assert "safety_checker" not in ordered(stocked)


def test_a_machine_is_told_how_the_models_are_used(stocked: Client, fleet: Fleet) -> None:
    job_id = order(stocked, remove_background=True, controls=[{"image": RED}]).json["job_id"]
    a_machine(fleet, ready_for=["sd"])

    claim = stocked.post(f"/machines/v1/jobs/{job_id}/claim", json={"machine_id": MACHINE, "boot_id": BOOT}).json

    assert claim["companions"]["cutter"]["options"] == {"background": {"size": 320}}
    assert claim["companions"]["openpose-net"]["kind"] == "controlnet"


def test_what_the_checker_said_is_shown_with_the_picture(stocked: Client, fleet: Fleet) -> None:
    from app.core import attempts, images  # noqa: PLC0415  # of this test alone
    from app.core.attempts import Outcome  # noqa: PLC0415  # as above
    from app.core.lifecycle import AttemptState  # noqa: PLC0415  # as above
    from tests.builders import claim  # noqa: PLC0415  # as above

    job_id = UUID(order(stocked, safety_check=True, n=2).json["job_id"])
    a_machine(fleet, ready_for=["sd"])
    claim(fleet, job_id)
    for position in range(2):
        images.receive(fleet, an_upload(the_job(fleet, job_id), position=position))
    receipts = [{"notes": ["it is black"]}, {}]
    with fleet.transaction() as tx:
        attempts.finish(tx, job_id, 1, MACHINE, Outcome(AttemptState.COMPLETED, receipts=receipts))

    shown = stocked.get(f"/v1/jobs/{job_id}").json["images"]

    assert [image["notes"] for image in shown] == [["it is black"], []]
