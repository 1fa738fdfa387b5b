"""What is done where a model does not fit: chosen before the memory runs out, by what there is and was measured."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from app.core.extras import Control, Lora, Upscale
from app.core.spec import GenerationSpec
from tasks.machine.drivers.companions import weigh
from tasks.machine.drivers.contract import DrawingCancelled, DriverSettings, ModelFiles, Order, Step
from tasks.machine.drivers.diffusers import DiffusersDriver
from tasks.machine.drivers.ladder import COMPUTER, GROUPS, OFFLOAD, ON_CPU, ON_GPU, TILED, WHOLE, choose, needed
from tasks.machine.drivers.peaks import Key, Peaks
from tasks.machine.drivers.pipelines import Pipelines
from tasks.machine.drivers.placing import offload_by_groups, taken

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

SDXL = {"unet": 5_100, "text_encoder_2": 1_390, "text_encoder": 246, "vae": 167}
"""Megabytes in half precision."""

DRAWING = 2_500
NEEDS = {rung: needed(rung, SDXL, DRAWING) for rung in ON_GPU}
KEY: Key = ("sdxl", 1024, 1024, 1)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize(
    ("room", "rung"),
    [(24_000, WHOLE), (9_403, WHOLE), (9_402, TILED), (8_403, TILED), (8_000, OFFLOAD), (6_600, OFFLOAD),
     (4_000, GROUPS), (2_010, GROUPS), (1_000, COMPUTER)],
)  # fmt: skip
def test_the_first_rung_that_fits_is_taken(room: int, rung: str) -> None:
    assert choose(ON_GPU, NEEDS, room) == rung


def test_each_rung_takes_less_than_the_one_before_it() -> None:
    takes = list(NEEDS.values())

    assert takes == sorted(takes, reverse=True)
    assert takes[0] == sum(SDXL.values()) + DRAWING


def test_what_ran_out_of_memory_once_begins_further_down() -> None:
    assert choose(ON_GPU, NEEDS, 24_000, at_least=OFFLOAD) == OFFLOAD
    assert choose(ON_CPU, NEEDS, 0) == TILED


class FakeMeter:
    """A device's memory, as a test says."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0

    def begin(self) -> int:
        """Begin anew."""
        return self.now

    def peak(self) -> int:
        """Return the peak."""
        return self.most


def test_what_was_measured_is_known_the_next_time_and_after_a_restart(tmp_path: Path) -> None:
    meter, file = FakeMeter(), tmp_path / "learnt" / "memory.json"
    peaks = Peaks(meter, file)
    meter.now, meter.most = 7_000, 9_900

    with peaks.measured(KEY):
        pass
    meter.most = 8_000
    with peaks.measured(KEY):  # less than before is no news
        pass

    assert peaks.known(KEY) == 2_900
    assert Peaks(meter, file).known(KEY) == 2_900
    assert peaks.known((*KEY[:3], 4)) is None


def test_a_drawing_that_was_stopped_teaches_nothing(tmp_path: Path) -> None:
    meter = FakeMeter()
    meter.most = 10
    peaks = Peaks(meter, tmp_path / "memory.json")

    with pytest.raises(RuntimeError), peaks.measured(KEY):
        raise RuntimeError("out of memory")

    assert peaks.known(KEY) is None


def test_a_broken_file_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "memory.json"
    file.write_text("[[1, 2")

    assert Peaks(FakeMeter(), file).known(KEY) is None
    assert "estimated anew" in caplog.text


@pytest.fixture
def tight(zoo: "Zoo") -> tuple[Pipelines, Order]:
    """Return pipelines that may take ten megabytes, and an order of a model of sixteen."""
    model = ModelFiles("sd15", zoo.folder("sd15"), "sd15")
    spec = GenerationSpec(model_id="sd15", prompt="a cat", steps=1, width=64, height=64)
    return Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=10_000_000)), Order(spec, model)


def test_a_model_that_does_not_fit_is_loaded_for_less_memory_and_stays_so(
    tight: tuple[Pipelines, Order], caplog: pytest.LogCaptureFixture
) -> None:
    pipelines, order = tight

    with pipelines.borrowed(order) as first:
        pass
    pipelines.cache._device = pipelines.cache._device.__class__("cpu", lambda: 10**12)  # there is room again
    with pipelines.borrowed(order) as second:
        pass

    assert (first.rung, second is first) == (TILED, True)
    assert first.pipeline.vae.use_tiling
    assert "it is drawn with tiled" in caplog.text


