"""The GPU part of the benchmark runs, down to its last row; that its figures mean something, only a GPU can show."""

import pytest

from tests.bench import pictures_cuda


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler says so of torch
def test_every_row_of_the_gpu_benchmark_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    pictures_cuda.main("cpu", tiny=True)

    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| sdxl", "| flux"))]
    assert len(rows) == 12
    assert {row[0] for row in rows} == {"| sdxl", "| flux"}
    assert all(float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize("model", pictures_cuda.FULL_SIZE)
def test_the_models_of_the_gpu_benchmark_have_their_full_size(model: str) -> None:
    # On the device that only knows shapes: nothing of the 28 GB is made.
    pipeline = pictures_cuda.FULL_SIZE[model]("meta")

    network = pipeline.unet if model == "sdxl" else pipeline.transformer
    numbers = sum(each.numel() for each in network.parameters())
    assert numbers == {"sdxl": 2_567_463_684, "flux": 11_901_408_320}[model]
