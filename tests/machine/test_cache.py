"""Pipelines in memory: found, moved between two memories, loaded, and let go of, within a budget."""

import gc
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.core.spec import GenerationSpec
from tasks.machine.drivers.cache import Cache, Held, Place
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order

if TYPE_CHECKING:
    from tasks.machine.drivers.diffusers import DiffusersDriver
    from tests.support.zoo_files import Zoo

UNLIMITED = 10**12


@dataclass
class Network:
    """Stands for one of torch's: it knows where it is."""

    name: str
    device: str = "cuda"


@dataclass
class Memories:
    """A cache over two pretended memories, and what was moved between them."""

    device_budget: int = 10
    behind_budget: int = 10
    moved: list[tuple[str, str]] = field(default_factory=list)
    has_behind: bool = True
    free_on_device: int = UNLIMITED

    def __post_init__(self) -> None:
        device = Place("cuda", lambda: self.free_on_device, self.device_budget, reserve=2)
        behind = Place("cpu", lambda: UNLIMITED, self.behind_budget)
        self.cache: Cache[str] = Cache(device, behind if self.has_behind else None, self.move)

    def move(self, network: Network, device: str) -> None:
        """Move as torch does, in place."""
        network.device = device
        self.moved.append((network.name, device))

    def load(self, model_id: str, sizes: dict[str, int], mode: str = "") -> bool:
        """Load a model made of networks of these sizes, as the driver does; says whether there was room."""
        known = {key: self.cache.network(key) for key in sizes}
        fits = self.cache.make_room(sum(size for key, size in sizes.items() if known[key] is None))
        networks = {key: (self.cache.network(key) or Network(key), size) for key, size in sizes.items()}
        self.cache.add(Held(model_id, "proof", mode, f"pipeline {model_id}", tuple(networks)), networks)
        return fits


def test_a_model_that_is_held_is_found_again() -> None:
    memories = Memories()
    memories.load("a", {"unet": 4})

    assert memories.cache.find("a", "proof", "") == "pipeline a"
    assert memories.cache.bring("a")
    assert memories.moved == []


def test_the_model_used_least_recently_goes_behind_the_device_and_comes_back() -> None:
    memories = Memories()
    for name in ("a", "b"):
        memories.load(name, {f"{name}-unet": 4})
    memories.cache.find("a", "proof", "")

    memories.load("c", {"c-unet": 4})

    assert (memories.cache.on_device(), memories.cache.behind()) == (["a", "c"], ["b"])
    assert (memories.cache.used("cuda"), memories.cache.used("cpu")) == (8, 4)
    assert memories.cache.find("b", "proof", "") == "pipeline b"
    assert memories.cache.bring("b")
    assert memories.moved == [("b-unet", "cpu"), ("a-unet", "cpu"), ("b-unet", "cuda")]


def test_what_is_behind_the_device_leaves_when_there_is_no_room_there_either() -> None:
    memories = Memories(behind_budget=4)
    for name in ("a", "b", "c", "d"):
        memories.load(name, {f"{name}-unet": 4})

    assert (memories.cache.on_device(), memories.cache.behind()) == (["c", "d"], ["b"])
    assert memories.cache.find("a", "proof", "") is None


def test_a_model_that_comes_back_is_not_the_one_that_makes_room_for_itself() -> None:
    memories = Memories(device_budget=10, behind_budget=10)
    memories.load("a", {"a": 8})
    memories.load("b", {"b": 8})
    memories.cache.find("a", "proof", "")

    assert memories.cache.bring("a")

    # Two do not fit behind the device at once, so the one that goes has to leave altogether.
    assert (memories.cache.on_device(), memories.cache.behind()) == (["a"], [])
    assert memories.cache.used("cuda") == 8


def test_a_budget_is_no_more_than_what_there_is() -> None:
    memories = Memories(device_budget=10, free_on_device=4)

    assert memories.cache.room() == 4
    memories.free_on_device = UNLIMITED
    assert memories.cache.room() == 10


def test_without_a_memory_behind_it_a_model_leaves_at_once() -> None:
    memories = Memories(has_behind=False)
    for name in ("a", "b", "c"):
        memories.load(name, {f"{name}-unet": 4})

    assert (memories.cache.on_device(), memories.cache.behind(), memories.moved) == (["b", "c"], [], [])


def test_a_model_that_draws_or_is_pinned_never_leaves() -> None:
    memories = Memories()
    for name in ("a", "b"):
        memories.load(name, {f"{name}-unet": 4})
    memories.cache.pin("a")

    with memories.cache.drawing("b"):
        fits = memories.load("c", {"c-unet": 4})
    assert (fits, memories.cache.on_device()) == (False, ["a", "b", "c"])

    memories.cache.unpin("a")
    assert memories.load("d", {"d-unet": 4})
    assert memories.cache.on_device() == ["c", "d"]


def test_what_was_loaded_from_other_files_or_another_way_leaves() -> None:
    memories = Memories()
    memories.load("a", {"unet": 4})
    memories.load("b", {"b": 1}, mode="frugal")

    assert memories.cache.find("a", "another proof", "") is None
    assert memories.cache.find("b", "proof", "") is None
    assert (memories.cache.on_device(), memories.cache.used("cuda")) == ([], 0)


