"""What is done where a model does not fit: chosen before the memory runs out, by what there is and was measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from app.core.spec import GenerationSpec
from tasks.machine.drivers import ladder
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tasks.machine.drivers.ladder import COMPUTER, GROUPS, OFFLOAD, ON_CPU, ON_GPU, TILED, WHOLE, choose, needed
from tasks.machine.drivers.peaks import Key, Peaks
from tasks.machine.drivers.pipelines import Pipelines, offload_by_groups

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

SDXL = {"unet": 5_100, "text_encoder_2": 1_390, "text_encoder": 246, "vae": 167}
"""Megabytes in half precision."""

DRAWING = 2_500
KEY: Key = ("sdxl", 1024, 1024, 1)


@pytest.mark.parametrize(
    ("room", "rung"),
    [(24_000, WHOLE), (9_403, WHOLE), (9_402, TILED), (8_403, TILED), (8_000, OFFLOAD), (6_600, OFFLOAD),
     (4_000, GROUPS), (2_010, GROUPS), (1_000, COMPUTER)],
)  # fmt: skip
def test_the_first_rung_that_fits_is_taken(room: int, rung: str) -> None:
    assert choose(ON_GPU, SDXL, DRAWING, room) == rung


def test_each_rung_takes_less_than_the_one_before_it() -> None:
    takes = [needed(rung, SDXL, DRAWING) for rung in ON_GPU]

    assert takes == sorted(takes, reverse=True)
    assert takes[0] == sum(SDXL.values()) + DRAWING


def test_what_ran_out_of_memory_once_begins_further_down() -> None:
    assert choose(ON_GPU, SDXL, DRAWING, 24_000, at_least=OFFLOAD) == OFFLOAD
    assert choose(ON_CPU, SDXL, DRAWING, 0) == TILED


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
    model = ModelFiles("sd15", zoo.folder("sd15"), "sd15")
    small = Order(GenerationSpec(model_id="sd15", prompt="a cat", width=64, height=64), model)
    large = Order(GenerationSpec(model_id="sd15", prompt="a cat", width=2048, height=2048), model)
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
    assert ladder.GROUPS in ladder.MOVED_ABOUT