def test_what_was_measured_counts_more_than_an_estimate(zoo: "Zoo", tight: tuple[Pipelines, Order]) -> None:
    _, order = tight
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=200_000_000))
    estimated = pipelines.activations(order)
    pipelines.peaks._known["sd15", 64, 64, 1] = 10**12

    with pipelines.borrowed(order) as loaded:
        pass

    assert estimated < 200_000_000
    assert loaded.rung == TILED


def test_an_order_that_is_too_large_for_a_model_in_memory_moves_it_down_once(zoo: "Zoo") -> None:
    small, large = orders_of_two_sizes(zoo)
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=1_000_000_000))

    rungs = []
    for order in (small, large, small):
        with pipelines.borrowed(order) as loaded:
            rungs.append((loaded.rung, id(loaded)))

    assert [rung for rung, _ in rungs] == [WHOLE, TILED, TILED]
    assert rungs[1] == rungs[2]
    assert pipelines.cache.on_device() == ["sd15"]


def test_layers_that_are_brought_one_by_one_draw_the_same(zoo: "Zoo") -> None:
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415  # seconds of import

    def draw(pipeline: Any) -> bytes:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        drawn = pipeline("a cat", num_inference_steps=1, generator=generator, width=64, height=64)
        return bytes(drawn.images[0].tobytes())

    whole = StableDiffusionPipeline.from_pretrained(zoo.folder("sd15"))
    moved = StableDiffusionPipeline.from_pretrained(zoo.folder("sd15"))
    offload_by_groups(torch, moved, "cpu")

    assert draw(moved) == draw(whole)


@pytest.mark.parametrize(
    ("device", "rung", "sizes"),
    [
        ("cuda", WHOLE, [100, 20]),
        ("cuda", TILED, [100, 20]),
        ("cuda", OFFLOAD, [100, 0]),
        ("cuda", GROUPS, [10, 0]),
        ("cuda", COMPUTER, [0, 0]),
        ("cpu", TILED, [100, 20]),
    ],
)
def test_only_what_stays_on_the_device_is_counted_there(device: str, rung: str, sizes: list[int]) -> None:
    assert list(taken({"unet": 100, "vae": 20}, device, rung).values()) == sizes


def test_what_goes_along_takes_its_part_on_every_rung_that_draws_on_the_device() -> None:
    more = {rung: needed(rung, SDXL, DRAWING, 700) - NEEDS[rung] for rung in ON_GPU}

    assert more == {WHOLE: 700, TILED: 700, OFFLOAD: 700, GROUPS: 700, COMPUTER: 0}


def test_a_model_goes_back_up_once_there_has_been_room_for_some_orders_in_turn(zoo: "Zoo") -> None:
    small, large = orders_of_two_sizes(zoo)
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=1_000_000_000))

    rungs = [rung_of(pipelines, order) for order in (large, small, small, large, small, small, small)]

    # Sizes that change with every order do not load it each time; three small ones in turn do, once.
    assert rungs == [TILED, TILED, TILED, TILED, TILED, TILED, WHOLE]


def test_what_ran_out_of_memory_although_it_should_fit_does_not_go_back_up_by_itself(zoo: "Zoo") -> None:
    small, _ = orders_of_two_sizes(zoo)
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=1_000_000_000))

    rungs = [rung_of(pipelines, order) for order in (replace(small, frugal=True), small, small, small, small)]

    assert set(rungs) == {TILED}


def test_what_does_not_fit_beside_its_companions_is_loaded_for_less_memory(zoo: "Zoo") -> None:
    small, _ = orders_of_two_sizes(zoo)
    whole = Pipelines(torch, "cpu", DriverSettings(device="cpu")).estimate(small.model, 64, 64).total

    def rung(along: dict[str, int]) -> str:
        pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=whole + 1_000_000))
        with pipelines.borrowed(small, along) as loaded:
            return loaded.rung

    assert [rung({}), rung({"net": 900_000}), rung({"net": 1_100_000})] == [WHOLE, WHOLE, TILED]


