"""Upscaling networks: every layout of weights that is given out, tile by tile without a seam, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tasks.machine.drivers import upscalers
from tasks.machine.drivers.contract import CannotDraw, ModelFiles

State = dict[str, torch.Tensor]


def rrdb(blocks: int = 2, width: int = 8, ups: int = 2, colours: int = 3) -> State:
    """Make a tiny RRDBNet with random weights, in Real-ESRGAN's names; it is close to doing nothing but enlarging."""
    generator = torch.Generator().manual_seed(0)
    found: State = {}

    def conv(name: str, into: int, out: int) -> None:
        found[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * 0.1
        found[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1

    conv("conv_first", colours, width)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for step in range(1, 6):
                conv(f"body.{block}.rdb{dense}.conv{step}", width + 4 * (step - 1), width if step == 5 else 4)
    conv("conv_body", width, width)
    for number in range(1, ups + 1):
        conv(f"conv_up{number}", width, width)
    conv("conv_hr", width, width)
    conv("conv_last", width, 3)
    found["conv_last.weight"] *= 5
    found["conv_last.bias"] = torch.full((3,), 0.5)
    return found


def in_esrgans_names(state: State, blocks: int = 2, ups: int = 2) -> State:
    """Name the same weights as ESRGAN of 2018 does: a numbered sequence."""
    numbers = {f"conv_up{k}": 3 * k for k in range(1, ups + 1)} | {"conv_hr": 3 * ups + 2, "conv_last": 3 * ups + 4}
    found = {}
    for name, tensor in state.items():
        head, _, end = name.rpartition(".")
        if head.startswith("body."):
            _, block, dense, conv = head.split(".")
            head = f"model.1.sub.{block}.RDB{dense[3:]}.{conv}.0"
        elif head == "conv_body":
            head = f"model.1.sub.{blocks}"
        else:
            head = f"model.{numbers.get(head, 0)}"
        found[f"{head}.{end}"] = tensor
    return found


def in_its_successors_names(state: State) -> State:
    """Name the same weights as the ESRGAN of BasicSR's beginnings does."""
    names = {"conv_body": "trunk_conv", "conv_hr": "HRconv", "conv_up1": "upconv1", "conv_up2": "upconv2"}
    found = {}
    for name, tensor in state.items():
        head, _, end = name.rpartition(".")
        if head.startswith("body."):
            _, block, dense, conv = head.split(".")
            head = f"RRDB_trunk.{block}.RDB{dense[3:]}.{conv}"
        found[f"{names.get(head, head)}.{end}"] = tensor
    return found


def compact(scale: int = 3) -> State:
    """Make a tiny network of Real-ESRGAN's compact kind."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 3, 3, 3), (8,), (8, 8, 3, 3), (8,), (3 * scale**2, 8, 3, 3)]
    found = {}
    for number, shape in enumerate(shapes):
        found[f"body.{number}.weight"] = torch.randn(shape, generator=generator) * 0.05
        if len(shape) > 1:
            found[f"body.{number}.bias"] = torch.zeros(shape[0])
    return found


def saved(state: State, folder: Path) -> ModelFiles:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "net.safetensors")
    return ModelFiles("net", folder / "net.safetensors", "proof")


def a_photo(size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))


def enlarged(model: ModelFiles, image: Image.Image, size: tuple[int, int], **more: Any) -> Image.Image:
    return upscalers.enlarged(torch, upscalers.read(model, **more), image, size, lambda: None)


def test_one_network_in_three_layouts_makes_one_picture(tmp_path: Path) -> None:
    state, found = rrdb(), []
    for number, named in enumerate((state, in_esrgans_names(state), in_its_successors_names(state))):
        (tmp_path / str(number)).mkdir()
        found.append(enlarged(saved(named, tmp_path / str(number)), a_photo(), (160, 120)))

    assert found[0].size == (160, 120)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    assert np.asarray(found[0]).std() > 1


@pytest.mark.parametrize(("state", "scale"), [(rrdb(), 4), (rrdb(ups=1), 2), (rrdb(colours=12), 2), (compact(), 3)])
def test_the_factor_is_read_from_the_weights(state: State, scale: int, tmp_path: Path) -> None:
    network = upscalers.read(saved(state, tmp_path))

    assert network.scale == scale
    assert enlarged(saved(state, tmp_path), a_photo((31, 23)), (31 * scale, 23 * scale)).size == (
        31 * scale,
        23 * scale,
    )


def test_tiles_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, photo = saved(rrdb(blocks=1), tmp_path), a_photo((100, 70))
    whole = enlarged(model, photo, (400, 280))

    monkeypatch.setattr(upscalers, "TILE", 48)
    tiled = enlarged(model, photo, (400, 280))

    apart = np.abs(np.asarray(whole).astype(int) - np.asarray(tiled).astype(int))
    assert apart.max() <= 2


def test_it_goes_over_a_picture_again_where_once_is_not_enough(tmp_path: Path) -> None:
    assert enlarged(saved(rrdb(ups=1), tmp_path), a_photo(), (200, 150)).size == (200, 150)


def test_a_pickle_is_read_only_where_that_is_allowed_and_weights_only(tmp_path: Path) -> None:
    torch.save({"params_ema": rrdb()}, tmp_path / "net.pth")
    model = ModelFiles("net", tmp_path / "net.pth", "proof")

    with pytest.raises(CannotDraw, match="ALLOW_PICKLES"):
        upscalers.read(model)

    assert upscalers.read(model, allow_pickles=True).scale == 4


@pytest.mark.parametrize("state", [{"something": torch.zeros(3)}, {"conv_first.weight": torch.zeros(8, 3, 3, 3)}])
def test_another_network_is_refused_with_what_can_be_read(state: State, tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match="Real-ESRGAN"):
        upscalers.read(saved(state, tmp_path))


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"rubbish")

    with pytest.raises(CannotDraw, match="cannot be read"):
        upscalers.read(ModelFiles("net", tmp_path / "net.safetensors", "proof"))
