"""A job that is cancelled leaves the pass that it shares: its rows cost nothing more, and the others do not notice.

And what was drawn in a pass is drawn again in the seat that it had: bit for bit the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import (
    Batching,
    DrawingCancelled,
    Driver,
    DriverSettings,
    ModelFiles,
    OnStep,
    Order,
    Picture,
    Step,
)
from tasks.machine.drivers.seats import Seat, groups, seats_of
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

# diffusers, in its samplers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NEAR = 1
"""Of 255: sums over fewer rows are made in another order."""

STEPS = 3
FAMILIES = {
    # By family: its network's first layer, how often a row is in a call, and a sampler that remembers or adds noise.
    "sd15": ("conv_in", 2, "DPM++ 2M SDE Karras"),
    "sdxl": ("conv_in", 2, "Euler a"),
    "sd3": ("pos_embed", 2, "DPM++ 2M"),
    "flux": ("x_embedder", 1, None),
    "sana": ("patch_embed", 2, None),
    "sana_sprint": ("patch_embed", 1, None),
}


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Return a driver that draws with diffusers."""
    found = make_driver("diffusers", DriverSettings(device="cpu", together=1))
    yield found
    found.free()


def orders_of(family: str, zoo: "Zoo", *more: dict[str, Any]) -> list[Order]:
    model = ModelFiles(family, zoo.folder(family), family)
    given: dict[str, Any] = {
        "model_id": family,
        "steps": STEPS,
        "width": 64,
        "height": 64,
        "scheduler": FAMILIES[family][2],
    }
    return [Order(GenerationSpec(**(given | each)), model) for each in more]


def together(driver: Driver, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> dict[int, list[Picture]]:
    assert isinstance(driver, Batching)
    found: dict[int, list[Picture]] = {}
    for place, picture in driver.draw_together(orders, on_steps):
        found.setdefault(place, []).append(picture)
    return found


def go_on(_: Step) -> None:
    """Want the pictures."""


def leaving(step: int, phase: str = "denoising") -> Callable[[Step], None]:
    """Return what cancels an order when so many steps are done."""

    def on_step(told: Step) -> None:
        if (told.phase, told.step) == (phase, step):
            raise DrawingCancelled

    return on_step


@contextmanager
def counted(driver: Any, order: Order) -> Iterator[tuple[list[int], list[int]]]:
    """Count the rows of each call that the network and the autoencoder reckon with."""
    network: list[int] = []
    decoder: list[int] = []
    with driver.pipelines.borrowed(order) as loaded:
        pipeline = loaded.pipeline
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    first = getattr(denoiser, FAMILIES[order.model.model_id][0])
    hooks = [
        first.register_forward_pre_hook(lambda _, given: network.append(len(given[0]))),
        pipeline.vae.decoder.register_forward_pre_hook(lambda _, given: decoder.append(len(given[0]))),
    ]
    try:
        yield network, decoder
    finally:
        for hook in hooks:
            hook.remove()
    assert not denoiser._forward_pre_hooks
    assert not denoiser._forward_hooks
    assert "decode" not in vars(pipeline.vae)


def furthest(one: Picture, other: Picture) -> int:
    return int(np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16)).max())


def again(driver: Driver, order: Order, pictures: Sequence[Picture]) -> list[Picture]:
    """Replay an order's pictures."""
    seats = [picture.seat for picture in pictures if picture.seat]
    return list(driver.draw(Order(order.spec, order.model, seats=seats), go_on))


def pixels(pictures: Sequence[Picture]) -> list[bytes]:
    return [picture.image.tobytes() for picture in pictures]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_job_that_is_cancelled_leaves_its_pass_at_the_next_step(family: str, zoo: "Zoo", driver: Driver) -> None:
    orders = orders_of(
        family, zoo, {"prompt": "a cat", "seed": 5}, {"prompt": "nobody's", "n": 2}, {"prompt": "a dog", "seed": 9}
    )

    with counted(driver, orders[0]) as (network, decoder):
        drawn = together(driver, orders, [go_on, leaving(1), go_on])

    times = FAMILIES[family][1]
    assert (network, decoder) == ([4 * times, 2 * times, 2 * times], [2])
    left = ((1, 1), (2, 1))
    assert {place: [each.seat for each in of_one] for place, of_one in drawn.items()} == {
        0: [Seat(4, 0, left)],
        2: [Seat(4, 3, left)],
    }
    without = together(driver, [orders[0], orders[2]], [go_on, go_on])
    assert max(furthest(drawn[0][0], without[0][0]), furthest(drawn[2][0], without[1][0])) <= NEAR
    assert furthest(drawn[0][0], drawn[2][0]) > NEAR
    # A replay is drawn in the same seat, and what left the pass leaves it again.
    assert pixels(again(driver, orders[2], drawn[2])) == pixels(drawn[2])


def test_jobs_may_leave_one_after_the_other_and_the_last_one_stops_the_pass(zoo: "Zoo", driver: Driver) -> None:
    orders = orders_of("sd15", zoo, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})

    with counted(driver, orders[0]) as (network, decoder), pytest.raises(DrawingCancelled):
        together(driver, orders, [leaving(1), leaving(0), leaving(2)])

    assert (network, decoder) == ([4, 2], [])


