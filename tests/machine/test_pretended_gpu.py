"""What only a GPU asks of the driver: tensors on one device, and memory given back. See `support.pretended_gpu`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.core.extras import Control, Hires, Lora, Mask, Upscale
from app.core.spec import GenerationSpec
from tasks.machine.drivers import ladder
from tasks.machine.drivers.contract import (
    DrawingCancelled,
    DriverSettings,
    ModelFiles,
    Order,
    OutOfMemory,
    Picture,
    Step,
)
from tasks.machine.drivers.diffusers import DiffusersDriver
from tests.support.pretended_gpu import Gpu, pretended_gpu

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    # diffusers' own calls, for autoencoders that half precision is too small for
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]

Pixels = np.ndarray[Any, np.dtype[np.int64]]
ROUNDING = 4
"""Of 255: half precision in another order, and full precision on the processor."""
ROUNDED = 512 * 400
"""Bytes that a GPU's memory is rounded up by, for as many tensors as these models have."""
SMALL = 10_000
"""Bytes that a scheduler may keep of its levels."""

GIVEN, OTHER, HALF = "a" * 64, "b" * 64, "c" * 64


def half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


PICTURES = {GIVEN: Image.new("RGB", (64, 64), "red"), OTHER: Image.new("RGB", (64, 64), "white"), HALF: half()}


def pixels(picture: Picture) -> Pixels:
    return np.asarray(picture.image.convert("RGB")).astype(np.int64)


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    """Have one for all tests here."""
    torch.set_num_threads(1)
    with pretended_gpu() as found:
        yield found


@dataclass
class Studio:
    """A driver on the GPU, the zoo, and what goes along with it."""

    zoo: "Zoo"
    folder: Path
    driver: DiffusersDriver

    def order(self, name: str, files: Mapping[str, Path] | None = None, **given: Any) -> Order:
        fields: dict[str, Any] = {"prompt": "a red cat", "seed": 1, "steps": 1, "width": 64, "height": 64} | given
        if name == "refiner":
            fields = {"image": GIVEN, "strength": 1.0} | fields
        companions = {each: ModelFiles(each, path, str(path)) for each, path in (files or {}).items()}
        model = ModelFiles(name, self.zoo.folder(name), name)
        return Order(GenerationSpec(model_id=name, **fields), model, companions, PICTURES)

    def draw(self, name: str, files: Mapping[str, Path] | None = None, **given: Any) -> list[Picture]:
        return list(self.driver.draw(self.order(name, files, **given), lambda _: None))

    def made(self, name: str, make: Callable[[Path], Any]) -> Path:
        path = self.folder / name
        if not path.exists():
            make(path)
        return path


