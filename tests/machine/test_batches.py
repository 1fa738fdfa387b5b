"""Several pictures in one call of a pipeline: how many, and that each is what it would be alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.core.extras import Control
from app.core.live import Progress
from app.core.spec import GenerationSpec
from tasks.machine.drivers import ladder, make_driver
from tasks.machine.drivers.batches import batches, size_of_batches
from tasks.machine.drivers.contract import Driver, DriverSettings, ModelFiles, Order, Step

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

# diffusers, in its samplers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NEAR = 1
"""Of 255. Sums over a batch are made in another order, and what lies between two values may go to either."""

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "sana", "sana_sprint")


def a_spec(**more: object) -> GenerationSpec:
    given: dict[str, object] = {"model_id": "m", "prompt": "a cat", "n": 8}
    return GenerationSpec(**(given | more))  # type: ignore[arg-type]  # what matters to a test


def size(spec: GenerationSpec, most: int = 0, rung: str = ladder.WHOLE, room: int = 100, device: str = "cuda") -> int:
    return size_of_batches(spec, most, rung, room, lambda count: 10 * count, device=device)


def test_so_many_are_drawn_together_as_are_fast_and_fit() -> None:
    assert size(a_spec()) == 4
    assert size(a_spec(n=2)) == 2
    assert size(a_spec(), device="cpu") == 1
    assert size(a_spec(), room=25) == 2
    assert size(a_spec(), room=5) == 1


def test_the_operator_has_the_word() -> None:
    assert size(a_spec(), most=1) == 1
    assert size(a_spec(), most=6) == 6
    assert size(a_spec(), most=6, device="cpu") == 6
    assert size(a_spec(), most=6, room=30) == 3


def test_one_at_a_time_where_memory_is_short_or_pictures_are_steered() -> None:
    assert size(a_spec(), rung=ladder.OFFLOAD) == 1
    assert size(a_spec(controls=(Control(image="a" * 64),))) == 1


@pytest.mark.parametrize(("count", "most", "sizes"), [(8, 4, [4, 4]), (5, 4, [3, 2]), (9, 4, [3, 3, 3]), (1, 4, [1])])
def test_batches_are_as_even_as_can_be(count: int, most: int, sizes: list[int]) -> None:
    found = list(batches(count, most))

    assert [len(positions) for positions in found] == sizes
    assert [position for positions in found for position in positions] == list(range(count))


def test_progress_counts_all_pictures_of_a_batch() -> None:
    half = Progress(1, "denoising", step=5, steps=10, image=4, images=8, together=4)

    assert half.fraction == 6 / 8


@pytest.fixture(scope="module")
def alone() -> Iterator[Driver]:
    """Return a driver that draws one picture at a time."""
    driver = make_driver("diffusers", DriverSettings(device="cpu", together=1))
    yield driver
    driver.free()


@pytest.fixture(scope="module")
def together() -> Iterator[Driver]:
    """Return a driver that draws three."""
    driver = make_driver("diffusers", DriverSettings(device="cpu", together=3))
    yield driver
    driver.free()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_a_batch_is_the_one_that_is_drawn_alone(
    family: str, zoo: "Zoo", alone: Driver, together: Driver
) -> None:
    model = ModelFiles(family, zoo.folder(family), family)
    # The last seed is followed by 0; the sampler adds noise of its own where the family takes it.
    spec = GenerationSpec(
        model_id=family,
        prompt="a cat",
        seed=2**32 - 2,
        n=3,
        steps=2,
        width=64,
        height=64,
        scheduler="Euler a" if family in {"sd15", "sdxl"} else None,
    )
    steps = list[Step]()

    single = list(alone.draw(Order(spec, model), lambda _: None))
    batch = list(together.draw(Order(spec, model), steps.append))

    assert [picture.seed for picture in batch] == [picture.seed for picture in single] == [2**32 - 2, 2**32 - 1, 0]
    assert [picture.drawn_with["together"] for picture in batch] == [3, 3, 3]
    assert {(step.image, step.images) for step in steps if step.phase == "denoising"} == {(0, 3)}
    for one, other in zip(single, batch, strict=True):
        far = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
        assert far.max() <= NEAR
    assert np.asarray(batch[0].image).tobytes() != np.asarray(batch[1].image).tobytes()
