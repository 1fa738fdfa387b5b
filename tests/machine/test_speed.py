"""What makes drawing faster where it is asked for; that it is faster, only a GPU can show."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles
from tasks.machine.drivers.loading import Loading
from tasks.machine.drivers.plan import plan
from tasks.machine.drivers.speed import quicken

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo


@pytest.fixture(scope="module")
def pipeline(zoo: "Zoo") -> Any:
    """Return a small FLUX."""
    return Loading(torch.float32, "cpu").pipeline(plan(ModelFiles("flux", zoo.folder("flux"), "flux")))


def compiled(network: Any) -> set[str]:
    return {type(module).__name__ for module in network.modules() if module._compiled_call_impl is not None}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler says so of torch
def test_only_blocks_that_repeat_are_compiled_and_only_when_asked(pipeline: Any) -> None:
    quicken(torch, pipeline, "cpu", DriverSettings())
    before = compiled(pipeline.transformer)

    quicken(torch, pipeline, "cpu", DriverSettings(compile=True))

    assert before == set()
    assert compiled(pipeline.transformer) == {"FluxTransformerBlock", "FluxSingleTransformerBlock"}
    assert compiled(pipeline.vae) == set()


def test_an_attention_that_is_not_there_is_refused_by_its_name(pipeline: Any) -> None:
    quicken(torch, pipeline, "cpu", DriverSettings(attention="native"))

    with pytest.raises(CannotDraw, match="ATTENTION=nonsense"):
        quicken(torch, pipeline, "cpu", DriverSettings(attention="nonsense"))
