"""ControlNets with every family: they steer, or are refused with a reason."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw, ImageOps

from app.core.extras import Control, Mask
from app.core.spec import GenerationSpec
from tasks.machine.drivers.canny import canny
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order
from tasks.machine.drivers.controlnets import look_at

if TYPE_CHECKING:
    from tasks.machine.drivers.diffusers import DiffusersDriver
    from tests.support.zoo_files import Zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # diffusers' own ControlNet of FLUX is made with what diffusers calls deprecated.
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]

SHA, OTHER = "a" * 64, "b" * 64
STEERED = ("sd15", "sdxl", "sd3", "flux", "sana")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Draw with one thread, so that the same order draws the same bits."""
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def driver() -> "DiffusersDriver":
    """Return a driver for all tests here."""
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, as above

    return DiffusersDriver(DriverSettings(device="cpu"))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Return a control picture: a white ring on black, of another size than what is drawn."""
    drawn = Image.new("RGB", (96, 48))
    ImageDraw.Draw(drawn).ellipse((20, 8, 70, 40), outline="white", width=5)
    return drawn


def network(zoo: "Zoo", family: str, form: str = "folder", seed: int = 0) -> ModelFiles:
    """Return a ControlNet of the zoo."""
    from tests.support import zoo_companions  # noqa: PLC0415  # imports torch, as above

    base, folder = zoo.folder(family), zoo.root / f"{family}-controlnet-{seed}"
    if not folder.exists():
        zoo_companions.controlnet(family, base, folder, seed)
    model_id = f"{family}-{form}-{seed}"
    if form == "folder":
        return ModelFiles(model_id, folder, "p")
    path = zoo.root / f"{model_id}.safetensors"
    if form == "named":
        return ModelFiles(model_id, folder / "diffusion_pytorch_model.safetensors", "p")
    if not path.exists():
        zoo_companions.controlnet_file(folder, base, path)
    return ModelFiles(model_id, path, "p")


def draw(
    driver: "DiffusersDriver",
    zoo: "Zoo",
    family: str,
    picture: Image.Image,
    steering: Sequence[tuple[ModelFiles, dict[str, Any]]] = (),
    **given: Any,
) -> bytes:
    """Draw one picture, steered by these ControlNets; returns its pixels."""
    controls = tuple(Control(model_id=each.model_id, image=SHA, **more) for each, more in steering)
    fields = {"prompt": "a red cat", "seed": 1, "steps": 2, "width": 64, "height": 64, "controls": controls}
    spec = GenerationSpec(model_id=family, **{**fields, **given})
    order = Order(
        spec,
        ModelFiles(family, zoo.folder(family), "p"),
        {each.model_id: each for each, _ in steering},
        {SHA: picture, OTHER: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)},
    )
    (drawn,) = driver.draw(order, lambda _: None)
    assert drawn.image.size == (64, 64)
    return drawn.image.convert("RGB").tobytes()


@pytest.mark.parametrize("family", STEERED)
def test_a_controlnet_steers_by_its_picture_and_weight_0_is_none(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str
) -> None:
    net = network(zoo, family)
    plain = draw(driver, zoo, family, picture)

    steered = draw(driver, zoo, family, picture, [(net, {})])
    by_another = draw(driver, zoo, family, Image.new("RGB", (64, 64), "white"), [(net, {})])
    without = draw(driver, zoo, family, picture, [(net, {"weight": 0.0})])

    assert steered != plain
    assert steered != by_another
    assert without == plain
    assert draw(driver, zoo, family, picture) == plain


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_a_controlnet_steers_from_start_to_end_alone(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str
) -> None:
    net = network(zoo, family)
    whole, first, last = (
        draw(driver, zoo, family, picture, [(net, span)])
        for span in ({}, {"start": 0.0, "end": 0.5}, {"start": 0.5, "end": 1.0})
    )

    assert len({whole, first, last, draw(driver, zoo, family, picture)}) == 4


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_two_controlnets_steer_at_once(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str
) -> None:
    first, second = network(zoo, family), network(zoo, family, seed=1)
    alone = draw(driver, zoo, family, picture, [(first, {})])

    both = draw(driver, zoo, family, picture, [(first, {}), (second, {})])
    one_of_them = draw(driver, zoo, family, picture, [(first, {}), (second, {"weight": 0.0})])

    assert both != alone
    assert one_of_them == alone


@pytest.mark.parametrize("form", ["single", "named"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_single_file_steers_exactly_as_its_folder(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str, form: str
) -> None:
    by_folder = draw(driver, zoo, family, picture, [(network(zoo, family), {})])

    by_file = draw(driver, zoo, family, picture, [(network(zoo, family, form), {})])

    assert by_file == by_folder


@pytest.mark.parametrize(("family", "other"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd3", "flux"), ("sana", "sd15")])
def test_a_controlnet_of_another_base_is_refused_and_both_are_named(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str, other: str
) -> None:
    with pytest.raises(CannotDraw, match=f"{other}-folder-0 is a ControlNet for .*, and {family} is "):
        draw(driver, zoo, family, picture, [(network(zoo, other), {})])


def test_a_single_file_of_another_base_is_refused(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image) -> None:
    with pytest.raises(CannotDraw, match=r"for Stable Diffusion XL, and sd15 is Stable Diffusion 1\.5"):
        draw(driver, zoo, "sd15", picture, [(network(zoo, "sdxl", "single"), {})])


def test_a_controlnet_of_another_size_of_its_family_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, tmp_path: Path
) -> None:
    folder = copytree(network(zoo, "flux").path, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text()) | {"joint_attention_dim": 4096}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(CannotDraw, match=r"another size of FLUX.1 dev.*joint_attention_dim is 4096, not 32"):
        draw(driver, zoo, "flux", picture, [(ModelFiles("wide", folder, "p"), {})])


def test_a_base_in_the_catalogue_that_contradicts_the_file_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image
) -> None:
    wrong = ModelFiles("wrong", network(zoo, "sd15").path, "p", "SDXL 1.0")

    with pytest.raises(CannotDraw, match=r"base of wrong is SDXL 1.0, and it is a ControlNet for Stable Diffusion 1"):
        draw(driver, zoo, "sd15", picture, [(wrong, {})])


@pytest.mark.parametrize(
    ("steering", "words"),
    [
        ([{}, {}], "steered by one ControlNet, not by 2"),
        ([{"end": 0.5}], "leave start and end out"),
    ],
)
def test_what_sanas_controlnet_cannot_do_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, steering: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(CannotDraw, match=words):
        draw(driver, zoo, "sana", picture, [(network(zoo, "sana"), each) for each in steering])


def test_sana_sprint_has_no_controlnet(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image) -> None:
    with pytest.raises(CannotDraw, match="Sana Sprint cannot draw controlnet"):
        draw(driver, zoo, "sana_sprint", picture, [(network(zoo, "sana"), {})])


@pytest.mark.parametrize("content", [b"", b"no tensors at all"])
def test_what_is_no_controlnet_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)

    with pytest.raises(CannotDraw, match="no safetensors file"):
        draw(driver, zoo, "sd15", picture, [(ModelFiles("net", path, "p"), {})])


def test_a_checkpoint_is_no_controlnet(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image) -> None:
    with pytest.raises(CannotDraw, match="is no ControlNet"):
        draw(driver, zoo, "sd15", picture, [(ModelFiles("sd15-file", zoo.file("sd15"), "p"), {})])


def test_a_controlnet_that_is_not_whole_is_refused(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # imports torch, as above

    state = load_file(network(zoo, "sd15", "single").path)
    del state["control_model.middle_block_out.0.weight"]
    save_file(state, tmp_path / "torn.safetensors")

    with pytest.raises(CannotDraw, match="torn"):
        draw(driver, zoo, "sd15", picture, [(ModelFiles("torn", tmp_path / "torn.safetensors", "p"), {})])


def test_a_pickle_is_refused(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(b"pickle")

    with pytest.raises(CannotDraw, match="ALLOW_PICKLES=1"):
        draw(driver, zoo, "sd15", picture, [(ModelFiles("net", path, "p"), {})])


def test_a_flux_controlnet_of_several_kinds_is_told_which_one_it_is_shown(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415  # as above
    from diffusers import FluxControlNetModel  # noqa: PLC0415  # as above

    known = FluxControlNetModel.load_config(network(zoo, "flux").path)
    torch.manual_seed(0)
    union = FluxControlNetModel.from_config({**known, "num_mode": 3})
    with torch.no_grad():
        for parameter in union.parameters():
            parameter.normal_(std=0.3)
    union.save_pretrained(tmp_path / "union")
    options = {"control_modes": {"openpose": 0, "depth": 2}}
    model = ModelFiles("union", tmp_path / "union", "p", options=options)

    pose, depth = (draw(driver, zoo, "flux", picture, [(model, {"kind": kind})]) for kind in ("openpose", "depth"))

    assert pose != depth
    with pytest.raises(CannotDraw, match=r'"control_modes": \{"canny": 0\}'):
        draw(driver, zoo, "flux", picture, [(model, {"kind": "canny"})])


def test_controlnets_are_counted_among_what_is_in_memory_and_leave_when_there_is_no_room(
    zoo: "Zoo", picture: Image.Image
) -> None:
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, as above

    first, second = network(zoo, "sd15"), network(zoo, "sd15", seed=1)
    driver = DiffusersDriver(DriverSettings(device="cpu"))
    draw(driver, zoo, "sd15", picture)
    plain = driver.pipelines.cache.used("cpu")
    draw(driver, zoo, "sd15", picture, [(first, {})])
    size = driver.pipelines.cache.used("cpu") - plain
    beside = driver.estimate(ModelFiles("sd15", zoo.folder("sd15"), "p"), 64, 64).activations
    tight = DiffusersDriver(DriverSettings(device="cpu", cpu_cache=int(plain + beside + 1.5 * size)))

    in_memory = []
    for net in (first, second, first):
        draw(tight, zoo, "sd15", picture, [(net, {})])
        in_memory.append(tight.loaded())

    on_disk = (first.path / "diffusion_pytorch_model.safetensors").stat().st_size
    assert abs(size - on_disk) < 0.05 * on_disk
    assert driver.loaded() == ["sd15", first.model_id]
    assert in_memory == [["sd15", net.model_id] for net in (first, second, first)]


@pytest.mark.parametrize("task", ["img2img", "inpaint"])
@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux"])
def test_what_begins_with_a_picture_is_steered_too(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str, task: str
) -> None:
    net = network(zoo, family)
    begun: dict[str, Any] = {"image": OTHER, "strength": 1.0}
    if task == "inpaint":
        begun["mask"] = Mask(image=SHA)
    plain = draw(driver, zoo, family, picture, **begun)

    steered = draw(driver, zoo, family, picture, [(net, {})], **begun)
    without = draw(driver, zoo, family, picture, [(net, {"weight": 0.0})], **begun)

    assert steered != plain
    assert without == plain


@pytest.mark.parametrize(("family", "task"), [("sd3", "controlnet_img2img"), ("sana", "controlnet_img2img")])
def test_what_begins_with_a_picture_is_refused_where_nothing_steers_it(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image, family: str, task: str
) -> None:
    with pytest.raises(CannotDraw, match=f"cannot draw {task}"):
        draw(driver, zoo, family, picture, [(network(zoo, family), {})], image=OTHER)


def test_every_picture_of_an_order_is_steered(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image) -> None:
    net = network(zoo, "sd15")
    spec = GenerationSpec(
        model_id="sd15",
        prompt="a red cat",
        seed=1,
        steps=2,
        width=64,
        height=64,
        n=2,
        controls=(Control(model_id=net.model_id, image=SHA),),
    )
    order = Order(spec, ModelFiles("sd15", zoo.folder("sd15"), "p"), {net.model_id: net}, {SHA: picture})

    first, second = (each.image.tobytes() for each in driver.draw(order, lambda _: None))

    assert first == draw(driver, zoo, "sd15", picture, [(net, {})])
    assert second == draw(driver, zoo, "sd15", picture, [(net, {})], seed=2)


def test_a_photo_is_drawn_after_as_the_picture_of_its_edges_would_be(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image
) -> None:
    net = network(zoo, "sd15")

    from_photo = draw(driver, zoo, "sd15", picture, [(net, {"kind": "canny", "annotate": True})])

    assert from_photo == draw(driver, zoo, "sd15", canny(picture), [(net, {"kind": "canny"})])
    assert from_photo != draw(driver, zoo, "sd15", picture, [(net, {"kind": "canny"})])


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ({"attn2.to_k": 768}, "sd15"),
        ({"attn2.to_k": 1024}, "sd2"),
        ({"attn2.to_k": 2048, "label_emb.0.0": 2816}, "sdxl"),
        ({"attn2.to_k": 2048, "add_embedding.linear_1": 2816}, "sdxl"),
    ],
)
def test_a_single_file_shows_which_family_it_is_for(names: dict[str, int], family: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # seconds, as above
    from safetensors.torch import save_file  # noqa: PLC0415  # as above

    tensors = {"control_model.input_hint_block.0.weight": torch.zeros(1)}
    for name, width in names.items():
        place = "input_blocks.1.1.transformer_blocks.0." if name.startswith("attn2") else ""
        tensors[f"control_model.{place}{name}.weight"] = torch.zeros(2, width)
    save_file(tensors, tmp_path / "net.safetensors")

    found = look_at(ModelFiles("net", tmp_path / "net.safetensors", "p"), allow_pickles=False)

    assert found.families == (family,)


def test_what_draws_on_the_processor_beside_a_full_gpu_is_steered_there_and_held_by_nobody(
    driver: "DiffusersDriver", zoo: "Zoo", monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = driver.pipelines
    monkeypatch.setattr(pipelines, "_device", "cuda")
    before = pipelines.cache.on_device()
    made: list[tuple[str, str]] = []

    def load(dtype: Any, device: str) -> str:
        made.append((str(dtype), device))
        return "a network"

    with pipelines.beside(network(zoo, "sd15"), "float32", 10**15, load, on_computer=True) as found:
        assert found == "a network"

    assert made == [("torch.float32", "cpu")]
    assert pipelines.cache.on_device() == before


def test_a_frugal_drawing_is_steered_too(driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image) -> None:
    net = network(zoo, "sd15")
    control = Control(model_id=net.model_id, image=SHA)
    spec = GenerationSpec(model_id="sd15", prompt="a red cat", seed=1, steps=2, width=64, height=64)
    model = ModelFiles("sd15", zoo.folder("sd15"), "p")

    plain, steered = (
        next(iter(driver.draw(Order(each, model, {net.model_id: net}, {SHA: picture}, frugal=True), lambda _: None)))
        for each in (spec, replace(spec, controls=(control,)))
    )

    assert steered.image.tobytes() != plain.image.tobytes()


def test_a_control_picture_of_another_shape_is_brought_to_the_drawings_as_the_order_says(
    driver: "DiffusersDriver", zoo: "Zoo", picture: Image.Image
) -> None:
    net, fitted = network(zoo, "sd15"), ImageOps.fit(picture, (64, 64), Image.Resampling.LANCZOS)
    stretched, cropped, filled = (
        draw(driver, zoo, "sd15", picture, [(net, {"resize_mode": mode})]) for mode in ("stretch", "crop", "fill")
    )

    assert len({stretched, cropped, filled}) == 3
    assert draw(driver, zoo, "sd15", picture, [(net, {})]) == stretched
    assert draw(driver, zoo, "sd15", fitted, [(net, {})]) == cropped
