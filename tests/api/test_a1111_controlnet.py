"""ControlNet in the words of the extension sd-webui-controlnet: units that steer an order, and its lists."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.api.application import make_application
from app.core.extras import Control
from app.core.fleet import Fleet
from app.core.spec import GenerationSpec
from app.settings import Settings
from tests.api.test_a1111 import API, drawing, the_body
from tests.builders import a_machine, a_model, a_picture, the_job
from tests.support.fakes import RecordingDispatcher

RED = base64.b64encode(a_picture("red")).decode()
BLUE = base64.b64encode(a_picture("blue")).decode()
SHA = "d14c016b" + "ab" * 28

UNIT = {
    "image": RED,
    "mask": None,
    "module": "none",
    "model": "control_v11p_sd15_canny [d14c016b]",
    "weight": 1.0,
    "resize_mode": "Resize and Fill",
    "low_vram": False,
    "processor_res": 512,
    "threshold_a": 64,
    "threshold_b": 64,
    "guidance_start": 0.0,
    "guidance_end": 1.0,
    "control_mode": "Balanced",
    "pixel_perfect": False,
    "hr_option": "Both",
    "enabled": True,
}
"""What webuiapi sends for a unit of which little is said."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Take one kind: what depends on it is asked in test_controls."""
    return sqlite_url


@pytest.fixture(autouse=True)
def catalogue(fleet: Fleet) -> None:
    """Have a checkpoint that a live machine is ready for, and ControlNets for it."""
    a_model(fleet, "sd", base="sd15", options={"width": 128, "height": 64})
    name = "control_v11p_sd15_canny.safetensors"
    a_model(fleet, "edges", kind="controlnet", base="sd15", name=name, hash=SHA, tags=["canny"])
    a_model(fleet, "near-far", kind="controlnet", base="sd15", name="midas-sd15.safetensors")
    a_model(fleet, "edges-xl", kind="controlnet", base="sdxl", name="xl-canny.safetensors", tags=["canny"])
    a_machine(fleet, ready_for=["sd"])


@pytest.fixture
def hasty(fleet: Fleet, settings: Settings) -> FlaskClient:
    """Return a client of a server that waits for no picture."""
    return make_application(fleet, replace(settings, a1111_wait_seconds=0)).test_client()


@pytest.fixture
def steered(hasty: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher) -> Callable[..., tuple[Control, ...]]:
    """Return what orders a picture with units, and reads what steers it."""

    def order(*units: Any, path: str = "txt2img", script: str = "ControlNet", **more: Any) -> tuple[Control, ...]:
        body = {"prompt": "a cat", "alwayson_scripts": {script: {"args": list(units)}}, **more}
        answer = hasty.post(f"{API}/{path}", json=body)
        assert answer.status_code == 504, answer.text  # the job waits, and nobody waits for it
        return GenerationSpec.from_json(the_job(fleet, dispatcher.sent[-1].job_id).spec).controls

    return order


@pytest.mark.parametrize("script", ["ControlNet", "controlnet"])
def test_a_unit_steers_with_the_controlnet_that_it_names(
    script: str, steered: Callable[..., tuple[Control, ...]]
) -> None:
    unit = {**UNIT, "weight": 0.5, "guidance_start": 0.1, "guidance_end": 0.8}

    (control,) = steered(unit, script=script)

    assert (control.model_id, control.kind, control.annotate) == ("edges", "canny", False)
    assert (control.weight, control.start, control.end, control.resize_mode) == (0.5, 0.1, 0.8, "fill")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"model": "control_v11p_sd15_canny"}, {"model_id": "edges"}),
        ({"model": "edges"}, {"model_id": "edges"}),
        ({"model": "near-far"}, {"model_id": "near-far", "kind": "depth"}),
        ({"model": "None", "module": "canny"}, {"model_id": "edges", "kind": "canny", "annotate": True}),
        ({"module": "canny"}, {"model_id": "edges", "kind": "canny", "annotate": True}),
        ({"resize_mode": 0}, {"resize_mode": "stretch"}),
        ({"resize_mode": None}, {"resize_mode": "crop"}),
        ({"resize_mode": "Crop and Resize"}, {"resize_mode": "crop"}),
        ({"control_mode": 0}, {"kind": "canny"}),
        ({"weight": None}, {"weight": 1.0}),
        ({"image": {"image": RED, "mask": None}}, {"kind": "canny"}),
        ({"image": "", "input_image": f"data:image/png;base64,{RED}"}, {"kind": "canny"}),
    ],
)
def test_a_unit_is_read_in_each_of_its_spellings(
    given: Mapping[str, Any], found: Mapping[str, Any], steered: Callable[..., tuple[Control, ...]]
) -> None:
    (control,) = steered({**UNIT, **given})

    assert {name: getattr(control, name) for name in found} == found