@pytest.fixture(scope="module")
def shared(gpu: Gpu, zoo: "Zoo", tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Return one for all tests that leave it as it was."""
    return Studio(zoo, tmp_path_factory.mktemp("gpu"), DiffusersDriver(DriverSettings(device="auto")))


@pytest.fixture
def studio(shared: Studio, gpu: Gpu) -> Iterator[Studio]:
    """Return it, and see that all memory comes back in the end."""
    yield shared
    shared.driver.free()
    assert gpu.allocated == 0


# What the GPU itself does


def mixed() -> Mapping[str, Callable[[], Any]]:
    def there() -> Any:
        return torch.ones(2, 2, device="cuda")

    return {
        "sums": lambda: there() + torch.ones(2, 2),
        "in place": lambda: torch.ones(2, 2).add_(there()),
        "numbers of the GPU": lambda: torch.ones(2, 2).add_(there()[0, 0]),
        "side by side": lambda: torch.cat([there(), torch.ones(2, 2)]),
        "places": lambda: torch.ones(2)[there()[0].long()],
        "layers": lambda: torch.nn.Linear(2, 2)(there()),
        "numpy": lambda: np.asarray(there()),
        "generators": lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        "precisions": lambda: torch.nn.LayerNorm(2).to("cuda")(there().half()),
    }


@pytest.mark.parametrize("name", mixed())
def test_what_a_gpu_refuses_is_refused(gpu: Gpu, name: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|numpy|generator|same but found"):
        mixed()[name]()


def test_numbers_and_places_of_the_computer_may_come_along(gpu: Gpu) -> None:
    found = torch.ones(2, 2, device="cuda")[torch.tensor([0])] * torch.tensor(3.0)

    assert (str(found.device), found.tolist()) == ("cuda:0", [[3.0, 3.0]])


def test_a_parameter_stays_the_same_object_wherever_it_is_moved(gpu: Gpu) -> None:
    layer = torch.nn.Linear(2, 2)
    weight, before = layer.weight, layer.weight.tolist()

    layer.to("cuda")
    there = str(weight.device)
    layer.to("cpu")

    assert layer.weight is weight
    assert (there, type(weight), weight.tolist()) == ("cuda:0", torch.nn.Parameter, before)


def test_memory_is_counted_once_for_all_views_and_given_back_with_the_last(gpu: Gpu) -> None:
    before = gpu.allocated
    whole = torch.zeros(1000, dtype=torch.float32, device="cuda")
    part = whole[10:20]
    with_both = gpu.allocated - before
    del whole
    with_one = gpu.allocated - before
    del part

    assert (with_both, with_one, gpu.allocated) == (4096, 4096, before)


# Families and features


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl", "refiner", "sd3", "flux", "sana", "sana_sprint"])
def test_every_family_draws_on_a_gpu(studio: Studio, family: str) -> None:
    seen: list[Image.Image] = []

    def look(step: Step) -> None:
        if step.preview is not None:
            seen.append(step.preview())

    pictures = list(studio.driver.draw(studio.order(family, n=2), look))

    assert [picture.image.size for picture in pictures] == [(64, 64), (64, 64)]
    assert seen
    assert (studio.driver.device()["type"], studio.driver.device()["name"]) == ("cuda", "a pretended GPU")
    assert set(pictures[0].drawn_with["precision"].values()) <= {"float16", "bfloat16"}
    assert {picture.seat.together for picture in pictures if picture.seat} == {2}


def steered(studio: Studio, family: str) -> tuple[dict[str, Path], dict[str, Any]]:
    from tests.support import zoo_companions  # noqa: PLC0415  # imports diffusers

    base = studio.zoo.folder(family)
    path = studio.made(f"{family}-net", lambda path: zoo_companions.controlnet(family, base, path))
    return {"net": path}, {"controls": (Control(model_id="net", image=OTHER),)}


def worn(studio: Studio, family: str) -> tuple[dict[str, Path], dict[str, Any]]:
    from tests.support import zoo_networks  # noqa: PLC0415  # imports diffusers

    base = studio.zoo.folder(family)
    made = {
        "plain": lambda path: zoo_networks.kohya(zoo_networks.matrices(base), path),
        "hands": lambda path: zoo_networks.embedding(base, path),
    }
    files = {name: studio.made(f"{family}-{name}.safetensors", make) for name, make in made.items()}
    files["vae"] = studio.made(f"{family}-vae", lambda path: zoo_networks.other_vae(base, path))
    loras = (Lora(model_id="plain"),)
    return files, {"loras": loras, "embeddings": ("hands",), "vae_id": "vae", "prompt": "a hands"}


def checked(studio: Studio, _: str) -> tuple[dict[str, Path], dict[str, Any]]:
    from tests.support import zoo_companions  # noqa: PLC0415  # imports diffusers

    path = studio.made("checker", lambda path: zoo_companions.safety_checker(path, flags=False))
    return {"checker": path}, {"safety_check": True, "safety_checker": "checker"}


def alone(**given: Any) -> Callable[[Studio, str], tuple[dict[str, Path], dict[str, Any]]]:
    return lambda _studio, _family: ({}, given)


FEATURES: Mapping[str, Callable[[Studio, str], tuple[dict[str, Path], dict[str, Any]]]] = {
    "prompts that are weighted, long, and change": alone(
        prompt=f"a (cat:1.4) [red:blue:0.5], {'dog and ' * 40}", negative_prompt="(dog:1.2)", steps=2, clip_skip=2
    ),
    "img2img": alone(image=GIVEN, strength=1.0),
    "inpainting over noise": alone(image=GIVEN, strength=1.0, mask=Mask(image=HALF, fill="noise")),
    "high-res fix over latents": alone(hires=Hires(scale=1.5, steps=1), upscale=Upscale()),
    "variation seeds": alone(subseed=4, subseed_strength=0.5),
    "noise from the processor": alone(scheduler="DPM++ SDE Karras", steps=2),
    "ControlNet": steered,
    "LoRA, embedding and VAE": worn,
    "safety checker": checked,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_draws_on_a_gpu(shared: Studio, gpu: Gpu, feature: str) -> None:
    files, given = FEATURES[feature](shared, "sd15")
    if "sd15" not in shared.driver.loaded():
        shared.draw("sd15")
    before = gpu.allocated

    (picture,) = shared.draw("sd15", files, **given)
    for name in files:
        shared.driver.pipelines.cache.drop(name)

    assert picture.image.size == ((192, 192) if "upscale" in given else (64, 64))
    # What went along leaves nothing behind.
    assert abs(gpu.allocated - before) < SMALL


def test_orders_share_a_pass_on_a_gpu_and_one_of_them_leaves_it(studio: Studio) -> None:
    orders = [studio.order("sd15", seed=seed, steps=2) for seed in (1, 2)]

    def leave(step: Step) -> None:
        if step.step == 1:
            raise DrawingCancelled

    drawn = list(studio.driver.draw_together(orders, [lambda _: None, leave]))

    assert [place for place, _ in drawn] == [0]


# The ladder


@pytest.fixture(scope="module")
def whole(shared: Studio, gpu: Gpu) -> tuple[Pixels, int]:
    """Return what a model draws that fits the GPU, and the bytes that it takes there."""
    (picture,) = shared.draw("sd15")
    taken = gpu.allocated
    shared.driver.free()
    return pixels(picture), taken


@pytest.mark.parametrize("rung", [ladder.TILED, ladder.OFFLOAD, ladder.GROUPS, ladder.COMPUTER])
def test_a_model_on_each_rung_draws_the_same_and_leaves_on_the_gpu_what_is_counted(
    whole: tuple[Pixels, int], studio: Studio, gpu: Gpu, rung: str
) -> None:
    driver, (expected, resident) = with_rung(rung), whole

    # The second time layers are brought in the order of the first.
    pictures = [next(iter(driver.draw(studio.order("sd15"), lambda _: None))) for _ in range(2)]
    taken, counted = gpu.allocated, driver.pipelines.cache.used("cuda")
    driver.free()

    assert {picture.drawn_with["memory"] for picture in pictures} == {rung}
    assert all(np.abs(pixels(picture) - expected).max() <= ROUNDING for picture in pictures)
    assert taken <= {ladder.TILED: resident}.get(rung, 0) + SMALL
    assert taken <= counted + ROUNDED
    assert gpu.allocated == 0


def with_rung(rung: str) -> DiffusersDriver:
    """Return a driver that has found too little memory for anything better."""
    driver = DiffusersDriver(DriverSettings(device="cuda"))
    driver.pipelines._least = lambda order: rung  # type: ignore[method-assign]  # what a lack of memory leads to
    return driver


@pytest.mark.parametrize("rung", [ladder.OFFLOAD, ladder.GROUPS])
def test_what_goes_along_is_brought_with_a_model_that_is_moved_about(studio: Studio, gpu: Gpu, rung: str) -> None:
    files, given = worn(studio, "sd15")
    nets, more = steered(studio, "sd15")
    driver = with_rung(rung)

    (picture,) = driver.draw(studio.order("sd15", files | nets, **given, **more), lambda _: None)
    (plain,) = driver.draw(studio.order("sd15", prompt="a hands"), lambda _: None)
    driver.free()

    assert np.abs(pixels(picture) - pixels(plain)).max() > ROUNDING
    assert gpu.allocated == 0


# The cache, engines, and running out


def test_models_are_moved_to_the_computers_memory_and_back_and_draw_the_same(studio: Studio, gpu: Gpu) -> None:
    driver = studio.driver
    first = studio.draw("sd15")[0].image.tobytes()
    before, cache = gpu.allocated, driver.pipelines.cache

    cache._leave("sd15")
    gone, behind = gpu.allocated, cache.behind()
    again = studio.draw("sd15")[0].image.tobytes()

    assert (gone < SMALL, behind) == (True, ["sd15"])
    assert (again, gpu.allocated) == (first, before)


def test_an_engine_takes_what_is_measured_and_gives_it_back(studio: Studio, gpu: Gpu) -> None:
    taken = studio.driver.pinned.hold("engine", studio.order("sd15"))
    held = gpu.allocated
    studio.draw("sd15")
    drawn = gpu.allocated

    studio.driver.pinned.let_go("engine")

    assert taken == held
    assert 0 <= drawn - held < SMALL
    assert gpu.allocated == 0


def test_running_out_of_memory_is_told_with_more_needed_than_was_there_and_the_next_order_is_drawn(
    whole: tuple[Pixels, int], studio: Studio, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.draw("sd15")
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "total", gpu.allocated + 300_000)
        # It is taken to fit: the estimate was wrong.
        patch.setattr(studio.driver.pipelines.cache, "bring", lambda *_: True)
        needed, available = run_out(studio)
        was_there = gpu.total
    studio.driver.free()
    left = gpu.allocated

    (picture,) = studio.driver.draw(replace(studio.order("sd15"), frugal=True), lambda _: None)

    assert available == was_there < (needed or 0)
    assert left == 0
    assert picture.drawn_with["memory"] == ladder.OFFLOAD
    assert np.abs(pixels(picture) - whole[0]).max() <= ROUNDING


def run_out(studio: Studio) -> tuple[int | None, int | None]:
    """Draw, and return what of the memory was missing; here, as the traceback keeps the tensors of the drawing."""
    try:
        studio.draw("sd15")
    except OutOfMemory as exc:
        return exc.needed, exc.available
    raise AssertionError("there was memory enough")
