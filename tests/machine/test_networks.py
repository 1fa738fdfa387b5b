"""LoRAs, embeddings and autoencoders beside a model: what they do to its pictures, and that nothing of them stays."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import pytest

from app import catalogue
from app.core.extras import Lora
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import (
    CannotDraw,
    DrawingCancelled,
    DriverSettings,
    ModelFiles,
    Order,
    OutOfMemory,
    Step,
)
from tasks.machine.drivers.diffusers import _as_loaded
from tasks.machine.drivers.ladder import COMPUTER, TILED
from tests.shape_checker import COLOURS, check

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "sana", "sana_sprint")
FORMATS = {
    "sd15": ("peft", "diffusers", "kohya"),
    "sdxl": ("peft", "diffusers", "kohya", "original"),
    "sd3": ("peft", "diffusers", "original"),
    "flux": ("peft", "diffusers", "original"),
    "sana": ("peft", "diffusers", "kohya"),
    "sana_sprint": ("peft", "diffusers", "kohya"),
}
"""In which formats trainers give LoRAs of each family out; `original`: kohya's, with the original code's names."""

# numpy's complaints about how torch hands over its tensors: between these two, and the pictures are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

Pixels = Any
"""A picture as numbers of shape (64, 64, 3)."""


class Studio:
    """A driver, the zoo, and what is made for its pipelines."""

    def __init__(self, zoo: "Zoo", folder: Path) -> None:
        self.zoo, self.folder = zoo, folder
        self.driver: Any = make_driver("diffusers", DriverSettings(device="cpu"))
        self._files: dict[tuple[str, ...], Path] = {}

    def model(self, family: str) -> ModelFiles:
        """Return a pipeline of the zoo."""
        path = self.zoo.folder(family)
        return ModelFiles(family, path, str(path))

    def lora(self, family: str, form: str, *, text: bool = True, **more: Any) -> Path:
        """Make a LoRA, once; those of one family say the same in each format."""
        from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

        key = (family, form, str(text), *map(str, more.items()))
        if key not in self._files:
            folder = self.zoo.folder(family)
            path = self.folder / f"lora-{len(self._files)}.safetensors"
            made = networks.matrices(folder, text=text, **more)
            write: dict[str, Callable[[], Path]] = {
                "peft": lambda: networks.peft(made, path),
                "diffusers": lambda: networks.diffusers(made, path),
                "kohya": lambda: networks.kohya(made, path),
                "original": lambda: networks.kohya_original(made, folder, family, path),
                "bare": lambda: networks.bare(made, path.with_suffix("")),
            }
            self._files[key] = write[form]()
        return self._files[key]

    def order(self, family: str, files: dict[str, Path] | None = None, **spec: Any) -> Order:
        """Order a small picture of a red cat, with models of these names."""
        given: dict[str, Any] = {"prompt": "a red cat", "width": 64, "height": 64, "steps": 1, "seed": 1} | spec
        companions = {name: ModelFiles(name, path, f"{name} {path}") for name, path in (files or {}).items()}
        return Order(GenerationSpec(model_id=family, **given), self.model(family), companions)

    def draw(self, family: str, files: dict[str, Path] | None = None, **spec: Any) -> Pixels:
        """Draw it."""
        (picture,) = self.driver.draw(self.order(family, files, **spec), lambda _: None)
        self.notes = picture.notes
        return np.asarray(picture.image).astype(int)

    def weights(self, family: str) -> dict[str, bytes]:
        """Return all numbers of a pipeline's networks, by name."""
        with self.driver.pipelines.borrowed(self.order(family)) as loaded:
            networks = {name: each for name, each in loaded.pipeline.components.items() if hasattr(each, "state_dict")}
            return {
                f"{name}.{key}": tensor.numpy().tobytes()
                for name, network in networks.items()
                for key, tensor in network.state_dict().items()
            }


