"""A model's files as the driver gets them: its own, and those of everything that it depends on, each still proven."""

import hashlib
from pathlib import Path
from shutil import copyfile, copytree
from typing import TYPE_CHECKING, Any

import pytest

from app.core.spec import GenerationSpec
from provisioning import receipts
from provisioning.receipts import ProvenFile, Receipt
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, Order
from tasks.machine.errors import ModelNotProven
from tasks.machine.watch import files_of

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo


def prove(models_dir: Path, model_id: str, path: Path, *dependencies: str) -> None:
    """Do what provisioning does at the end: a receipt for a file, or for a folder of files."""
    paths = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    proven = tuple(
        ProvenFile.of(
            models_dir, each.relative_to(models_dir), f"sha256:{hashlib.sha256(each.read_bytes()).hexdigest()}"
        )
        for each in paths
    )
    receipt = Receipt(model_id, "https://models.example.org", proven, dependencies, "2026-01-05T12:00:00+00:00")
    receipts.save(models_dir, receipt)


def write(path: Path, text: str = "weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_model_comes_with_what_it_depends_on_however_far_and_in_circles(tmp_path: Path) -> None:
    prove(tmp_path, "a", write(tmp_path / "a.bin"), "b")
    prove(tmp_path, "b", write(tmp_path / "b" / "x" / "1.bin").parent.parent, "c")
    write(tmp_path / "b" / "2.bin")
    prove(tmp_path, "b", tmp_path / "b", "c")
    prove(tmp_path, "c", write(tmp_path / "c.bin"), "a")

    found = files_of(tmp_path, "a", "sdxl")

    assert (found.path, found.base, list(found.hashes)) == (tmp_path / "a.bin", "sdxl", ["a.bin"])
    assert [(part.model_id, part.path) for part in found.parts] == [("b", tmp_path / "b"), ("c", tmp_path / "c.bin")]
    assert set(found.parts[0].hashes) == {"x/1.bin", "2.bin"}


def test_a_dependency_that_lost_its_proof_keeps_the_model_from_being_drawn_with(tmp_path: Path) -> None:
    prove(tmp_path, "a", write(tmp_path / "a.bin"), "b")
    prove(tmp_path, "b", write(tmp_path / "b.bin"))
    before = files_of(tmp_path, "a", None)
    write(tmp_path / "b.bin", "others")

    with pytest.raises(ModelNotProven, match=r"b has no valid receipt.*a depends on it"):
        files_of(tmp_path, "a", None)

    prove(tmp_path, "b", tmp_path / "b.bin")
    assert files_of(tmp_path, "a", None).identity != before.identity


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_provisioned_single_file_draws_with_its_provisioned_configuration(zoo: "Zoo", tmp_path: Path) -> None:
    copyfile(zoo.file("sd15"), tmp_path / "dream.safetensors")
    copytree(zoo.pack("sd15"), tmp_path / "configs" / "sd15")
    prove(tmp_path, "dream", tmp_path / "dream.safetensors", "sd15-config")
    prove(tmp_path, "sd15-config", tmp_path / "configs" / "sd15")
    given: dict[str, Any] = {"prompt": "a cat", "seed": 1, "steps": 1, "width": 64, "height": 64}
    order = Order(GenerationSpec(model_id="dream", **given), files_of(tmp_path, "dream", "SD 1.5"))

    (picture,) = make_driver("diffusers", DriverSettings(device="cpu")).draw(order, lambda _: None)

    assert picture.image.size == (64, 64)
