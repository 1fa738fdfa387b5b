"""What an order leaves to the server is chosen from the catalogue, or refused with what to add."""

from dataclasses import replace
from typing import Any

import pytest

from app.core import jobs
from app.core.errors import InvalidSpec
from app.core.extras import USUAL, Control
from app.core.fleet import Fleet, Limits
from app.core.jobs import Terms
from app.core.tables import Input, Job
from tests.builders import a_completed_job, a_job, a_model, the_job


def a_control(**more: Any) -> Control:
    return Control(**{"image": "a" * 64, "kind": "openpose", **more})


@pytest.fixture(autouse=True)
def picture(fleet: Fleet) -> None:
    """Keep the picture that the orders here name."""
    with fleet.transaction() as tx:
        tx.session.add(
            Input(
                sha256="a" * 64,
                key="k",
                media_type="image/png",
                width=8,
                height=8,
                size_bytes=1,
                created_at=tx.now,
                used_at=tx.now,
            )
        )


def steered(fleet: Fleet, **more: Any) -> Job:
    return a_job(fleet, model_id="sd", controls=(a_control(**more),))


def test_the_controlnet_of_the_kind_and_the_base_is_taken(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "canny-15", kind="controlnet", base="sd15", tags=["canny"])
    a_model(fleet, "pose-xl", kind="controlnet", base="sdxl", tags=["openpose"])
    a_model(fleet, "pose-15", kind="controlnet", base="SD 1.5", options={"control": "openpose"})

    job = steered(fleet)

    assert job.spec["controls"][0]["model_id"] == "pose-15"


def test_what_is_named_is_taken_whatever_it_is_tagged(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "any", kind="controlnet")

    assert steered(fleet, model_id="any").spec["controls"][0]["model_id"] == "any"


def test_midas_is_a_word_for_depth(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "midas", kind="controlnet", base="sd15", tags=["midas"])

    assert steered(fleet, kind="depth").spec["controls"][0]["model_id"] == "midas"


def test_without_a_fitting_controlnet_the_order_is_told_what_to_add(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "pose-xl", kind="controlnet", base="sdxl", tags=["openpose"])

    with pytest.raises(InvalidSpec, match=r"no ControlNet for openpose and sd15.*tagged openpose.*model_id"):
        steered(fleet)