def test_several_units_steer_together_and_those_that_are_switched_off_do_not(
    steered: Callable[..., tuple[Control, ...]],
) -> None:
    off = [{**UNIT, "enabled": False}, {"enabled": True, "model": "None", "module": "none"}, None, False]

    found = steered(UNIT, *off, {**UNIT, "model": "near-far", "image": BLUE})

    assert [control.model_id for control in found] == ["edges", "near-far"]
    assert len({control.image for control in found}) == 2


@pytest.mark.parametrize("args", [[], [False], [{**UNIT, "enabled": False}]])
def test_an_extension_that_asks_for_nothing_changes_nothing(
    args: list[Any], steered: Callable[..., tuple[Control, ...]]
) -> None:
    assert steered(*args) == ()


def test_a_unit_without_a_picture_looks_at_the_one_to_begin_with(
    hasty: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    scripts = {"controlnet": {"args": [{**UNIT, "image": ""}]}}

    hasty.post(f"{API}/img2img", json={"prompt": "x", "init_images": [BLUE], "alwayson_scripts": scripts})

    spec = GenerationSpec.from_json(the_job(fleet, dispatcher.sent[-1].job_id).spec)
    assert spec.controls[0].image == spec.image


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ({"model": "crayon"}, "ControlNet 'crayon' not found; GET /controlnet/model_list"),
        ({"model": "None", "module": "lineart"}, "'lineart' cannot be done here; GET /controlnet/module_list"),
        ({"image": ""}, "there is no control picture"),
        ({"image": "no picture"}, "neither"),
        ({"control_mode": "My prompt is more important"}, "leave it Balanced"),
        ({"control_mode": 2}, "leave it Balanced"),
        ({"mask": RED}, "mask"),
        ({"resize_mode": "Sideways"}, "Just Resize"),
        ({"weight": 3}, "from 0 to 2"),
        ({"weight": "heavy"}, "from 0 to 2"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "start to end"),
        ({"model": "xl-canny"}, "bases differ"),
        ({"module": ["canny"]}, "cannot be done here"),
        ({"resize_mode": [1]}, "Just Resize"),
        ({"control_mode": {}}, "leave it Balanced"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(unit: Mapping[str, Any], told: str, hasty: FlaskClient) -> None:
    scripts = {"ControlNet": {"args": [{**UNIT, **unit}]}}

    answer = hasty.post(f"{API}/txt2img", json={"prompt": "a cat", "alwayson_scripts": scripts})

    assert answer.status_code == 422, answer.text
    assert told in answer.text.replace('\\"', '"')


@pytest.mark.parametrize("args", [["edges"], [7], [[UNIT]], [UNIT] * 9])
def test_what_is_no_unit_is_refused(args: list[Any], hasty: FlaskClient) -> None:
    answer = hasty.post(f"{API}/txt2img", json={"prompt": "x", "alwayson_scripts": {"controlnet": {"args": args}}})

    assert answer.status_code == 422
    assert "alwayson_scripts.controlnet.args" in answer.text


def test_other_extensions_are_still_refused_by_name(hasty: FlaskClient) -> None:
    scripts = {"controlnet": {"args": []}, "reactor": {"args": [True]}}

    answer = hasty.post(f"{API}/txt2img", json={"prompt": "x", "alwayson_scripts": scripts})

    assert (answer.status_code, the_body(answer)["detail"]) == (422, "always on script reactor not found")


def test_a_picture_tells_what_steered_it(client: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher) -> None:
    with drawing(fleet, dispatcher):
        answer = client.post(f"{API}/txt2img", json={"alwayson_scripts": {"ControlNet": {"args": [UNIT]}}})

    info = json.loads(the_body(answer)["info"])
    told = "Module: none, Model: edges, Weight: 1.0, Guidance Start: 0.0, Guidance End: 1.0"
    assert info["extra_generation_params"]["ControlNet 0"] == told
    assert f'ControlNet 0: "{told}"' in info["infotexts"][0]


def test_the_extensions_lists_are_the_catalogues(client: FlaskClient) -> None:
    models = the_body(client.get("/a1111/controlnet/model_list"))["model_list"]
    modules = the_body(client.get("/a1111/controlnet/module_list"))
    types = the_body(client.get("/a1111/controlnet/control_types"))["control_types"]

    assert models == ["control_v11p_sd15_canny [d14c016b]", "xl-canny", "midas-sd15"]
    assert {"none", "canny", "depth_midas", "openpose_full", "mediapipe_face"} <= set(modules["module_list"])
    assert set(modules["module_detail"]) == set(modules["module_list"])
    assert types["Depth"] == {
        "module_list": ["none", "depth", "depth_midas", "depth_anything", "depth_anything_v2"],
        "model_list": ["None", "midas-sd15"],
        "default_option": "depth",
        "default_model": "midas-sd15",
    }
    assert types["All"]["model_list"] == ["None", *models]
    assert the_body(client.get("/a1111/controlnet/version")) == {"version": 2}
    assert the_body(client.get("/a1111/controlnet/settings")) == {"control_net_unit_count": 8}
