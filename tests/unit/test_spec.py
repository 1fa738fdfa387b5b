"""One order: what can be drawn at all, and that it survives being written down."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import samplers
from app.core.errors import InvalidSpec
from app.core.spec import (
    IMAGE_FORMATS,
    MAX_CLIP_SKIP,
    MAX_SEED,
    PIXEL_GRID,
    SCHEDULERS,
    GenerationSpec,
    nth_seed,
    option_problems,
)

SIZES = st.none() | st.integers(1, 512).map(lambda cells: cells * PIXEL_GRID)
ORDERS = st.builds(
    GenerationSpec,
    model_id=st.text(min_size=1),
    prompt=st.text(),
    negative_prompt=st.text(),
    steps=st.none() | st.integers(1, 1000),
    guidance_scale=st.none() | st.floats(0, 100),
    width=SIZES,
    height=SIZES,
    seed=st.none() | st.integers(0, MAX_SEED),
    subseed=st.none() | st.integers(0, MAX_SEED),
    subseed_strength=st.floats(0, 1),
    n=st.integers(1, 64),
    clip_skip=st.none() | st.integers(1, MAX_CLIP_SKIP),
    scheduler=st.none() | st.sampled_from(SCHEDULERS),
    image_format=st.sampled_from(IMAGE_FORMATS),
    image_quality=st.none() | st.integers(0, 100),
)


def an_order(**more: Any) -> GenerationSpec:
    return GenerationSpec(**({"model_id": "a-model", "prompt": "a red circle"} | more))


@given(ORDERS)
def test_an_order_survives_json(order: GenerationSpec) -> None:
    assert GenerationSpec.from_json(json.loads(json.dumps(order.to_json()))) == order


@given(ORDERS, st.dictionaries(st.text(min_size=20), st.integers()))
def test_fields_of_a_newer_version_are_ignored(order: GenerationSpec, news: dict[str, int]) -> None:
    assert GenerationSpec.from_json(order.to_json() | news) == order


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("width", -8),
        ("width", 7),
        ("width", 100),
        ("height", 0),
        ("height", 513),
        ("steps", 0),
        ("steps", -1),
        ("n", 0),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("subseed", -1),
        ("subseed_strength", 1.1),
        ("subseed_strength", -0.5),
        ("clip_skip", 0),
        ("clip_skip", 13),
        ("scheduler", "euler"),
        ("image_format", "gif"),
        ("image_quality", 101),
        ("image_quality", -1),
    ],
)
def test_what_can_never_be_drawn_is_refused_with_the_field_and_the_value(field: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as refused:
        an_order(**{field: value})

    assert field in str(refused.value)
    assert str(value) in str(refused.value)


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ("Restart", "Heun Karras is the nearest"),
        ("DPM adaptive Karras", "chooses its own number of steps"),
        ("Euler a Karras", "schedules that can follow a sampler's name are SGM Uniform, DDIM"),
        ("crayon", "known are DPM\\+\\+ 2M, "),
    ],
)
def test_a_sampler_that_there_is_not_is_refused_with_the_reason(scheduler: str, told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        an_order(scheduler=scheduler)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_samplers_name_comes_apart_and_together_again(name: str) -> None:
    assert samplers.name_of(*samplers.split(name)) == name
    assert samplers.split(name)[0] in samplers.SAMPLERS


def test_behind_the_last_seed_comes_the_first() -> None:
    assert [nth_seed(MAX_SEED, position) for position in range(3)] == [MAX_SEED, 0, 1]


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidSpec) as refused:
        an_order(width=7, steps=0, scheduler="none", image_format="bmp")

    assert len(refused.value.facts["problems"]) == 4


def test_a_wrong_size_comes_with_the_nearest_right_one() -> None:
    with pytest.raises(InvalidSpec, match="not 510; 512 is the nearest"):
        an_order(width=510)


def test_what_an_order_leaves_open_comes_from_the_models_options() -> None:
    options = {
        "steps": {"min": 10, "max": 40, "default": 20},
        "guidance_scale": 3.5,
        "width": 512,
        "height": {"min": 64, "max": 1024, "default": 768},
        "scheduler": "Euler",
    }

    filled = an_order(width=256).with_defaults(options)

    assert (filled.steps, filled.guidance_scale, filled.scheduler) == (20, 3.5, "Euler")
    assert (filled.width, filled.height) == (256, 768)


def test_a_fixed_number_of_steps_stands_before_a_default() -> None:
    assert an_order().with_defaults({"fixed_steps": 2, "steps": {"default": 20}}).steps == 2


def test_options_without_defaults_leave_an_order_as_it_is() -> None:
    assert an_order().with_defaults({"steps": {"min": 1, "max": 4}, "colour": "red"}) == an_order()


@pytest.mark.parametrize(
    "options",
    [
        {"steps": "20"},
        {"steps": True},
        {"steps": {"default": 1.5}},
        {"fixed_steps": [25]},
        {"scheduler": 1},
        {"width": {"default": "512"}},
    ],
)
def test_options_of_the_wrong_type_are_named(options: dict[str, Any]) -> None:
    (problem,) = option_problems(options)

    assert f"options.{next(iter(options))}" in problem


def test_options_of_other_names_are_let_be() -> None:
    assert option_problems({"style": ["anything"], "steps": None}) == []
