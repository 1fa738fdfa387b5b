"""Every cell of the tables of docs/drivers.md: what stands there is what happens, with the variants of each family.

The other test files show each feature with the families themselves; here the page is held against a driver. A cell that
says `refused` is refused with a sentence, one that says why nobody asks is left alone, and all others are drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from app.core.extras import Control, Hires, Lora, Mask, Upscale
from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order
from tests.support.pages import Table, table_with

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]

GIVEN, OTHER, HALF = "a" * 64, "b" * 64, "c" * 64
LEFT_ALONE = ("no trainer makes them", "")
Pixels = Any
"""A picture as numbers of shape (height, width, 3)."""


@dataclass(frozen=True)
class Model:
    """One that a column of a table speaks of."""

    zoo: str
    base: str | None = None
    """What the catalogue calls it, where its file looks like another one's."""

    @property
    def name(self) -> str:
        """Return its id."""
        return f"{self.zoo}-{self.base}" if self.base else self.zoo


TURBO = Model("sdxl", "SDXL Turbo")

NETWORKS: Mapping[str, Sequence[Model]] = {
    "SD 1.5, 2": (Model("sd2"),),
    "SDXL, turbo, lightning": (TURBO,),
    "SD 3": (Model("sd35"),),
    "FLUX.1": (Model("schnell"),),
    "Sana, Sprint": (Model("sana"),),
}
BEGINNINGS: Mapping[str, Sequence[Model]] = {
    "SD 1.5, 2": (Model("sd2"),),
    "SDXL, turbo, refiner": (TURBO, Model("refiner")),
    "SD 3": (Model("sd35"),),
    "FLUX.1": (Model("schnell"),),
    "Sana": (Model("sana"),),
    "Sana Sprint": (Model("sana_sprint"),),
}
CONTROLS: Mapping[str, Sequence[Model]] = {
    "sd15, sd2, sdxl": (Model("sd2"),),
    "sd3": (Model("sd35"),),
    "flux": (Model("schnell"),),
    "sana": (Model("sana"),),
    "sana-sprint, refiner": (Model("refiner"), Model("sana_sprint")),
}


