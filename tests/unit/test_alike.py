"""Which orders one pass can draw together, and which passes take equally long."""

from typing import Any

import pytest

from app.core import alike
from app.core.extras import Hires, Lora
from app.core.spec import GenerationSpec

A_PICTURE = "0" * 64


def a_spec(**more: Any) -> GenerationSpec:
    given: dict[str, Any] = {"model_id": "a-model", "prompt": "a cat", "seed": 1, **more}
    return GenerationSpec(**given)


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a dog, (sitting:1.3)"},
        {"negative_prompt": "blurry"},
        {"seed": 5},
        {"n": 3},
        {"image_format": "webp"},
        {"subseed": 3},
    ],
    ids=str,
)
def test_words_seeds_and_files_may_differ_in_a_pass(other: dict[str, Any]) -> None:
    assert alike.key_of(a_spec(**other)) == alike.key_of(a_spec())


@pytest.mark.parametrize(
    "other",
    [
        {"model_id": "other"},
        {"width": 64, "height": 64},
        {"steps": 9},
        {"guidance_scale": 1.0},
        {"scheduler": "Euler a"},
        {"clip_skip": 2},
        {"loras": (Lora(model_id="l"),)},
        {"embeddings": ("e",)},
        {"vae_id": "v"},
        {"subseed_strength": 0.5},
        {"safety_check": True},
        {"remove_background": "b"},
        {"prompt": "a cat, " * 80},
    ],
    ids=lambda other: next(iter(other)),
)
def test_nothing_else_may(other: dict[str, Any]) -> None:
    assert alike.key_of(a_spec(**other)) != alike.key_of(a_spec())


def test_orders_that_begin_with_a_picture_or_are_gone_over_twice_are_drawn_alone() -> None:
    assert alike.key_of(a_spec(image=A_PICTURE)) is None
    assert alike.key_of(a_spec(hires=Hires())) is None


def test_a_kind_is_what_decides_how_long_a_pass_takes() -> None:
    kind = alike.kind_of(a_spec(prompt="a dog", loras=(Lora(model_id="l"),), n=3))

    assert kind == alike.kind_of(a_spec())
    for other in ({"steps": 9}, {"width": 64, "height": 64}, {"scheduler": "Heun"}, {"guidance_scale": 1.0}):
        assert alike.kind_of(a_spec(**other)) != kind
