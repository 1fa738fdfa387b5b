"""Loading with every family, as a folder and as a single file: without a network, and equal to bare diffusers."""

import inspect
import json
import pickle
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from app import catalogue
from app.core.extras import Control
from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order
from tasks.machine.drivers.families import FAMILIES
from tasks.machine.drivers.orders import call_arguments

if TYPE_CHECKING:
    from tasks.machine.drivers.diffusers import DiffusersDriver
    from tests.support.zoo_files import Zoo

ZOO = {"sd15": "sd15", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux-dev", "sana": "sana", "sana_sprint": "sana-sprint"}
"""Names in the zoo, and the rows they are drawn by."""

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Draw with one thread, so that the same order draws the same bits."""
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to reach anything fail the test."""

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"tried to reach {address}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture(scope="module")
def driver() -> "DiffusersDriver":
    """Return a driver for all tests here; each has models of its own."""
    return a_driver()


def a_driver(**settings: Any) -> "DiffusersDriver":
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, as above

    return DiffusersDriver(DriverSettings(device="cpu", **settings))


def a_spec(**given: Any) -> GenerationSpec:
    return GenerationSpec(
        **{"model_id": "m", "prompt": "a red cat", "seed": 1, "steps": 2, "width": 64, "height": 64, **given}
    )


def draw(driver: "DiffusersDriver", model: ModelFiles, **given: Any) -> bytes:
    """Draw one picture; returns its pixels."""
    order = Order(
        a_spec(model_id=model.model_id, **given), model, pictures={"a" * 64: Image.new("RGB", (64, 64), "red")}
    )
    (picture,) = driver.draw(order, lambda _: None)
    return picture.image.convert("RGB").tobytes()


def single(zoo: "Zoo", family: str, **more: Any) -> ModelFiles:
    """Return a single file of the zoo, with the configuration that it depends on."""
    pack = ModelFiles(f"{family}-config", zoo.pack(family), "config")
    return ModelFiles(**{"model_id": family, "path": zoo.file(family), "proof": "file", "parts": (pack,), **more})


def bare(folder: Path, row: str, spec: GenerationSpec) -> bytes:
    """Draw as a plain program with diffusers does."""
    import torch  # noqa: PLC0415  # seconds, as above
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"prompt": spec.prompt, **call_arguments(FAMILIES[row], spec)}
    image = pipeline(**arguments, generator=torch.Generator("cpu").manual_seed(spec.seed or 0)).images[0]
    return bytes(image.convert("RGB").tobytes())


def difference(drawn: bytes, expected: bytes) -> int:
    """Return the greatest difference of two pictures' values, 0 to 255."""
    return max(abs(one - other) for one, other in zip(drawn, expected, strict=True))


@pytest.mark.parametrize("family", ZOO)
def test_a_folder_draws_exactly_what_bare_diffusers_draws_with_it(
    driver: "DiffusersDriver", zoo: "Zoo", family: str
) -> None:
    model = ModelFiles(family, zoo.folder(family), "folder", ZOO[family])

    drawn = draw(driver, model)

    assert driver.pipelines.plan_of(model).family is FAMILIES[ZOO[family]]
    assert drawn == bare(zoo.folder(family), ZOO[family], a_spec())


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
def test_a_single_file_draws_exactly_what_its_folder_draws(driver: "DiffusersDriver", zoo: "Zoo", family: str) -> None:
    assert draw(driver, single(zoo, family)) == draw(driver, ModelFiles("folder", zoo.folder(family), family))


@pytest.mark.parametrize("family", ["sd2", "refiner", "sd15_inpaint", "sdxl_inpaint", "sd35", "sana"])
def test_a_single_file_of_a_variant_draws_what_its_folder_draws(
    driver: "DiffusersDriver", zoo: "Zoo", family: str
) -> None:
    is_of_pictures = family in {"refiner", "sd15_inpaint", "sdxl_inpaint"}
    given: dict[str, Any] = {"image": "a" * 64, "strength": 0.5, "steps": 4} if is_of_pictures else {}

    drawn, expected = (
        draw(driver, model, **given)
        for model in (single(zoo, family), ModelFiles(f"{family}-folder", zoo.folder(family), "folder"))
    )

    # Where the numbers lie in memory changes the order in which they are added up.
    assert difference(drawn, expected) <= 1


