"""Several pictures in one call of a pipeline: how many, and that each is what it would be alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.core.extras import Control
from app.core.live import Progress
from app.core.spec import GenerationSpec
from tasks.machine.drivers import ladder, make_driver
from tasks.machine.drivers.batches import batches, passes, size_of_batches
from tasks.machine.drivers.contract import (
    Batching,
    CannotDraw,
    Driver,
    DriverSettings,
    ModelFiles,
    Order,
    OutOfMemory,
    Picture,
    Step,
)
from tasks.machine.drivers.seats import Seat

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


@pytest.mark.parametrize(
    ("shapes", "counts", "size", "found"),
    [
        ("aaa", (1, 1, 1), 4, [[0, 1, 2]]),
        ("aba", (1, 1, 1), 4, [[0, 2], [1]]),
        ("aaaa", (1, 2, 1, 1), 3, [[0, 1], [2, 3]]),
        ("aaa", (1, 1, 1), 1, [[0], [1], [2]]),
        ("aa", (5, 1), 4, [[0], [1]]),
    ],
)
def test_orders_are_divided_into_passes_by_how_they_are_read_and_by_room(
    shapes: str, counts: tuple[int, ...], size: int, found: list[list[int]]
) -> None:
    assert passes(list(shapes), counts, size) == found


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
    assert [picture.seat for picture in batch] == [Seat(3, row) for row in range(3)]
    assert {(step.image, step.images) for step in steps if step.phase == "denoising"} == {(0, 3)}
    for one, other in zip(single, batch, strict=True):
        far = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
        assert far.max() <= NEAR
    assert np.asarray(batch[0].image).tobytes() != np.asarray(batch[1].image).tobytes()


# Of several orders: short and long, weighted, changing between steps, with and without a negative prompt.
WORDS = (
    {"prompt": "a cat", "seed": 5},
    {"prompt": "a (red:1.4) dog on a hill, [day:night:0.5]", "negative_prompt": "blurry", "seed": 7, "n": 2},
    {"prompt": "", "negative_prompt": "a very long negative prompt, with many words", "seed": 2**32 - 1},
)
PLAIN_WORDS = ({"prompt": "a cat", "seed": 5}, {"prompt": "a dog on a hill in the rain", "seed": 7, "n": 2})


def orders_of(family: str, zoo: "Zoo", words: Sequence[dict[str, Any]], **more: Any) -> list[Order]:
    model = ModelFiles(family, zoo.folder(family), family)
    given: dict[str, Any] = {"model_id": family, "steps": 2, "width": 64, "height": 64, **more}
    return [Order(GenerationSpec(**(given | each)), model) for each in words]


def drawn_together(
    driver: Driver, orders: Sequence[Order], told: list[list[Step]] | None = None
) -> list[list[Picture]]:
    assert isinstance(driver, Batching)
    found: list[list[Picture]] = [[] for _ in orders]
    on_steps = [each.append for each in told] if told else [lambda _: None for _ in orders]
    for place, picture in driver.draw_together(orders, on_steps):
        found[place].append(picture)
    return found


def furthest(one: Picture, other: Picture) -> int:
    return int(np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16)).max())


@pytest.mark.parametrize("family", FAMILIES[:-1])  # the last one is of the kind before it, and slow
def test_a_picture_of_a_pass_over_several_orders_is_the_one_that_its_order_draws_alone(
    family: str, zoo: "Zoo", alone: Driver
) -> None:
    has_weights = family in {"sd15", "sdxl"}
    sampler = "DPM++ SDE" if has_weights else None
    orders = orders_of(family, zoo, WORDS if has_weights else PLAIN_WORDS, scheduler=sampler)
    told: list[list[Step]] = [[] for _ in orders]

    single = [list(alone.draw(order, lambda _: None)) for order in orders]
    batch = drawn_together(alone, orders, told)

    pairs = [pair for each in zip(single, batch, strict=True) for pair in zip(*each, strict=True)]
    assert [one.seed for one, _ in pairs] == [other.seed for _, other in pairs]
    assert max(furthest(one, other) for one, other in pairs) <= NEAR
    assert [one.notes for one, _ in pairs] == [other.notes for _, other in pairs]
    assert furthest(batch[0][0], batch[1][0]) > NEAR
    for order, steps in zip(orders, told, strict=True):
        seen = [step for step in steps if step.phase == "denoising"]
        assert (seen[0].step, seen[-1].step) == (0, seen[-1].steps)
        assert {(step.image, step.images) for step in seen} == {(0, order.spec.n)}
        assert [step.phase for step in steps[:2]] == ["loading", "denoising"]
        assert steps[-1].phase == "encoding"


def test_each_order_of_a_pass_has_a_preview_of_its_own(zoo: "Zoo", alone: Driver) -> None:
    orders, shown = orders_of("sd15", zoo, WORDS), list[list[bytes]]()

    def show_into(found: list[bytes]) -> Any:
        return lambda step: found.append(step.preview().tobytes()) if step.preview else None

    assert isinstance(alone, Batching)
    shown = [[] for _ in orders]
    list(alone.draw_together(orders, [show_into(each) for each in shown]))

    assert len({previews[-1] for previews in shown}) == len(orders)


def test_orders_that_are_read_in_more_pieces_get_a_pass_of_their_own(zoo: "Zoo", alone: Driver) -> None:
    long = {"prompt": "a cat, " * 60, "seed": 3}
    orders = orders_of("sd15", zoo, ({"prompt": "a cat", "seed": 3}, long, {"prompt": "a dog", "seed": 3}))

    single = [next(iter(alone.draw(order, lambda _: None))) for order in orders]
    batch = [found[0] for found in drawn_together(alone, orders)]

    assert [picture.seat for picture in batch] == [Seat(2, 0), Seat(1, 0), Seat(2, 1)]
    assert max(map(furthest, single, batch)) <= NEAR


def test_what_is_told_of_one_orders_words_is_not_told_to_the_others(zoo: "Zoo", alone: Driver) -> None:
    orders = orders_of("sd3", zoo, ({"prompt": "a cat"}, {"prompt": "a (red:1.4) cat"}, {"prompt": "a dog"}))

    found = drawn_together(alone, orders)

    assert [bool(pictures[0].notes) for pictures in found] == [False, True, False]


def test_what_one_order_can_never_have_spoils_the_pass_and_not_the_driver(zoo: "Zoo", alone: Driver) -> None:
    orders = orders_of("sd15", zoo, ({"prompt": "a cat"}, {"prompt": "a cat AND a dog"}))

    with pytest.raises(CannotDraw, match="AND"):
        drawn_together(alone, orders)

    assert len(drawn_together(alone, orders[:1] * 2)) == 2


def test_memory_that_runs_out_in_a_pass_is_told_as_it_is(
    zoo: "Zoo", alone: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes")

    monkeypatch.setattr("tasks.machine.drivers.painting.run", short)

    with pytest.raises(OutOfMemory):
        drawn_together(alone, orders_of("sd15", zoo, PLAIN_WORDS))


def test_where_memory_has_no_room_for_all_the_first_order_is_in_the_first_pass(
    zoo: "Zoo", alone: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.machine.drivers.diffusers.size_of_batches", lambda *_, **__: 2)

    found = drawn_together(alone, orders_of("sd15", zoo, [{"prompt": word, "seed": 1} for word in "abc"]))

    assert [pictures[0].seat for pictures in found] == [Seat(2, 0), Seat(2, 1), Seat(1, 0)]


def test_the_driver_without_a_model_draws_the_same_together_as_alone() -> None:
    driver = make_driver("fake", DriverSettings(step_seconds=0.0))
    orders = [Order(a_spec(prompt=word, n=2, seed=3, steps=2), ModelFiles("m", Path("m"), "m")) for word in "abc"]
    told: list[list[Step]] = [[] for _ in orders]

    single = [list(driver.draw(order, lambda _: None)) for order in orders]
    batch = drawn_together(driver, orders, told)

    assert [[each.image.tobytes() for each in found] for found in batch] == [
        [each.image.tobytes() for each in found] for found in single
    ]
    assert [picture.seat for found in batch for picture in found] == [Seat(6, row) for row in range(6)]
    assert [[step.phase for step in steps if not step.step] for steps in told] == [["loading", "denoising"]] * 3


def test_a_driver_that_only_asks_another_server_draws_one_order_at_a_time() -> None:
    assert not isinstance(make_driver("automatic1111", DriverSettings(server_url="http://127.0.0.1:1")), Batching)