@pytest.fixture(scope="module")
def studio(zoo: "Zoo", tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Return one for all tests: its pipelines stay in memory."""
    return Studio(zoo, tmp_path_factory.mktemp("networks"))


def one(weight: float = 1.0, text_weight: float | None = None, name: str = "a") -> tuple[Lora, ...]:
    return (Lora(model_id=name, weight=weight, text_weight=text_weight),)


def distance(first: Pixels, second: Pixels) -> float:
    """Return by how much pictures differ, mean steps of 255."""
    return float(abs(first - second).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_draws_the_same_in_every_format_and_leaves_nothing_behind(studio: Studio, family: str) -> None:
    studio.driver.free()  # as it is loaded first, nothing has been worn yet
    plain, before = studio.draw(family), studio.weights(family)

    worn = {form: studio.draw(family, {"a": studio.lora(family, form)}, loras=one()) for form in FORMATS[family]}

    first = worn["peft"]
    assert distance(first, plain) > 0.02
    assert {form for form, picture in worn.items() if (picture != first).any()} == set()
    assert studio.weights(family) == before
    assert (studio.draw(family) == plain).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weight_of_a_lora_says_how_far_it_goes(studio: Studio, family: str) -> None:
    files = {"a": studio.lora(family, "peft")}
    plain = studio.draw(family)

    none, little, much = (studio.draw(family, files, loras=one(each)) for each in (0.0, 0.3, 1.0))

    assert (none == plain).all()
    assert 0 < distance(little, plain) < distance(much, plain)


def test_a_lora_may_go_the_other_way(studio: Studio) -> None:
    files = {"a": studio.lora("sd15", "peft")}

    little, much, against = (studio.draw("sd15", files, loras=one(each)) for each in (0.3, 1.0, -1.0))

    assert distance(against, much) > distance(little, studio.draw("sd15"))


def test_several_loras_are_worn_together_whatever_their_order(studio: Studio) -> None:
    files = {"a": studio.lora("sd15", "peft"), "b": studio.lora("sd15", "kohya", seed=9)}
    loras = (Lora(model_id="a", weight=0.5), Lora(model_id="b", weight=0.7))

    both, turned = (studio.draw("sd15", files, loras=each) for each in (loras, loras[::-1]))
    alone = [studio.draw("sd15", files, loras=(each,)) for each in loras]

    assert distance(both, turned) < 0.1  # sums of floats
    assert all(distance(both, each) > 0.02 for each in alone)


def test_the_text_encoder_has_a_weight_of_its_own(studio: Studio) -> None:
    files = {"a": studio.lora("sd15", "kohya"), "without": studio.lora("sd15", "kohya", text=False)}

    whole, unet, words = (studio.draw("sd15", files, loras=one(*each)) for each in ((1, None), (1, 0.0), (0, 1.0)))
    plain = studio.draw("sd15")

    assert distance(words, plain) > 0.02
    assert distance(unet, plain) > 0.02
    assert distance(whole, unet) > 0.02
    assert not (words == unet).all()


@pytest.mark.parametrize(("family", "form"), [("sd15", "kohya"), ("sdxl", "kohya"), ("flux", "peft"), ("sd3", "peft")])
def test_a_lora_is_read_as_diffusers_reads_it(studio: Studio, family: str, form: str) -> None:
    path = studio.lora(family, form)
    own = studio.draw(family, {"a": path}, loras=one())

    with studio.driver.pipelines.borrowed(studio.order(family)) as loaded:
        loaded.pipeline.load_lora_weights(str(path), local_files_only=True)
    try:
        native = studio.draw(family)
    finally:
        loaded.pipeline.unload_lora_weights()

    assert (own == native).all()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_dora_turns_weights_and_is_the_same_in_each_format(studio: Studio, family: str) -> None:
    plain = studio.draw(family)

    kohya, peft = (
        studio.draw(family, {"a": studio.lora(family, form, dora=True)}, loras=one()) for form in ("kohya", "peft")
    )

    without = studio.draw(family, {"a": studio.lora(family, "peft")}, loras=one())
    assert (kohya == peft).all()
    assert distance(kohya, plain) > 0.02
    assert distance(kohya, without) > 0.02


def test_layers_of_a_lora_may_have_ranks_of_their_own(studio: Studio, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # for this test only
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # as above

    path = studio.lora("sd15", "kohya")
    state = load_file(path)
    layer = next(name.removesuffix(".lora_down.weight") for name in state if name.endswith("to_k.lora_down.weight"))
    for name, axis in ((f"{layer}.lora_down.weight", 0), (f"{layer}.lora_up.weight", 1)):
        state[name] = torch.cat([state[name], torch.zeros_like(state[name]).narrow(axis, 0, 2)], dim=axis).contiguous()
    state[f"{layer}.alpha"] = state[f"{layer}.alpha"] * 6 / 4
    save_file(state, tmp_path / "ranks.safetensors")

    drawn = studio.draw("sd15", {"a": tmp_path / "ranks.safetensors"}, loras=one())

    assert abs(drawn - studio.draw("sd15", {"a": path}, loras=one())).max() <= 1


def test_pefts_own_folder_is_read_with_the_alpha_beside_it(studio: Studio) -> None:
    folder = studio.draw("sd15", {"a": studio.lora("sd15", "bare")}, loras=one())
    file = studio.draw("sd15", {"a": studio.lora("sd15", "peft", text=False)}, loras=one())

    assert (folder == file).all()


def test_diffusers_own_metadata_tell_the_alpha(studio: Studio, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch

    path = studio.lora("sd15", "peft", text=False)
    state = {name: each * 2 if "lora_B" in name else each for name, each in load_file(path).items()}
    about = {"unet.r": 4, "unet.lora_alpha": 2}
    save_file(state, tmp_path / "told.safetensors", metadata={"lora_adapter_metadata": json.dumps(about)})

    told = studio.draw("sd15", {"a": tmp_path / "told.safetensors"}, loras=one())

    assert (told == studio.draw("sd15", {"a": path}, loras=one())).all()


@pytest.mark.parametrize(
    ("lora", "model", "reason"),
    [
        ("sdxl", "sd15", "the model is one of Stable Diffusion 1.5"),
        ("sd15", "sdxl", "the model is one of Stable Diffusion XL"),
        ("flux", "sd15", "made for FLUX.1 dev, and the model is one of Stable Diffusion 1.5"),
        ("sd3", "flux", "the model is one of FLUX.1 dev"),
        ("flux", "sana", "made for FLUX.1 dev, and the model is one of Sana"),
    ],
)
def test_a_lora_for_another_base_is_refused_with_both_names(studio: Studio, lora: str, model: str, reason: str) -> None:
    plain = studio.draw(model)

    with pytest.raises(CannotDraw, match=reason):
        studio.draw(model, {"a": studio.lora(lora, "peft")}, loras=one())

    assert (studio.draw(model) == plain).all()


def test_a_lora_that_says_what_it_was_made_for_is_believed(studio: Studio, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch

    state = load_file(studio.lora("sd15", "kohya"))
    save_file(
        state, tmp_path / "told.safetensors", metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    )

    with pytest.raises(
        CannotDraw, match=r"a is made for Stable Diffusion XL, and the model is one of Stable Diffusion 1.5"
    ):
        studio.draw("sd15", {"a": tmp_path / "told.safetensors"}, loras=one())


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa network"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "a LoKr network"),
        ("lora_unet_nothing_that_is_here.lora_down.weight", "nothing_that_is_here has no matrices"),
        ("somebody.elses.weight", "no LoRA that is known here: it has a tensor somebody.elses.weight"),
    ],
)
def test_a_lora_that_cannot_be_read_whole_is_refused(studio: Studio, tmp_path: Path, key: str, reason: str) -> None:
    import torch  # noqa: PLC0415  # for this test only
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # as above

    state = load_file(studio.lora("sd15", "kohya")) | {key: torch.zeros(4, 4)}
    save_file(state, tmp_path / "odd.safetensors")

    with pytest.raises(CannotDraw, match=reason):
        studio.draw("sd15", {"a": tmp_path / "odd.safetensors"}, loras=one())


@pytest.mark.parametrize("content", [b"no pickle", pickle.dumps("hello", protocol=2)])
def test_a_pickle_that_holds_no_lora_is_refused(studio: Studio, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    brave: Any = make_driver("diffusers", DriverSettings(device="cpu", allow_pickles=True))

    with pytest.raises(CannotDraw, match=r"a.pt holds no"):
        list(brave.draw(studio.order("sd15", {"a": tmp_path / "a.pt"}, loras=one()), lambda _: None))


def test_one_layer_without_a_place_refuses_the_whole_lora(studio: Studio, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # for this test only
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # as above

    more = {f"lora_unet_extra_block.lora_{side}.weight": torch.zeros(4, 4) for side in ("up", "down")}
    save_file(load_file(studio.lora("sd15", "kohya")) | more, tmp_path / "odd.safetensors")

    with pytest.raises(CannotDraw, match=r"1 of its \d+ layers have no place there, such as lora_unet_extra_block"):
        studio.draw("sd15", {"a": tmp_path / "odd.safetensors"}, loras=one())


@pytest.mark.parametrize("stop", [DrawingCancelled, RuntimeError, MemoryError])
def test_whatever_ends_the_drawing_takes_all_off(studio: Studio, stop: type[Exception]) -> None:
    files = {"a": studio.lora("sd15", "kohya"), "vae": other_vae(studio, "sd15", "folder")}
    plain, before = studio.draw("sd15"), studio.weights("sd15")

    def on_step(step: Step) -> None:
        if step.phase == "denoising" and step.step == 1:
            raise stop("in the middle")

    with pytest.raises(OutOfMemory if stop is MemoryError else stop):
        list(studio.driver.draw(studio.order("sd15", files, loras=one(), vae_id="vae"), on_step))

    assert studio.weights("sd15") == before
    assert (studio.draw("sd15") == plain).all()


def test_a_lora_that_fails_half_way_is_taken_off(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft  # noqa: PLC0415  # imports torch

    plain, before = studio.draw("sd15"), studio.weights("sd15")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("half of it")

    with monkeypatch.context() as patch:
        # No file makes PEFT fail between putting its layers in and filling them; a lack of memory does.
        patch.setattr(peft, "set_peft_model_state_dict", fail)
        with pytest.raises(RuntimeError, match="half of it"):
            studio.draw("sd15", {"a": studio.lora("sd15", "peft")}, loras=one())

    assert studio.weights("sd15") == before
    assert (studio.draw("sd15") == plain).all()


def test_loras_are_swapped_without_loading_the_model_again(studio: Studio) -> None:
    studio.draw("sd15")
    with studio.driver.pipelines.borrowed(studio.order("sd15")) as loaded:
        unet = loaded.pipeline.unet

    for form in ("peft", "kohya"):
        studio.draw("sd15", {"a": studio.lora("sd15", form)}, loras=one())

    with studio.driver.pipelines.borrowed(studio.order("sd15")) as loaded:
        assert loaded.pipeline.unet is unet


def test_a_network_named_in_the_prompt_is_no_word(studio: Studio) -> None:
    files = {"a": studio.lora("sd15", "peft")}

    by_field = studio.draw("sd15", files, loras=one(0.8))
    by_prompt = studio.draw("sd15", files, loras=one(0.8), prompt="a red cat<lora:a:0.8>")

    assert (by_field == by_prompt).all()
    with pytest.raises(CannotDraw, match="the order does not bring it"):
        studio.draw("sd15", prompt="a red cat <lora:a:0.8>")
    with pytest.raises(CannotDraw, match="hypernetworks"):
        studio.draw("sd15", files, loras=one(), prompt="a red cat <hypernet:a:0.8>")


def an_embedding(studio: Studio, family: str, **more: Any) -> Path:
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    path = studio.folder / f"bad-hands-{family}.safetensors"
    return path if path.exists() else networks.embedding(studio.zoo.folder(family), path, **more)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_embedding_is_called_by_its_id_and_by_its_files_name(studio: Studio, family: str) -> None:
    files = {"my-hands": an_embedding(studio, family)}
    before = studio.weights(family)

    def draw(prompt: str, embeddings: tuple[str, ...] = ("my-hands",)) -> Pixels:
        return studio.draw(family, files, prompt=prompt, embeddings=embeddings)

    by_id, by_file = draw("a cat, my-hands"), draw(f"a cat, BAD-hands-{family}")
    weighted, without = draw("a cat, (my-hands:1.5)"), draw("a cat, my-hands", ())

    assert (by_id == by_file).all()
    assert distance(by_id, without) > 0.02
    assert (by_id != weighted).any()
    assert (draw("a cat") == draw("a cat", ())).all()
    assert studio.weights(family) == before


@pytest.mark.parametrize("family", ["sd3", "flux", "sana", "sana_sprint"])
def test_other_families_say_that_they_take_no_embeddings(studio: Studio, family: str) -> None:
    with pytest.raises(CannotDraw, match="embeddings are for Stable Diffusion 1, 2 and XL"):
        studio.draw(family, {"e": an_embedding(studio, "sd15")}, embeddings=("e",))


@pytest.mark.parametrize(("embedding", "model"), [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_an_embedding_of_another_base_is_refused(studio: Studio, embedding: str, model: str) -> None:
    with pytest.raises(CannotDraw, match="was made for another base"):
        studio.draw(model, {"e": an_embedding(studio, embedding)}, embeddings=("e",))


def test_a_pickled_embedding_is_refused_unless_pickles_are_allowed(studio: Studio, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # for this test only
    from safetensors.torch import load_file  # noqa: PLC0415  # as above

    safe = an_embedding(studio, "sd15")
    pickled = tmp_path / "hands.pt"
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": load_file(safe)["emb_params"]}}, pickled)
    order = studio.order("sd15", {"hands": pickled}, prompt="a hands", embeddings=("hands",))

    with pytest.raises(CannotDraw, match="ALLOW_PICKLES=1"):
        list(studio.driver.draw(order, lambda _: None))
    brave: Any = make_driver("diffusers", DriverSettings(device="cpu", allow_pickles=True))
    (picture,) = brave.draw(order, lambda _: None)

    same = studio.draw("sd15", {"hands": safe}, prompt="a hands", embeddings=("hands",))
    assert (np.asarray(picture.image).astype(int) == same).all()


def other_vae(studio: Studio, family: str, layout: str) -> Path:
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    path = studio.folder / f"vae-{family}-{layout}{'' if layout == 'folder' else '.safetensors'}"
    return path if path.exists() else networks.other_vae(studio.zoo.folder(family), path, layout=layout)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_another_vae_draws_the_same_from_a_folder_and_a_file_in_either_layout(studio: Studio, family: str) -> None:
    plain, before = studio.draw(family), studio.weights(family)

    drawn = [
        studio.draw(family, {"vae": other_vae(studio, family, layout)}, vae_id="vae")
        for layout in ("folder", "original", "diffusers")
    ]

    assert distance(drawn[0], plain) > 0.02
    assert all((each == drawn[0]).all() for each in drawn)
    assert studio.weights(family) == before
    assert (studio.draw(family) == plain).all()


@pytest.mark.parametrize("family", ["sana", "sana_sprint"])
def test_sanas_vae_has_a_folder(studio: Studio, family: str) -> None:
    plain = studio.draw(family)

    other = studio.draw(family, {"vae": other_vae(studio, family, "folder")}, vae_id="vae")

    assert distance(other, plain) > 0.02
    assert (studio.draw(family) == plain).all()


def test_one_vae_is_worn_by_models_of_different_scales_as_each_of_them_has_it(studio: Studio, tmp_path: Path) -> None:
    # A single file does not say how its latents are scaled: the model's own autoencoder does.
    scaled = copytree(studio.zoo.folder("sd15"), tmp_path / "scaled")
    config = scaled / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    order = studio.order("sd15", {"vae": other_vae(studio, "sd15", "original")}, vae_id="vae")
    order = replace(order, model=ModelFiles("scaled", scaled, "scaled"))
    fresh: Any = make_driver("diffusers", DriverSettings(device="cpu"))

    studio.draw("sd15", {"vae": other_vae(studio, "sd15", "original")}, vae_id="vae")

    after, alone = (next(each.draw(order, lambda _: None)) for each in (studio.driver, fresh))
    assert after.image.tobytes() == alone.image.tobytes()


def test_a_pickled_vae_is_worn_where_pickles_are_allowed(studio: Studio, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # for this test only
    from safetensors.torch import load_file  # noqa: PLC0415  # as above

    safe = other_vae(studio, "sd15", "original")
    torch.save({"state_dict": load_file(safe)}, tmp_path / "vae.pt")
    order = studio.order("sd15", {"vae": tmp_path / "vae.pt"}, vae_id="vae")
    brave: Any = make_driver("diffusers", DriverSettings(device="cpu", allow_pickles=True))

    with pytest.raises(CannotDraw, match="ALLOW_PICKLES=1"):
        list(studio.driver.draw(order, lambda _: None))
    (picture,) = brave.draw(order, lambda _: None)

    same = studio.draw("sd15", {"vae": safe}, vae_id="vae")
    assert abs(np.asarray(picture.image).astype(int) - same).max() <= 1


@pytest.mark.parametrize("rung", [COMPUTER, TILED])
def test_a_vae_goes_where_its_model_is_and_saves_what_it_saves(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, rung: str
) -> None:
    driver: Any = make_driver("diffusers", DriverSettings(device="cpu"))
    order = studio.order("sd15", {"vae": other_vae(studio, "sd15", "folder")}, vae_id="vae")
    seen: list[tuple[str, bool]] = []

    with driver.pipelines.borrowed(order) as loaded:
        loaded.rung = rung
        if rung == COMPUTER:
            # A GPU that is too full; what is asked of it would fail here.
            monkeypatch.setattr(driver.pipelines, "_device", "cuda")
        with driver.wardrobe.worn(loaded, _as_loaded(order, loaded)):
            vae = loaded.pipeline.vae
            seen.append((f"{vae.device} {vae.dtype}", vae.use_tiling))
        assert not loaded.pipeline.vae.use_tiling

    assert seen == [("cpu torch.float32", True)]


@pytest.mark.parametrize("layout", ["folder", "original"])
def test_a_vae_with_other_channels_is_refused(studio: Studio, layout: str) -> None:
    plain = studio.draw("sd15")

    with pytest.raises(CannotDraw, match="latents of 16 channels, this model's have 4"):
        studio.draw("sd15", {"vae": other_vae(studio, "sd3", layout)}, vae_id="vae")

    assert (studio.draw("sd15") == plain).all()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the demo model, which has learnt what it draws."""
    folder = tmp_path_factory.mktemp("demo")
    name = next(entry.name for entry in catalogue.built_in() if entry.id == "demo-shapes")
    with ZipFile(catalogue.artifacts() / name) as dduf:
        dduf.extractall(folder)
    return folder


def drawn_with(studio: Studio, folder: Path, files: dict[str, Path], prompt: str, **spec: Any) -> Any:
    order = studio.order("sd15", files, prompt=prompt, width=128, height=128, steps=12, guidance_scale=4.0, **spec)
    (picture,) = studio.driver.draw(replace(order, model=ModelFiles("demo", folder, str(folder))), lambda _: None)
    return picture.image


def test_a_word_with_the_vectors_of_another_one_draws_what_that_one_means(
    studio: Studio, demo: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch
    from transformers import CLIPTokenizer  # noqa: PLC0415  # as above

    named: Any = CLIPTokenizer
    (green,) = named.from_pretrained(demo / "tokenizer")("green", add_special_tokens=False).input_ids
    matrix = next(
        each
        for file in (demo / "text_encoder").glob("*.safetensors")
        for name, each in load_file(file).items()
        if name.endswith("token_embedding.weight")
    )
    save_file({"emb_params": matrix[green : green + 1].clone()}, tmp_path / "viridian.safetensors")
    files = {"viridian": tmp_path / "viridian.safetensors"}

    taught = drawn_with(studio, demo, files, "a viridian circle on a blue background", embeddings=("viridian",))
    meant = drawn_with(studio, demo, {}, "a green circle on a blue background")

    assert taught.tobytes() == meant.tobytes()
    assert not check(taught, "a green circle on a blue background").wrong


def test_the_demo_model_wears_a_lora_and_draws_as_before_afterwards(studio: Studio, demo: Path, tmp_path: Path) -> None:
    from tests.support import zoo_networks as networks  # noqa: PLC0415  # imports torch

    prompt = "a red circle on a blue background"
    files = {"a": networks.kohya(networks.matrices(demo), tmp_path / "a.safetensors")}
    plain = drawn_with(studio, demo, {}, prompt)

    none, worn = (drawn_with(studio, demo, files, prompt, loras=one(weight)) for weight in (0.0, 0.5))

    assert none.tobytes() == plain.tobytes()
    assert worn.tobytes() != plain.tobytes()
    assert drawn_with(studio, demo, {}, prompt).tobytes() == plain.tobytes()


def towards(image: Any, box: tuple[int, int, int, int], source: str, target: str) -> float:
    """Say how far the mean colour of a part of a picture has gone from one colour to another: 0 to 1."""
    mean = np.asarray(image.crop(box)).reshape(-1, 3).mean(axis=0)
    start, end = (np.array(COLOURS[name], float) for name in (source, target))
    return float((mean - start) @ (end - start) / ((end - start) @ (end - start)))


def test_a_lora_for_a_colour_goes_there_as_far_as_its_weight_says_and_two_go_together(
    studio: Studio, demo: Path, tmp_path: Path
) -> None:
    from tests.support import colour_lora  # noqa: PLC0415  # imports torch

    # Of a shape that neither LoRA was made with.
    prompt, middle, edge = "a large red cross on a white background in the center", (44, 44, 84, 84), (0, 0, 128, 8)
    files = {
        "figure": colour_lora.of_figures(demo, "red", "blue", tmp_path / "figure.safetensors"),
        "ground": colour_lora.of_grounds(demo, "white", "yellow", tmp_path / "ground.safetensors"),
    }
    plain = drawn_with(studio, demo, {}, prompt)

    def reached(name: str, source: str, target: str, box: tuple[int, int, int, int]) -> list[float]:
        drawn = [drawn_with(studio, demo, files, prompt, loras=one(each, name=name)) for each in (0.0, 0.5, 1.0)]
        assert drawn[0].tobytes() == plain.tobytes()
        return [towards(each, box, source, target) for each in drawn]

    figures = reached("figure", "red", "blue", middle)
    grounds = reached("ground", "white", "yellow", edge)
    both = drawn_with(studio, demo, files, prompt, loras=(*one(name="figure"), *one(name="ground")))

    assert figures[0] < figures[1] < figures[2]
    assert grounds[0] < grounds[1] < grounds[2]
    assert min(figures[2] - figures[0], grounds[2] - grounds[0]) > 0.3
    assert towards(both, middle, "red", "blue") > figures[0] + 0.3
    assert towards(both, edge, "white", "yellow") > grounds[0] + 0.8