def test_companions_are_weighed_by_their_headers_in_the_precision_they_are_used_in(zoo: "Zoo", tmp_path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415  # imports torch

    small, _ = orders_of_two_sizes(zoo)
    save_file({"weight": torch.zeros(1000, dtype=torch.float16)}, tmp_path / "a.safetensors")
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("model.safetensors", "model.fp16.safetensors"):  # one of the two is loaded
        save_file({"weight": torch.zeros(1000)}, folder / name)
    files = {name: ModelFiles(name, tmp_path / "a.safetensors", name) for name in ("lora", "vae", "checker", "large")}
    spec = replace(
        small.spec,
        loras=(Lora(model_id="lora"),),
        vae_id="vae",
        controls=(Control(model_id="net", image="a" * 64),),
        safety_check=True,
        safety_checker="checker",
        upscale=Upscale(upscaler="large"),
    )
    order = replace(small, spec=spec, companions=files | {"net": ModelFiles("net", folder, "net")})

    found = weigh(order, "bfloat16")

    assert found == {"lora": 2000, "vae": 2000, "net": 2000, "checker": 4000, "large": 4000}


def test_companions_that_are_there_already_are_not_counted_twice_nor_sent_away(zoo: "Zoo") -> None:
    small, _ = orders_of_two_sizes(zoo)
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu"))
    whole = pipelines.estimate(small.model, 64, 64).total
    pipelines = Pipelines(torch, "cpu", DriverSettings(device="cpu", cpu_cache=whole + 1_000_000))
    net = ModelFiles("net", Path("net"), "p")
    network = torch.nn.Linear(150, 1500)
    with pipelines.beside(net, "float32", 900_000, lambda *_: network):
        pass

    with pipelines.borrowed(small, {"net": 906_000}) as loaded:
        assert loaded.rung == WHOLE
        assert "net" in pipelines.cache.on_device()


def test_a_lora_is_brought_layer_by_layer_with_the_network_that_wears_it(zoo: "Zoo", tmp_path: Path) -> None:
    from tests.support import zoo_networks  # noqa: PLC0415  # imports diffusers

    small, _ = orders_of_two_sizes(zoo)
    path = zoo_networks.kohya(zoo_networks.matrices(zoo.folder("sd15")), tmp_path / "a.safetensors")
    spec = replace(small.spec, seed=1, loras=(Lora(model_id="a"),))
    order = replace(small, spec=spec, companions={"a": ModelFiles("a", path, "a")})
    driver = DiffusersDriver(DriverSettings(device="cpu"))
    (expected,) = driver.draw(order, lambda _: None)
    with driver.pipelines.borrowed(order) as loaded:
        offload_by_groups(torch, loaded.pipeline, "cpu")
        with driver.wardrobe.worn(loaded, order):
            worn = layers_that_are_brought(loaded.pipeline.unet)
        after = layers_that_are_brought(loaded.pipeline.unet)

    (drawn,) = driver.draw(order, lambda _: None)

    assert any("lora_A" in name for name in worn)
    assert {name for name in after if "lora" in name} == set()
    assert "conv_in" in worn & after
    assert drawn.image.tobytes() == expected.image.tobytes()


def layers_that_are_brought(network: Any) -> set[str]:
    return {
        name
        for name, module in network.named_modules()
        if (hooks := getattr(module, "_diffusers_hook", None)) and hooks.get_hook("group_offloading")
    }


def test_a_drawing_that_is_stopped_leaves_no_network_behind_on_the_device(zoo: "Zoo") -> None:
    small, _ = orders_of_two_sizes(zoo)
    driver = DiffusersDriver(DriverSettings(device="cpu"))
    with driver.pipelines.borrowed(small) as loaded:
        loaded.pipeline.enable_model_cpu_offload(device="cpu")
    hooks = list(loaded.pipeline._all_hooks)

    def stop(step: Step) -> None:
        if step.step == 1:
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        list(driver.draw(small, stop))

    # diffusers takes all networks off the device and lays its hooks anew at the end of a call: here it has as well.
    assert len(hooks) == 3
    assert not any(hook in loaded.pipeline._all_hooks for hook in hooks)


def orders_of_two_sizes(zoo: "Zoo") -> tuple[Order, Order]:
    """Return an order of a small picture, and one that takes more than a gigabyte."""
    model = ModelFiles("sd15", zoo.folder("sd15"), "sd15")
    small = GenerationSpec(model_id="sd15", prompt="a cat", steps=1, width=64, height=64)
    return Order(small, model), Order(replace(small, width=2048, height=2048), model)


def rung_of(pipelines: Pipelines, order: Order) -> str:
    with pipelines.borrowed(order) as loaded:
        return loaded.rung