def test_a_single_file_of_sana_sprint_is_refused_with_the_folder_to_take(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch, as above

    state = load_file(zoo.file("sana"))
    state["cfg_embedder.mlp.0.weight"] = state["attention_y_norm.weight"].clone()
    save_file(state, tmp_path / "sprint.safetensors")

    with pytest.raises(CannotDraw, match=r"sprint.safetensors is a single file of Sana Sprint.*hf://Efficient-Large"):
        draw(driver, ModelFiles("sprint", tmp_path / "sprint.safetensors", "p"))


def test_an_inpainting_checkpoint_is_not_steered_from_text(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    model = ModelFiles("nine", zoo.folder("sd15_inpaint"), "p")
    spec = a_spec(model_id="nine", controls=(Control(model_id="net", image="a" * 64),))

    with pytest.raises(CannotDraw, match=r"made for inpaint and needs a picture.* 9 channels"):
        list(driver.draw(Order(spec, model), lambda _: None))


@pytest.fixture
def small_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teach diffusers' own conversion of FLUX the width of the zoo's: the real one's, 3072, is written into it."""
    from diffusers.loaders import single_file_model, single_file_utils  # noqa: PLC0415  # seconds, as above

    row: Any = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    source = inspect.getsource(row["checkpoint_mapping_fn"])
    assert "inner_dim = 3072" in source
    names: dict[str, Callable[..., Any]] = {}
    exec(source.replace("inner_dim = 3072", "inner_dim = 32"), vars(single_file_utils), names)
    monkeypatch.setitem(row, "checkpoint_mapping_fn", names["convert_flux_transformer_checkpoint_to_diffusers"])


@pytest.mark.usefixtures("small_flux")
def test_a_transformer_alone_takes_the_other_networks_from_what_it_depends_on(
    driver: "DiffusersDriver", zoo: "Zoo"
) -> None:
    assert draw(driver, single(zoo, "flux")) == draw(driver, ModelFiles("folder", zoo.folder("flux"), "flux"))


def test_sd3_draws_without_its_third_text_encoder(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    pack = ModelFiles("pack", zoo.pack("sd3", ("text_encoder", "text_encoder_2")), "two of them")

    drawn = draw(driver, single(zoo, "sd3", parts=(pack,), model_id="without"))

    assert drawn != draw(driver, ModelFiles("folder", zoo.folder("sd3"), "sd3"))


def test_flux_with_another_text_encoder_is_a_flux(driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path) -> None:
    """As aoxo/flux.1dev-abliteratedv2 is: a folder whose T5 is another one."""
    import torch  # noqa: PLC0415  # seconds, as above
    from transformers import T5EncoderModel  # noqa: PLC0415  # as above

    folder = copytree(zoo.folder("flux"), tmp_path / "abliterated")
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2")
    with torch.no_grad():
        t5.shared.weight.mul_(-1)
    t5.save_pretrained(folder / "text_encoder_2")
    model = ModelFiles("abliterated", folder, "abliterated", "Flux.1 D")

    drawn = draw(driver, model)

    assert driver.pipelines.plan_of(model).family is FAMILIES["flux-dev"]
    assert drawn != draw(driver, ModelFiles("flux", zoo.folder("flux"), "flux"))


def test_the_demo_model_draws_what_bare_diffusers_draws_with_it(driver: "DiffusersDriver", tmp_path: Path) -> None:
    from zipfile import ZipFile  # noqa: PLC0415  # of this test alone

    entry = next(entry for entry in catalogue.built_in() if entry.id == "demo-shapes")
    path = catalogue.artifacts() / entry.name
    with ZipFile(path) as file:
        file.extractall(tmp_path / "demo")

    drawn = draw(driver, ModelFiles(entry.id, path, str(entry.hash), entry.base), width=128, height=128, steps=4)

    assert drawn == bare(tmp_path / "demo", "sd15", a_spec(width=128, height=128, steps=4))


def test_a_single_file_without_configuration_says_which_entry_to_add(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    with pytest.raises(CannotDraw, match=r"kind config.*hf://stable-diffusion-v1-5/.*\?include=\*\.json"):
        draw(driver, single(zoo, "sd15", parts=(), model_id="alone"))


def test_a_single_file_with_another_familys_configuration_is_refused(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    wrong = ModelFiles("xl-config", zoo.pack("sdxl"), "p")

    with pytest.raises(CannotDraw, match=r"1\.5.*xl-config is the configuration of Stable Diffusion XL"):
        draw(driver, single(zoo, "sd15", parts=(wrong,), model_id="mixed"))


def test_networks_that_are_nowhere_are_named_with_what_brings_them(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    pack = ModelFiles("bare-config", zoo.pack("flux", ("vae",)), "p")

    with pytest.raises(
        CannotDraw, match=r"no text_encoder and no text_encoder_2.*bare-config.*include=text_encoder/\*"
    ):
        draw(driver, single(zoo, "flux", parts=(pack,), model_id="lacking"))


def test_a_folder_of_the_files_name_beside_it_is_configuration_enough(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(zoo.file("sd15").read_bytes())
    copytree(zoo.pack("sd15"), tmp_path / "mine")

    drawn = draw(driver, ModelFiles("mine", path, "p"))

    assert drawn == draw(driver, ModelFiles("folder", zoo.folder("sd15"), "sd15"))


def test_a_base_that_contradicts_the_file_is_refused(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    with pytest.raises(CannotDraw, match="base of wrong is sdxl"):
        draw(driver, ModelFiles("wrong", zoo.folder("sd15"), "p", "sdxl"))


@pytest.mark.parametrize("lost", ["model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_out.weight"])
def test_a_file_that_lacks_a_tensor_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path, lost: str
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch, as above

    state = load_file(zoo.file("sd15"))
    del state[lost]
    save_file(state, tmp_path / "torn.safetensors")

    with pytest.raises(CannotDraw, match="torn lacks tensors of its networks"):
        draw(driver, single(zoo, "sd15", path=tmp_path / "torn.safetensors", model_id="torn"))


def as_pickles(folder: Path) -> Path:
    """Turn a folder's weights into pickles."""
    import torch  # noqa: PLC0415  # seconds, as above
    from safetensors.torch import load_file  # noqa: PLC0415  # as above

    for path in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    return folder


def test_pickles_draw_where_they_are_allowed_and_nowhere_else(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415  # seconds, as above
    from safetensors.torch import load_file  # noqa: PLC0415  # as above

    folder = as_pickles(copytree(zoo.folder("sd15"), tmp_path / "folder"))
    torch.save({"state_dict": load_file(zoo.file("sd15"))}, tmp_path / "model.ckpt")
    models = [ModelFiles("bins", folder, "p"), single(zoo, "sd15", path=tmp_path / "model.ckpt", model_id="ckpt")]
    allowing = a_driver(allow_pickles=True)
    expected = draw(driver, ModelFiles("folder", zoo.folder("sd15"), "sd15"))

    for model in models:
        # Where the numbers lie in memory changes the order in which they are added up.
        assert difference(draw(allowing, model), expected) <= 1
        with pytest.raises(CannotDraw, match="ALLOW_PICKLES=1"):
            draw(driver, model)


class Evil:
    """Runs a command where it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_even_an_allowed_pickle_runs_nothing(zoo: "Zoo", tmp_path: Path) -> None:
    mark, path = tmp_path / "it-ran", tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Evil(mark)}))

    with pytest.raises(CannotDraw, match="loaded safely"):
        draw(a_driver(allow_pickles=True), single(zoo, "sd15", path=path, model_id="evil"))

    assert not mark.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert mark.exists()


@pytest.fixture(scope="module")
def other_vae(zoo: "Zoo", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make an autoencoder that draws everything upside down in colour, in every form in which they are given out."""
    import torch  # noqa: PLC0415  # seconds, as above
    from diffusers import AutoencoderKL  # noqa: PLC0415  # as above
    from safetensors.torch import save_file  # noqa: PLC0415  # as above

    from tests.support import zoo_files  # noqa: PLC0415  # as above

    root = tmp_path_factory.mktemp("vae")
    network = AutoencoderKL.from_pretrained(zoo.folder("sd15") / "vae")
    with torch.no_grad():
        network.decoder.conv_out.weight.mul_(-1)
    network.save_pretrained(root / "folder")
    state = {name: each.clone() for name, each in network.state_dict().items()}
    save_file(state, root / "diffusers.safetensors")
    original = zoo_files.vae(state, dict(network.config))
    save_file({name: each.contiguous().clone() for name, each in original.items()}, root / "original.safetensors")
    return {path.stem: path for path in root.iterdir()}


@pytest.mark.parametrize("form", ["folder", "diffusers", "original"])
@pytest.mark.parametrize("layout", ["folder", "single"])
def test_an_autoencoder_among_what_a_model_depends_on_takes_the_place_of_its_own(
    driver: "DiffusersDriver", zoo: "Zoo", other_vae: dict[str, Path], form: str, layout: str
) -> None:
    vae = ModelFiles("vae", other_vae[form], "vae")
    plain = ModelFiles("folder", zoo.folder("sd15"), "sd15") if layout == "folder" else single(zoo, "sd15")
    model = replace(plain, model_id=f"{form}-{layout}", parts=(*plain.parts, vae))

    drawn = draw(driver, model)

    expected = copytree(zoo.folder("sd15"), zoo.root / "with-vae", dirs_exist_ok=True)
    copytree(other_vae["folder"], expected / "vae", dirs_exist_ok=True)
    assert drawn == draw(driver, ModelFiles("expected", expected, "p"))
    assert drawn != draw(driver, plain)


def test_half_precision_files_draw_nearly_the_same_on_a_cpu(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415  # seconds, as above
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

    pipeline = DiffusionPipeline.from_pretrained(zoo.folder("sd15"), dtype=torch.float16)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    model = ModelFiles("half", tmp_path / "half", "p", variant="fp16")

    drawn = draw(driver, model)

    expected = draw(driver, ModelFiles("folder", zoo.folder("sd15"), "sd15"))
    assert driver.pipelines.plan_of(model).found.dtype == "F16"
    assert 0 < difference(drawn, expected) <= 4


def test_straight_to_the_device_gives_the_same_networks(zoo: "Zoo") -> None:
    """On a GPU each network is loaded there; here the same way is taken to the device that there is."""
    import torch  # noqa: PLC0415  # seconds, as above

    from tasks.machine.drivers.loading import Loading, networks_of  # noqa: PLC0415  # as above
    from tasks.machine.drivers.plan import plan  # noqa: PLC0415  # as above

    found = plan(ModelFiles("m", zoo.folder("sdxl"), "p"))
    plain = networks_of(Loading(torch.float32, "cpu").pipeline(found))
    straight = networks_of(Loading(torch.float32, "cpu:0").pipeline(found))

    assert set(plain) == set(straight) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    for name, network in plain.items():
        other = straight[name].state_dict()
        assert all(torch.equal(each, other[key]) for key, each in network.state_dict().items())
    straight["unet"].to("cpu")  # it can still be moved


@pytest.mark.parametrize(
    ("family", "base", "given", "words"),
    [
        ("flux", None, {"width": 72}, "multiple of 16 for FLUX.1 dev, not 72"),
        ("sana", None, {"height": 80}, "multiple of 32 for Sana, not 80"),
        ("sana_sprint", None, {"steps": 5}, "at most 4 steps, not 5"),
    ],
)
def test_what_a_family_cannot_draw_is_refused_with_a_sentence(
    driver: "DiffusersDriver", zoo: "Zoo", family: str, base: str | None, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(CannotDraw, match=words):
        draw(driver, ModelFiles(f"refused-{family}", zoo.folder(family), "p", base), **given)


def test_an_inpainting_checkpoint_does_not_draw_from_text(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    folder = copytree(zoo.folder("sd15"), tmp_path / "inpainting")
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"in_channels": 9}
    (folder / "unet" / "config.json").write_text(json.dumps(config))

    with pytest.raises(CannotDraw, match=r"made for inpaint and needs a picture.* 9 channels"):
        draw(driver, ModelFiles("inpainting", folder, "p"))


@pytest.mark.parametrize("channels", [5, 7, 8])
def test_what_takes_other_channels_is_refused_with_what_it_may_be(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path, channels: int
) -> None:
    folder = copytree(zoo.folder("sd15"), tmp_path / "odd")
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"in_channels": channels}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    packed = in_one_file(folder, tmp_path / "odd.dduf")

    for model in (ModelFiles("odd", folder, "p"), ModelFiles("packed", packed, "p")):
        with pytest.raises(CannotDraw, match=f"takes {channels} channels.* edits by instruction"):
            draw(driver, model)


def in_one_file(folder: Path, path: Path) -> Path:
    """Pack a diffusers folder into a DDUF file."""
    from huggingface_hub import export_folder_as_dduf  # noqa: PLC0415  # of this alone

    export_folder_as_dduf(path, folder)
    return path


def test_a_folder_saved_for_another_task_draws_from_text(driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path) -> None:
    folder = copytree(zoo.folder("sdxl"), tmp_path / "img2img")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))

    drawn = draw(driver, ModelFiles("img2img", folder, "p"))

    assert drawn == draw(driver, ModelFiles("sdxl", zoo.folder("sdxl"), "folder"))


def test_a_safety_checker_beside_the_networks_is_neither_loaded_nor_estimated(
    driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path
) -> None:
    """Stable Diffusion's repositories have one, with 1.2 GB of weights, some as a pickle only."""
    folder = copytree(zoo.folder("sd15"), tmp_path / "checked")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(bytes(1000))
    model, plain = ModelFiles("checked", folder, "p"), ModelFiles("sd15", zoo.folder("sd15"), "folder")

    assert draw(driver, model) == draw(driver, plain)
    assert driver.estimate(model) == driver.estimate(plain)


def test_a_refiner_does_not_draw_from_text(driver: "DiffusersDriver", zoo: "Zoo", tmp_path: Path) -> None:
    folder = copytree(zoo.folder("sdxl"), tmp_path / "refiner")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(CannotDraw, match="refiner cannot draw txt2img"):
        draw(driver, ModelFiles("refiner", folder, "p"))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_sana_sprint_draws_in_one_to_four_steps(driver: "DiffusersDriver", zoo: "Zoo", steps: int) -> None:
    assert draw(driver, ModelFiles("sprint", zoo.folder("sana_sprint"), "p"), steps=steps)


@pytest.mark.parametrize(("family", "changes"), [("sd15", True), ("sd3", True), ("sana", True), ("flux", False)])
def test_a_negative_prompt_changes_the_picture_where_the_family_has_one(
    driver: "DiffusersDriver", zoo: "Zoo", family: str, changes: bool
) -> None:
    model = ModelFiles(family, zoo.folder(family), "folder")

    without, with_one = draw(driver, model), draw(driver, model, negative_prompt="a small blue dog")

    assert (without != with_one) is changes


def test_guidance_changes_what_a_distilled_family_draws(driver: "DiffusersDriver", zoo: "Zoo") -> None:
    model = ModelFiles("flux", zoo.folder("flux"), "folder")

    assert draw(driver, model, guidance_scale=1.0) != draw(driver, model, guidance_scale=8.0)


@pytest.mark.parametrize("family", ZOO)
def test_the_estimate_of_the_weights_is_what_they_take(driver: "DiffusersDriver", zoo: "Zoo", family: str) -> None:
    model = ModelFiles(family, zoo.folder(family), "estimated")

    estimated = driver.estimate(model).all_weights
    measured = measured_bytes(driver, model)

    assert abs(estimated - measured) <= 0.15 * measured


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
def test_the_estimate_of_a_single_file_is_what_it_takes(driver: "DiffusersDriver", zoo: "Zoo", family: str) -> None:
    model = single(zoo, family, proof="estimated")

    estimated = driver.estimate(model).all_weights
    measured = measured_bytes(driver, model)

    assert abs(estimated - measured) <= 0.15 * measured


def measured_bytes(driver: "DiffusersDriver", model: ModelFiles) -> int:
    """Load a model into a driver that holds nothing else, and say what its networks hold."""
    from tasks.machine.drivers.loading import networks_of, size_of  # noqa: PLC0415  # imports torch, as above

    order = Order(a_spec(model_id=model.model_id), model)
    with driver.pipelines.borrowed(order) as loaded:
        return sum(size_of(network) for network in networks_of(loaded.pipeline).values())
