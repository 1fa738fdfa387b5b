"""Previews: what latents look like, by one small matrix."""

import numpy as np
import pytest
from PIL import Image

from app import catalogue
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order, Step
from tasks.machine.drivers.previews import KNOWN, Floats, LatentColours, image_shaped

# numpy's complaint about how torch hands over its tensors: between these two, and the pictures are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


LESSONS = (
    "a large green square on a white background",
    "a yellow triangle on a black background",
    "a small white square on a red background",
    "a blue square on a green background",
)
"""A map of four channels cannot be learnt from two colours."""


def likeness(one: Image.Image, other: Image.Image) -> float:
    """Return the correlation of two pictures over all pixels and colours, -1 to 1."""
    first, second = (np.asarray(image.convert("RGB").resize((16, 16)), dtype=float).ravel() for image in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def a_scene(seed: int, size: int = 16) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8), "RGB")


def latents_of(image: Image.Image, channels: int) -> Floats:
    """Encode a picture linearly into latents, as a tiny autoencoder of our own would."""
    mix = np.random.default_rng(7).normal(size=(channels, 3))
    pixels = np.asarray(image, dtype=float) / 127.5 - 1
    latents: Floats = np.einsum("ck,yxk->cyx", mix, pixels)
    return latents


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_colours_are_learnt_from_the_pictures_a_pipeline_draws(channels: int) -> None:
    colours = LatentColours()
    new = a_scene(9)
    colours.learn(latents_of(a_scene(1), channels), a_scene(1))

    seen = colours.picture(latents_of(new, channels))

    assert seen.size == new.size
    assert likeness(seen, new) > 0.99


def test_a_picture_of_one_colour_and_a_broken_one_spoil_nothing() -> None:
    colours = LatentColours()
    grey = Image.new("RGB", (16, 16), "gray")
    colours.learn(latents_of(grey, 4), grey)
    colours.learn(np.full((4, 16, 16), np.nan), grey)
    colours.learn(latents_of(a_scene(1), 4), a_scene(1))

    assert likeness(colours.picture(latents_of(a_scene(2), 4)), a_scene(2)) > 0.95


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
def test_latents_of_which_nothing_is_known_are_shown_anyhow(channels: int) -> None:
    latents = np.random.default_rng(1).normal(size=(channels, 8, 12))

    seen = LatentColours().picture(latents)

    assert seen.size == (12, 8)
    assert len(seen.getcolors(1000) or []) > 10


@pytest.mark.parametrize("scaling_factor", [factor for _, factor in KNOWN])
def test_the_published_maps_show_more_of_a_channel_as_another_colour(scaling_factor: float) -> None:
    colours = LatentColours(scaling_factor)
    dark, light = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    light[0] = 1.5

    means = [np.asarray(colours.picture(latents)).mean() for latents in (dark, light)]

    assert means[1] > means[0] + 20


def test_latents_that_flux_has_packed_are_unpacked_to_the_shape_of_the_picture() -> None:
    latents = np.arange(16 * 6 * 4, dtype=float).reshape(16, 6, 4)
    # diffusers 0.42, FluxPipeline._pack_latents, without the batch
    packed = latents.reshape(16, 3, 2, 2, 2).transpose(1, 3, 0, 2, 4).reshape(6, 64)

    assert np.array_equal(image_shaped(packed, width=64, height=96), latents)
    assert image_shaped(np.zeros((64, 64)), None, None).shape == (16, 16, 16)
    assert image_shaped(latents, 64, 96) is latents


def test_the_preview_of_the_demo_models_last_steps_resembles_the_picture() -> None:
    entry = next(entry for entry in catalogue.built_in() if entry.id == "demo-shapes")
    model = ModelFiles(entry.id, catalogue.artifacts() / entry.name, str(entry.hash), entry.base)
    driver = make_driver("diffusers", DriverSettings(device="cpu"))
    previews: list[list[Image.Image]] = []

    def draw(prompt: str, seed: int) -> Image.Image:
        previews.append([])
        spec = GenerationSpec(model_id=entry.id, prompt=prompt, seed=seed).with_defaults(entry.options)

        def on_step(step: Step) -> None:
            if step.preview:
                previews[-1].append(step.preview())

        (picture,) = driver.draw(Order(spec, model), on_step)
        return picture.image

    for seed, prompt in enumerate(LESSONS):
        draw(prompt, seed)
    drawn = draw("a red circle on a blue background", seed=9)

    last, before, first = (likeness(previews[-1][k], drawn) for k in (-1, -2, 0))
    assert last > 0.7
    assert before > 0.6
    assert first < before < last