def test_a_part_of_several_models_is_held_once_and_stays_while_one_of_them_does() -> None:
    memories = Memories()
    memories.load("a", {"t5": 4, "a": 2})
    memories.load("b", {"t5": 4, "b": 2})
    assert memories.cache.used("cuda") == 8

    memories.load("c", {"c": 4})

    assert (memories.cache.on_device(), memories.cache.behind()) == (["b", "c"], ["a"])
    assert memories.moved == [("a", "cpu")]
    memories.cache.drop("a")
    assert memories.cache.network("t5") is not None
    memories.cache.drop("b")
    assert memories.cache.network("t5") is None


def test_what_cannot_be_moved_is_let_go_of() -> None:
    memories = Memories()
    memories.load("a", {"a": 4}, mode="frugal")
    memories.load("b", {"b": 8})

    assert (memories.cache.on_device(), memories.cache.behind(), memories.moved) == (["b"], [], [])


def test_without_a_budget_what_is_free_less_the_reserve_is_the_room() -> None:
    memories = Memories(device_budget=0, free_on_device=7)

    assert memories.cache.room() == 5
    assert memories.cache.make_room(5)
    assert not memories.cache.make_room(6)


def test_clearing_gives_everything_back_pinned_or_not() -> None:
    memories = Memories()
    memories.load("a", {"a": 4})
    memories.cache.pin("a")

    memories.cache.clear()

    assert (memories.cache.on_device(), memories.cache.used("cuda")) == ([], 0)


# What follows is the driver with its real networks, on one memory: the computer's.


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Draw with one thread."""
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


def a_driver(**settings: Any) -> "DiffusersDriver":
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, as above

    return DiffusersDriver(DriverSettings(device="cpu", **settings))


def an_order(model: ModelFiles) -> Order:
    return Order(GenerationSpec(model_id=model.model_id, prompt="a cat", seed=1, steps=1, width=64, height=64), model)


def lend(driver: "DiffusersDriver", model: ModelFiles) -> Any:
    """Have a model in memory; returns its pipeline."""
    with driver.pipelines.borrowed(an_order(model)) as loaded:
        return loaded.pipeline


def hashed(model_id: str, folder: Path) -> ModelFiles:
    """Describe a folder as provisioning does: every file with its hash."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): str(hash(path.read_bytes())) for path in paths}
    return ModelFiles(model_id, folder, "+".join(hashes.values()), hashes=hashes)


def test_several_models_stay_in_memory_while_there_is_room(zoo: "Zoo") -> None:
    driver = a_driver()
    models = [ModelFiles(family, zoo.folder(family), family) for family in ("sd15", "flux")]

    first = [lend(driver, model) for model in models]

    assert driver.loaded() == ["sd15", "flux"]
    assert [lend(driver, model) for model in models] == first


def test_beyond_the_budget_the_model_used_least_recently_leaves(zoo: "Zoo") -> None:
    models = [ModelFiles(name, zoo.folder("sd15"), name) for name in ("a", "b", "c")]
    measuring = a_driver()
    wanted = measuring.estimate(models[0], 64, 64)
    driver = a_driver(cpu_cache=wanted.total + wanted.all_weights + 1_000_000)

    for model in models:
        lend(driver, model)

    assert driver.loaded() == ["b", "c"]


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_what_leaves_is_gone_at_once_also_where_a_network_holds_itself(zoo: "Zoo", family: str) -> None:
    driver, model = a_driver(), ModelFiles(family, zoo.folder(family), "p")
    list(driver.draw(an_order(model), lambda _: None))  # a FLUX holds itself once it has drawn
    networks = [weakref.ref(each) for each in networks_in(lend(driver, model))]
    gc.disable()  # nobody but the driver tidies up
    try:
        driver.pipelines.cache.drop(family)
        left = [network() for network in networks]
    finally:
        gc.enable()

    assert len(left) >= 3
    assert set(left) == {None}


def networks_in(pipeline: Any) -> list[Any]:
    return [each for each in pipeline.components.values() if hasattr(each, "parameters")]


def test_equal_networks_of_two_models_are_held_once(zoo: "Zoo", tmp_path: Path) -> None:
    from shutil import copytree  # noqa: PLC0415  # of this test alone

    driver = a_driver()
    other = copytree(zoo.folder("sd15"), tmp_path / "other")
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = bytes(4)
    weights.write_bytes(content)

    first = lend(driver, hashed("a", zoo.folder("sd15")))
    alone = driver.pipelines.cache.used("cpu")
    second = lend(driver, hashed("b", other))

    assert second.vae is first.vae
    assert second.text_encoder is first.text_encoder
    assert second.unet is not first.unet
    assert driver.pipelines.cache.used("cpu") < 2 * alone


def test_a_changed_dependency_makes_a_model_load_anew(zoo: "Zoo") -> None:
    driver = a_driver()
    pack = ModelFiles("config", zoo.pack("sd15"), "one")
    model = ModelFiles("a", zoo.file("sd15"), "file", parts=(pack,))

    first = lend(driver, model)

    assert lend(driver, model) is first
    assert lend(driver, replace(model, parts=(replace(pack, proof="two"),))) is not first
    assert driver.loaded() == ["a"]


def test_a_model_is_loaded_anew_where_the_catalogue_comes_to_mean_another_row(zoo: "Zoo") -> None:
    driver = a_driver()
    model = ModelFiles("a", zoo.folder("sdxl"), "p")
    plain = lend(driver, model)

    assert lend(driver, replace(model, base="SDXL 1.0")) is plain
    turbo = lend(driver, replace(model, base="SDXL Turbo"))

    assert turbo is not plain
    assert (plain.scheduler.config.timestep_spacing, turbo.scheduler.config.timestep_spacing) == ("leading", "trailing")
