"""The checker of the demo model's pictures: right on every true picture, and it says no to every wrong one."""

from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.shape_checker import COLOURS, Findings, Wishes, check, look, parse
from tools.demo_model import shapes
from tools.demo_model.shapes import PLACES, SHAPES, SIZES, Scene, draw


def seen(scene: Scene) -> Findings:
    """Return what the checker must find in a picture of this scene."""
    return Findings(scene.colour, scene.background, scene.shape, scene.size, scene.place)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_known_in_every_size_and_place(shape: str) -> None:
    rng = np.random.default_rng(1)

    for size, place in product(SIZES, PLACES):
        scene = Scene(shape, "yellow", "blue", size, place)
        assert look(draw(scene)) == seen(scene)
        assert look(draw(scene, rng)) == seen(scene)


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_known_on_every_other(colour: str) -> None:
    for background in set(COLOURS) - {colour}:
        scene = Scene("heart", colour, background, "medium", "bottom left")
        assert look(draw(scene)) == seen(scene)


@pytest.mark.parametrize("side", [64, 96, 256])
def test_the_size_of_the_picture_does_not_matter(side: int) -> None:
    for shape in SHAPES:
        scene = Scene(shape, "white", "black", "medium", "right")
        assert look(draw(scene, side=side)) == seen(scene)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_blurred_and_noisy_picture_is_still_read(shape: str) -> None:
    scene = Scene(shape, "orange", "yellow", "medium", "top")
    pixels = np.asarray(draw(scene).filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float64)
    pixels += np.random.default_rng(2).normal(0, 8, pixels.shape)

    found = look(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))

    assert found == seen(scene)


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a large red circle on a blue background in the top left", ()),
        ("a green circle on a blue background", ("colour",)),
        ("a red circle on a white background", ("background",)),
        ("a red ring on a blue background", ("shape",)),
        ("a small red circle on a blue background", ("size",)),
        ("a red circle on a blue background in the center", ("place",)),
        ("a small green star on a gray background at the bottom", ("colour", "background", "shape", "size", "place")),
    ],
)
def test_each_broken_wish_is_named(prompt: str, wrong: tuple[str, ...]) -> None:
    picture = draw(Scene("circle", "red", "blue", "large", "top left"))

    assert check(picture, prompt).wrong == wrong


@pytest.mark.parametrize("wished", SHAPES)
def test_no_shape_passes_for_another(wished: str) -> None:
    for drawn in SHAPES:
        found = check(draw(Scene(drawn, "black", "white")), Wishes(shape=wished))
        assert found.wrong == (() if drawn == wished else ("shape",))


def test_a_prompt_is_read_in_all_its_forms() -> None:
    prompt = "A photo of a Small grey Star on an orange background in the centre, best quality"

    assert parse(prompt) == Wishes("gray", "orange", "star", "small", "center")
    assert parse("a heart on the left") == Wishes(shape="heart", place="left")
    assert parse("a cat") == Wishes()


def test_an_empty_picture_shows_only_its_background() -> None:
    picture = Image.new("RGB", (128, 128), "white")

    found = check(picture, "a red circle on a white background")

    assert (found.shape, found.colour, found.background) == (None, None, "white")
    assert found.wrong == ("colour", "shape")


def test_noise_is_no_shape() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)

    assert look(Image.fromarray(noise)).shape is None


def test_the_checker_and_the_renderer_mean_the_same_colours() -> None:
    assert shapes.COLOURS == COLOURS