def test_several_that_fit_are_named(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    for name in ("one", "two"):
        a_model(fleet, name, kind="controlnet", base="sd15", tags=["openpose"])

    with pytest.raises(InvalidSpec, match=r"several ControlNets for openpose fit sd: one, two; name one"):
        steered(fleet)


@pytest.mark.parametrize(
    ("kind", "words"), [("lora", "is a lora, and not a controlnet"), (None, "not in the catalogue")]
)
def test_a_named_model_that_is_none_is_refused(fleet: Fleet, kind: str | None, words: str) -> None:
    a_model(fleet, "sd", base="sd15")
    if kind:
        a_model(fleet, "net", kind=kind)

    with pytest.raises(InvalidSpec, match=words):
        steered(fleet, model_id="net")


def test_a_named_controlnet_of_another_base_is_refused(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "pose-xl", kind="controlnet", base="sdxl")

    with pytest.raises(InvalidSpec, match=r"pose-xl.*made for sdxl"):
        steered(fleet, model_id="pose-xl")


def test_depth_from_a_photo_takes_the_model_that_estimates_it(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "depth-net", kind="controlnet", base="sd15", tags=["depth"])

    with pytest.raises(InvalidSpec, match=r"one of kind onnx that is tagged depth"):
        steered(fleet, kind="depth", annotate=True)

    a_model(fleet, "midas-small", kind="onnx", tags=["depth"])
    a_model(fleet, "u2net", kind="onnx", tags=["background"])
    assert steered(fleet, kind="depth", annotate=True).spec["controls"][0]["annotator"] == "midas-small"
    assert steered(fleet, kind="depth").spec["controls"][0]["annotator"] is None


def test_edges_from_a_photo_need_no_model(fleet: Fleet) -> None:
    a_model(fleet, "sd", base="sd15")
    a_model(fleet, "canny", kind="controlnet", base="sd15", tags=["canny"])

    assert steered(fleet, kind="canny", annotate=True).spec["controls"][0]["annotator"] is None


def test_the_usual_cut_out_is_the_one_that_is_tagged_and_free_for_all(fleet: Fleet) -> None:
    a_model(fleet, "depth", kind="onnx", tags=["depth"])
    a_model(fleet, "rmbg-2", kind="onnx", tags=["background"], download_url="hf://briaai/RMBG-2.0/onnx/model.onnx")
    a_model(fleet, "isnet", kind="onnx", tags=["background"], options={"license": "cc-by-nc-4.0"})
    a_model(fleet, "birefnet", kind="onnx", tags=["background"], options={"license": "MIT"})

    job = a_job(fleet, remove_background=USUAL)

    assert job.spec["remove_background"] == "birefnet"


def test_one_that_is_not_for_all_is_taken_only_when_it_is_named(fleet: Fleet) -> None:
    a_model(fleet, "rmbg-2", kind="onnx", tags=["background"])

    with pytest.raises(InvalidSpec, match=r"no model for it.*BiRefNet.*or name rmbg-2 itself"):
        a_job(fleet, remove_background=USUAL)

    assert a_job(fleet, remove_background="rmbg-2").spec["remove_background"] == "rmbg-2"


def test_several_cut_outs_want_a_setting(fleet: Fleet) -> None:
    for name in ("one", "two"):
        a_model(fleet, name, kind="onnx", tags=["background"])

    with pytest.raises(InvalidSpec, match=r"several models could do it, one, two; set BACKGROUND_MODEL"):
        a_job(fleet, remove_background=USUAL)

    known = replace(fleet, limits=Limits(background_model="two"))
    assert a_job(known, remove_background=USUAL).spec["remove_background"] == "two"
    wrong = replace(fleet, limits=Limits(background_model="three"))
    with pytest.raises(InvalidSpec, match=r"BACKGROUND_MODEL is 'three', and no such model"):
        a_job(wrong, remove_background=USUAL)


def test_a_cut_out_cannot_be_a_jpeg(fleet: Fleet) -> None:
    with pytest.raises(InvalidSpec, match="jpeg cannot be: image_format png or webp"):
        a_job(fleet, remove_background=USUAL, image_format="jpeg")


def test_nothing_is_checked_unless_somebody_asks(fleet: Fleet) -> None:
    a_model(fleet, "safety", kind="safety")

    job = a_job(fleet)

    assert (job.spec["safety_check"], job.spec["safety_checker"]) == (False, None)


def test_an_order_that_asks_is_checked_by_the_catalogues_checker(fleet: Fleet) -> None:
    with pytest.raises(InvalidSpec, match=r"safety_check: no model for it.*safety_checker/model.safetensors"):
        a_job(fleet, safety_check=True)

    a_model(fleet, "safety", kind="safety")
    assert a_job(fleet, safety_check=True).spec["safety_checker"] == "safety"


def test_a_server_can_have_everything_checked_also_what_was_ordered_before(fleet: Fleet) -> None:
    before = a_completed_job(fleet)
    a_model(fleet, "safety", kind="safety")
    a_model(fleet, "other", kind="safety")
    strict = replace(fleet, limits=Limits(safety_check=True, safety_model="safety"))

    job = a_job(strict)
    with strict.transaction() as tx:
        again = jobs.again(tx, before.id).id
        replayed = jobs.again(tx, before.id, Terms(is_replay=True)).id

    assert (job.spec["safety_check"], job.spec["safety_checker"]) == (True, "safety")
    assert the_job(fleet, again).spec["safety_checker"] == "safety"
    assert the_job(fleet, replayed).spec["safety_checker"] == "safety"


def test_several_checkers_want_a_setting(fleet: Fleet) -> None:
    for name in ("one", "two"):
        a_model(fleet, name, kind="safety")

    with pytest.raises(InvalidSpec, match=r"several models could do it, one, two; set SAFETY_MODEL"):
        a_job(fleet, safety_check=True)