class Stage:
    """A driver, the zoo, and what goes along with it."""

    def __init__(self, zoo: "Zoo", folder: Path) -> None:
        from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds of import

        self.zoo, self.folder = zoo, folder
        self.driver: DiffusersDriver = DiffusersDriver(DriverSettings(device="cpu"))
        self._plain: dict[str, Pixels] = {}

    def draw(self, model: Model, files: Mapping[str, Path] | None = None, **given: Any) -> Pixels:
        """Draw one picture with a model."""
        fields: dict[str, Any] = {"prompt": "a red cat", "seed": 1, "steps": 1, "width": 64, "height": 64} | given
        if model.zoo == "refiner":  # it goes over pictures, whatever the order is about
            fields = {"image": GIVEN, "strength": 1.0} | fields
        spec = GenerationSpec(model_id=model.name, **fields)
        companions = {name: ModelFiles(name, path, str(path)) for name, path in (files or {}).items()}
        checkpoint = ModelFiles(model.name, self.zoo.folder(model.zoo), model.name, model.base)
        (picture,) = self.driver.draw(Order(spec, checkpoint, companions, PICTURES), lambda _: None)
        return np.asarray(picture.image.convert("RGB")).astype(int)

    def plain(self, model: Model) -> Pixels:
        """Draw what a model draws with nothing to it, once."""
        if model.name not in self._plain:
            self._plain[model.name] = self.draw(model)
        return self._plain[model.name]

    def made(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Make a file or a folder, once."""
        path = self.folder / name
        if not path.exists():
            make(path)
        return path


def half() -> Image.Image:
    """Make a mask that shows the left half."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


PICTURES = {GIVEN: Image.new("RGB", (64, 64), "red"), OTHER: Image.new("RGB", (64, 64), "white"), HALF: half()}


@pytest.fixture(scope="module")
def stage(zoo: "Zoo", tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Return one for all tests here."""
    import torch  # noqa: PLC0415  # seconds of import

    torch.set_num_threads(1)
    return Stage(zoo, tmp_path_factory.mktemp("cells"))


# LoRAs, embeddings, autoencoders


def wears(stage: Stage, model: Model, form: str, **more: Any) -> None:
    """Show that a LoRA changes the picture, and that with no weight it is none, to the bit."""
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    folder = stage.zoo.folder(model.zoo)
    made = networks.matrices(folder, **more)
    code = "flux" if model.zoo == "schnell" else "sd3"
    write: dict[str, Callable[[Path], Path]] = {
        "peft": lambda path: networks.peft(made, path),
        "kohya": lambda path: networks.kohya(made, path),
        "original": lambda path: networks.kohya_original(made, folder, code, path),
    }
    name = "-".join([model.zoo, form, *map(str, more.items())])
    files = {"a": stage.made(f"{name}.safetensors", write[form])}

    none, worn = (stage.draw(model, files, loras=(Lora(model_id="a", weight=weight),)) for weight in (0.0, 1.0))

    assert (none == stage.plain(model)).all()
    assert (worn != none).any()


def wears_kohyas(stage: Stage, model: Model) -> None:
    """Name layers as kohya's trainer does: as the original code where it has networks of its own."""
    wears(stage, model, "original" if model.zoo in {"sd35", "schnell"} else "kohya")


def wears_on_text(stage: Stage, model: Model) -> None:
    """Wear LoRAs for text encoders alone: all that there are, T5 too."""
    folder = stage.zoo.folder(model.zoo)
    for encoder in sorted(path.name for path in folder.glob("text_encoder*")):
        wears(stage, model, "kohya", parts=(encoder,))


def is_called(stage: Stage, model: Model) -> None:
    """Show that the word of an embedding means its vectors."""
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    # Others refuse whatever there is.
    base = stage.zoo.folder("sdxl" if "xl" in model.zoo else "sd2")
    files = {"hands": stage.made(f"hands-for-{base.name}", lambda path: networks.embedding(base, path))}

    meant, spelt = (
        stage.draw(model, files, prompt="a hands", embeddings=each, guidance_scale=3.0) for each in (("hands",), ())
    )

    assert (meant != spelt).any()


def decodes(stage: Stage, model: Model, *layouts: str) -> None:
    """Make another picture of the same latents by another autoencoder, whatever its file looks like."""
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    folder = stage.zoo.folder(model.zoo)
    drawn = []
    for layout in layouts:
        name = f"{model.zoo}-vae-{layout}{'' if layout == 'folder' else '.safetensors'}"
        path = stage.made(name, partial(networks.other_vae, folder, layout=layout))
        drawn.append(stage.draw(model, {"vae": path}, vae_id="vae"))

    assert all((each != stage.plain(model)).any() for each in drawn)
    assert all((each == drawn[0]).all() for each in drawn)


# Pictures to begin with


def begins(stage: Stage, model: Model) -> None:
    """Show that what a drawing begins with is seen in it."""
    one, other = (stage.draw(model, image=each, strength=0.5, steps=2) for each in (GIVEN, OTHER))

    assert (one != other).any()


def paints_inside(stage: Stage, model: Model) -> None:
    """Show that nothing changes outside of a mask, and something inside of it."""
    given = np.asarray(PICTURES[GIVEN]).astype(int)

    drawn = stage.draw(model, image=GIVEN, strength=1.0, mask=Mask(image=HALF, blur=0))

    assert (drawn[:, 32:] == given[:, 32:]).all()
    assert (drawn[:, :32] != given[:, :32]).any()


def draws_larger(stage: Stage, model: Model, upscaler: str) -> None:
    """Draw a second time in the larger size."""
    drawn = stage.draw(model, hires=Hires(scale=1.5, upscaler=upscaler, steps=1))

    assert drawn.shape == (96, 96, 3)


def is_enlarged(stage: Stage, model: Model) -> None:
    """Make four pixels of each that was drawn."""
    drawn = stage.draw(model, upscale=Upscale(factor=2, upscaler="Nearest"))

    assert (drawn == stage.plain(model).repeat(2, axis=0).repeat(2, axis=1)).all()


# ControlNets


def steers(stage: Stage, model: Model, controls: Sequence[Mapping[str, Any]] = ({},), **begun: Any) -> None:
    """Show that a ControlNet changes the picture, and each of several does."""
    nets = {f"net{seed}": controlnet(stage, model, seed) for seed in range(len(controls))}
    wanted = tuple(Control(model_id=name, image=OTHER, **each) for name, each in zip(nets, controls, strict=True))
    without = stage.draw(model, **begun) if begun or len(controls) > 1 else stage.plain(model)

    drawn = stage.draw(model, nets, controls=wanted, **begun)

    assert (drawn != without).any()
    if len(controls) > 1:
        assert (drawn != stage.draw(model, nets, controls=wanted[:1], **begun)).any()


def controlnet(stage: Stage, model: Model, seed: int = 0) -> Path:
    from tests.support import zoo_companions as companions  # noqa: PLC0415  # imports torch

    base = stage.zoo.folder(model.zoo)
    return stage.made(f"{model.zoo}-net{seed}", lambda path: companions.controlnet(model.zoo, base, path, seed))


def steers_from_pictures(stage: Stage, model: Model) -> None:
    """Steer img2img, inpainting and the second pass."""
    steers(stage, model, image=GIVEN, strength=1.0)
    steers(stage, model, image=GIVEN, strength=1.0, mask=Mask(image=HALF))
    steers(stage, model, hires=Hires(scale=1.5, upscaler="Lanczos", steps=1))


def steers_for_a_time(stage: Stage, model: Model) -> None:
    """Steer the second step of two alone."""
    steers(stage, model, ({"start": 0.5},), steps=2)


def steers_from_files(stage: Stage, model: Model) -> None:
    """Steer by a folder, and by single files, where they can be read, exactly as by it."""
    from tests.support import zoo_companions as companions  # noqa: PLC0415  # imports torch

    folder = controlnet(stage, model)
    control = (Control(model_id="net0", image=OTHER),)
    drawn = stage.draw(model, {"net0": folder}, controls=control)
    files = [folder / "diffusion_pytorch_model.safetensors"]
    if (stage.zoo.folder(model.zoo) / "unet").is_dir():
        base = stage.zoo.folder(model.zoo)
        files.append(stage.made(f"{model.zoo}-net0.safetensors", partial(companions.controlnet_file, folder, base)))
        assert all((stage.draw(model, {"net0": file}, controls=control) == drawn).all() for file in files)
    else:
        with pytest.raises(CannotDraw, match="take the diffusers folder"):
            stage.draw(model, {"net0": files[0]}, controls=control)


Check = Callable[[Stage, Model], None]

CHECKS: Mapping[str, tuple[Mapping[str, Sequence[Model]], Check]] = {
    "LoRA, kohya": (NETWORKS, wears_kohyas),
    "LoRA, PEFT and diffusers": (NETWORKS, lambda stage, model: wears(stage, model, "peft")),
    "LoRA for text encoders": (NETWORKS, wears_on_text),
    "LoCon (convolutions), DoRA": (NETWORKS, lambda stage, model: wears(stage, model, "peft", dora=True)),
    "embedding": (NETWORKS, is_called),
    "VAE, folder": (NETWORKS, lambda stage, model: decodes(stage, model, "folder")),
    "VAE, single file": (NETWORKS, lambda stage, model: decodes(stage, model, "folder", *layouts_of(model))),
    "img2img": (BEGINNINGS, begins),
    "inpainting": (BEGINNINGS, paints_inside),
    "high-res fix over latents": (BEGINNINGS, lambda stage, model: draws_larger(stage, model, "Latent")),
    "high-res fix over pixels": (BEGINNINGS, lambda stage, model: draws_larger(stage, model, "Lanczos")),
    "upscaling": (BEGINNINGS, is_enlarged),
    "from text": (CONTROLS, steers),
    "img2img, inpainting, high-res fix": (CONTROLS, steers_from_pictures),
    "several at once": (CONTROLS, lambda stage, model: steers(stage, model, ({}, {}))),
    "`start`, `end`": (CONTROLS, steers_for_a_time),
    "files": (CONTROLS, steers_from_files),
}


def layouts_of(model: Model) -> Sequence[str]:
    """Return which names a file of an autoencoder may have: Sana's only diffusers' here."""
    return ("diffusers",) if model.zoo == "sana" else ("original", "diffusers")


def said(row: str, column: str) -> str:
    """Return what the page says."""
    return table_with("drivers.md", row)[row][column]


@pytest.mark.parametrize("row", ["LoRA, kohya", "img2img", "`start`, `end`"])
def test_every_row_and_column_of_the_page_is_looked_at(row: str) -> None:
    table: Table = table_with("drivers.md", row)

    assert set(table) <= set(CHECKS)
    for each, cells in table.items():
        assert list(cells) == list(CHECKS[each][0])


@pytest.mark.parametrize(
    ("row", "column", "model"),
    [
        pytest.param(row, column, model, id=f"{row}-{model.name}")
        for row, (columns, _) in CHECKS.items()
        for column, models in columns.items()
        for model in models
    ],
)
def test_what_a_cell_says_is_what_happens(stage: Stage, row: str, column: str, model: Model) -> None:
    cell, check = said(row, column), CHECKS[row][1]

    if cell in LEFT_ALONE:
        return
    if cell == "refused":
        with pytest.raises(CannotDraw) as refused:
            check(stage, model)
        assert len(str(refused.value).split()) > 5
    else:
        check(stage, model)