def test_a_job_that_is_cancelled_behind_the_last_step_is_not_decoded(zoo: "Zoo", driver: Driver) -> None:
    orders = orders_of("sd15", zoo, {"prompt": "a"}, {"prompt": "b"})

    with counted(driver, orders[0]) as (network, decoder):
        drawn = together(driver, orders, [leaving(STEPS, "encoding"), go_on])

    assert (network, decoder, list(drawn)) == ([4] * STEPS, [1], [1])


def test_a_job_that_is_cancelled_while_the_model_is_loaded_is_in_no_pass(zoo: "Zoo", driver: Driver) -> None:
    orders = orders_of("sd15", zoo, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})

    drawn = together(driver, orders, [go_on, leaving(0, "loading"), go_on])

    assert {place: [each.seat for each in of_one] for place, of_one in drawn.items()} == {
        0: [Seat(2, 0)],
        2: [Seat(2, 1)],
    }


def test_when_all_of_one_pass_are_cancelled_the_next_pass_is_drawn(zoo: "Zoo", driver: Driver) -> None:
    long = "a cat, " * 60  # read in more pieces, and so in a pass of its own
    orders = orders_of("sd15", zoo, {"prompt": "a"}, {"prompt": "b"}, {"prompt": long})

    drawn = together(driver, orders, [leaving(1), leaving(0), go_on])

    assert list(drawn) == [2]


DEMO = "demo-shapes"


@pytest.mark.parametrize("family", ["sd15", "flux", DEMO])
def test_what_was_drawn_with_others_is_replayed_bit_for_bit(family: str, zoo: "Zoo", driver: Driver) -> None:
    words: list[dict[str, Any]] = [
        {"prompt": "a red circle", "seed": 5},
        {"prompt": "a dog", "seed": 7, "n": 2},
        {"prompt": "", "seed": 1},
    ]
    if family == DEMO:
        model = ModelFiles(DEMO, ROOT / "app" / "artifacts" / f"{DEMO}.dduf", DEMO)
        orders = [Order(GenerationSpec(model_id=DEMO, steps=STEPS, **each), model) for each in words]
    else:
        orders = orders_of(family, zoo, *words)
    told: list[Step] = []

    drawn = together(driver, orders, [go_on] * 3)
    replayed = [again(driver, order, drawn[place]) for place, order in enumerate(orders)]
    list(driver.draw(Order(orders[1].spec, orders[1].model, seats=[Seat(4, 1), Seat(4, 2)]), told.append))

    assert [pixels(found) for found in replayed] == [pixels(drawn[place]) for place in range(3)]
    assert [each.seat for found in replayed for each in found] == [Seat(4, row) for row in range(4)]
    assert {(step.image, step.images) for step in told if step.phase == "denoising"} == {(0, 2)}


def test_seats_that_this_machine_has_no_room_for_are_let_be(
    zoo: "Zoo", driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.machine.drivers.diffusers.size_of_batches", lambda *_, **__: 1)
    (order,) = orders_of("sd15", zoo, {"prompt": "a cat", "seed": 5})

    (drawn,) = driver.draw(Order(order.spec, order.model, seats=[Seat(4, 1)]), go_on)

    assert drawn.seat == Seat(1, 0)


@pytest.mark.parametrize(
    ("seats", "found"),
    [
        ([], []),
        ([Seat(4, 1), Seat(4, 2)], [range(2)]),
        ([Seat(2, 0), Seat(2, 1), Seat(1, 0)], [range(2), range(2, 3)]),
        ([Seat(1, 0), Seat(1, 0)], [range(1), range(1, 2)]),
        ([Seat(3, 0), Seat(3, 1, ((2, 5),))], [range(1), range(1, 2)]),
    ],
)
def test_an_orders_pictures_are_divided_by_the_passes_that_drew_them(seats: list[Seat], found: list[range]) -> None:
    assert groups(seats) == found


@pytest.mark.parametrize("seat", [Seat(1, 0), Seat(4, 3), Seat(4, 1, ((0, 3), (2, 0)))])
def test_a_seat_is_read_as_it_was_written(seat: Seat) -> None:
    assert Seat.of(seat.to_json()) == seat


@pytest.mark.parametrize(
    "nonsense",
    [{}, {"together": 2}, {"together": 2, "row": 2}, {"together": "x", "row": 0}, {"together": 10**9, "row": 0}]
    + [{"together": 2, "row": 0, "left": left} for left in ([1], [[0, 1]], [[7, 1]], "x")],
)
def test_what_is_no_seat_is_not_taken_for_one(nonsense: dict[str, Any]) -> None:
    assert Seat.of(nonsense) is None
    assert seats_of([Seat().to_json(), nonsense]) == []


def test_the_driver_without_a_model_lets_orders_go_as_well() -> None:
    driver = make_driver("fake", DriverSettings(step_seconds=0.0))
    model = ModelFiles("m", Path("m"), "m")
    orders = [Order(GenerationSpec(model_id="m", prompt=word, n=2, steps=3), model) for word in "abc"]

    drawn = together(driver, orders, [go_on, leaving(2), go_on])

    assert [each.seat for each in drawn[2]] == [Seat(6, row, ((2, 2), (3, 2))) for row in (4, 5)]
    with pytest.raises(DrawingCancelled):
        together(driver, orders[:1], [leaving(1)])
