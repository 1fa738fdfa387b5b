"""Engines in a machine's memory: held, measured, shared, freed; with real pipelines of random weights."""

import gc
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from app.core.extras import Lora
from app.core.spec import GenerationSpec
from tasks.machine.companions import at_hand
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order, OutOfMemory
from tasks.machine.drivers.fake import ENGINE_BYTES, FakeDriver
from tasks.machine.engines import EngineKeeper
from tasks.machine.errors import ModelNotProven
from tests.support.processes import WAIT_SECONDS

if TYPE_CHECKING:
    from tasks.machine.drivers.diffusers import DiffusersDriver
    from tests.support.zoo_files import Zoo

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "sana")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def nothing_but_what_is_made_here(zoo: "Zoo") -> Iterator[None]:
    """Leave out, when memory is looked through, what was there before: all of torch takes a second each time."""
    zoo.folder("sd15")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Measure what all tensors of these tests take, without asking anybody who counts them."""
    import torch  # noqa: PLC0415  # seconds, which tests without it need not wait for

    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def a_driver(**settings: Any) -> "DiffusersDriver":
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, as above

    return DiffusersDriver(DriverSettings(device="cpu", **settings))


def a_model(zoo: "Zoo", family: str = "sd15", model_id: str | None = None) -> ModelFiles:
    return ModelFiles(model_id or family, zoo.folder(family), model_id or family)


def an_order(model: ModelFiles, **more: Any) -> Order:
    spec = GenerationSpec(model_id=model.model_id, prompt="", seed=1, steps=1, width=64, height=64, **more)
    return Order(spec, model)


def draw(driver: "DiffusersDriver", model: ModelFiles) -> None:
    list(driver.draw(an_order(model), lambda _: None))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_within_15_percent_of_what_is_then_measured(zoo: "Zoo", family: str) -> None:
    driver, order = a_driver(), an_order(a_model(zoo, family))
    estimated = driver.pinned.weigh(order).weights
    before = live_bytes()

    said = driver.pinned.hold("one", order)

    measured = live_bytes() - before
    assert abs(estimated - measured) <= 0.15 * measured
    assert abs(said - measured) <= 0.15 * measured


def test_stopping_frees_the_memory(zoo: "Zoo") -> None:
    driver, order = a_driver(), an_order(a_model(zoo))
    before = live_bytes()
    taken = driver.pinned.hold("one", order)
    while_held = live_bytes() - before

    driver.pinned.let_go("one")

    left = live_bytes() - before
    assert while_held >= 0.85 * taken
    assert left < 0.02 * taken
    assert (driver.loaded(), driver.pinned.holds("one")) == ([], False)


def test_engines_stay_while_other_models_come_and_go(zoo: "Zoo") -> None:
    held, *others = (a_model(zoo, "sd15", name) for name in ("held", "a", "b", "c"))
    one = a_driver().estimate(held, 64, 64)
    driver = a_driver(cpu_cache=one.total + one.all_weights + 1_000_000)
    driver.pinned.hold("one", an_order(held))

    for model in others:
        draw(driver, model)

    assert driver.loaded() == ["held", "c"]


def test_several_engines_are_held_while_memory_lasts_and_the_next_one_is_told_the_figures(zoo: "Zoo") -> None:
    models = [a_model(zoo, "sd15", name) for name in ("a", "b", "c")]
    one = a_driver().estimate(models[0], 64, 64)
    driver = a_driver(cpu_cache=one.total + one.all_weights + 1_000_000)
    driver.pinned.hold("first", an_order(models[0]))
    driver.pinned.hold("second", an_order(models[1]))

    with pytest.raises(OutOfMemory, match="were needed") as refused:
        driver.pinned.hold("third", an_order(models[2]))

    assert (refused.value.needed, driver.loaded()) == (one.total, ["a", "b"])
    assert (refused.value.available or 0) < one.total
    driver.pinned.let_go("first")
    driver.pinned.hold("third", an_order(models[2]))
    assert driver.loaded() == ["b", "c"]


def test_what_is_not_pinned_makes_room_for_an_engine(zoo: "Zoo") -> None:
    cached, wanted = (a_model(zoo, "sd15", name) for name in ("cached", "wanted"))
    one = a_driver().estimate(cached, 64, 64)
    driver = a_driver(cpu_cache=one.total + 1_000_000)
    draw(driver, cached)
    room = driver.pinned.room()

    driver.pinned.hold("one", an_order(wanted))

    assert room == one.total + 1_000_000
    assert driver.loaded() == ["wanted"]
    assert driver.pinned.room() < one.total < driver.pinned.most()


def test_what_was_loaded_while_memory_was_short_is_loaded_whole_for_an_engine(zoo: "Zoo") -> None:
    driver, order = a_driver(), an_order(a_model(zoo))
    list(driver.draw(replace(order, frugal=True), lambda _: None))
    before = driver.pipelines.cache.mode_of("sd15")

    driver.pinned.hold("one", order)

    assert before != driver.pipelines.cache.mode_of("sd15") == ""


def test_two_engines_of_one_checkpoint_share_its_networks(zoo: "Zoo") -> None:
    driver, order = a_driver(), an_order(a_model(zoo))
    driver.pinned.hold("first", order)
    before = live_bytes()

    driver.pinned.hold("second", order)
    taken = live_bytes() - before
    driver.pinned.let_go("first")

    assert taken < 10_000
    assert (driver.pinned.holds("second"), driver.loaded()) == (True, ["sd15"])
    driver.pinned.let_go("second")
    assert driver.loaded() == []


def test_another_vae_is_held_with_its_engine_and_counted(zoo: "Zoo", tmp_path: Path) -> None:
    from tests.support.zoo_networks import other_vae  # noqa: PLC0415  # seconds, as above

    driver, model = a_driver(), a_model(zoo)
    vae = ModelFiles("a-vae", other_vae(zoo.folder("sd15"), tmp_path / "vae"), "vae")
    order = an_order(model, vae_id="a-vae")
    order = replace(order, companions={"a-vae": vae})
    before = live_bytes()

    said = driver.pinned.hold("one", order)

    measured = live_bytes() - before
    assert driver.loaded() == ["sd15", "a-vae"]
    assert abs(said - measured) <= 0.15 * measured
    assert abs(driver.pinned.weigh(order).weights - measured) <= 0.15 * measured
    driver.pinned.let_go("one")
    assert driver.loaded() == []


@pytest.fixture
def proven(zoo: "Zoo") -> dict[str, ModelFiles]:
    """Return what is proven on the machine, to be changed by the test."""
    return {model.model_id: model for model in (a_model(zoo, "sd15", "a"), a_model(zoo, "sd15", "b"))}


def files_of(proven: dict[str, ModelFiles], model_id: str, _base: str | None) -> ModelFiles:
    if model_id not in proven:
        raise ModelNotProven(f"{model_id} has no valid receipt on this machine any more")
    return proven[model_id]


@pytest.fixture
def leased() -> list[str]:
    """Return the models whose files may not be evicted."""
    return []


def a_keeper(driver: Any, proven: dict[str, ModelFiles], leased: list[str]) -> EngineKeeper:
    def lease(model_id: str) -> ExitStack:
        leased.append(model_id)
        stack = ExitStack()
        stack.callback(leased.remove, model_id)
        return stack

    find = partial(files_of, proven)
    return EngineKeeper(
        lambda: driver, find, partial(at_hand, find), lease, threading.Lock(), lambda: frozenset(proven)
    )


def wanted(model_id: str = "a", engine_id: str | None = None, **spec: Any) -> dict[str, Any]:
    known = GenerationSpec(model_id=model_id, prompt="", width=64, height=64, **spec)
    return {"engine_id": engine_id or str(uuid4()), "spec": known.to_json(), "base": None, "variant": None}


def states(keeper: EngineKeeper, joined: frozenset[str] | None = None) -> dict[str, str]:
    told = keeper.reports(keeper.ready() if joined is None else joined)
    return {report["engine_id"]: report["state"] for report in told}


def test_the_keeper_holds_what_is_wanted_and_nothing_else(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    first, second = wanted("a"), wanted("b")

    keeper.follow([first, second])
    before = states(keeper)
    keeper.look(driver.pinned)
    held = states(keeper)
    keeper.follow([second])
    still = states(keeper)
    keeper.look(driver.pinned)

    assert set(before.values()) == {"Starting"}
    assert set(held.values()) == {"Ready"}
    assert set(still) == set(held), "as long as it is in memory the fleet must know"
    assert states(keeper) == {second["engine_id"]: "Ready"}
    assert (driver.loaded(), leased) == (["b"], ["b"])


def test_an_engine_is_ready_only_once_its_queue_is_consumed(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted()])
    keeper.look(driver.pinned)

    assert set(states(keeper, frozenset()).values()) == {"Starting"}


def test_the_fleet_is_told_what_was_estimated_and_measured(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted()])

    keeper.look(driver.pinned)

    (report,) = keeper.reports(keeper.ready())
    assert abs(report["bytes_estimated"] - report["bytes_measured"]) <= 0.15 * report["bytes_measured"]
    assert keeper.weight_of("b")["weights_bytes"] == report["bytes_estimated"]
    assert (keeper.device()["engine_room"] or 0) > 0


def test_an_engine_for_which_there_is_no_memory_says_how_much_is_missing(
    proven: dict[str, ModelFiles], leased: list[str]
) -> None:
    driver = a_driver(cpu_cache=1_000_000)
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted()])

    keeper.look(driver.pinned)

    (report,) = keeper.reports(frozenset())
    assert (report["state"], report["error_code"]) == ("Closed", "not_enough_memory")
    assert report["error"].startswith("Not enough VRAM to start: out of memory: ")
    assert (leased, driver.loaded()) == ([], [])


@pytest.mark.parametrize("spec", [{}, {"vae_id": "nobody"}, {"loras": (Lora(model_id="nobody"),)}], ids=str)
def test_an_engine_starts_only_where_all_its_models_are_proven(
    proven: dict[str, ModelFiles], leased: list[str], spec: dict[str, Any]
) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted("a" if spec else "nobody", **spec)])

    keeper.look(driver.pinned)

    (report,) = keeper.reports(frozenset())
    assert (report["state"], report["error_code"]) == ("Closed", "model_not_proven")
    assert driver.loaded() == []


def test_an_engine_whose_proof_is_lost_leaves(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted()])
    keeper.look(driver.pinned)
    del proven["a"]

    keeper.look(driver.pinned)

    (report,) = keeper.reports(keeper.ready())
    assert (report["state"], report["error_code"], driver.loaded()) == ("Closed", "model_not_proven", [])


def test_an_engine_that_had_to_leave_is_loaded_again(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = a_driver()
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted()])
    keeper.look(driver.pinned)

    driver.free()  # as a drawing does that has run out of memory
    keeper.look(driver.pinned)

    assert set(states(keeper).values()) == {"Ready"}
    assert driver.loaded() == ["a"]


def test_a_job_that_is_drawn_ends_before_the_engine_leaves(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = FakeDriver(DriverSettings())
    keeper = a_keeper(driver, proven, leased)
    one = wanted()
    keeper.follow([one])
    keeper.look(driver.pinned)
    keeper.follow([])

    with keeper.device_lock:
        leaving = threading.Thread(target=keeper.look, args=(driver.pinned,))
        leaving.start()
        leaving.join(0.3)
        while_drawn = (leaving.is_alive(), driver.pinned.holds(one["engine_id"]))
    leaving.join(WAIT_SECONDS)

    assert while_drawn == (True, True)
    assert not driver.pinned.holds(one["engine_id"])


def test_the_fake_driver_has_room_as_its_settings_say(proven: dict[str, ModelFiles], leased: list[str]) -> None:
    driver = FakeDriver(DriverSettings(gpu_memory=2 * ENGINE_BYTES))
    keeper = a_keeper(driver, proven, leased)
    keeper.follow([wanted(), wanted(), wanted()])

    keeper.look(driver.pinned)

    assert sorted(states(keeper).values()) == ["Closed", "Ready", "Ready"]
    assert keeper.device() == {"engine_room": 0, "engine_most": 2 * ENGINE_BYTES}


def test_a_driver_that_pins_nothing_holds_no_engines() -> None:
    keeper = a_keeper(object(), {}, [])

    keeper.start()

    assert (keeper.device(), keeper.reports(frozenset())) == ({}, [])
