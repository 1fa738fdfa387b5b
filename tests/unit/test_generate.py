"""`imagefleet generate`, as far as it goes without a server: what is ordered, what is shown, how files are called."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress, TextColumn

from app.api.v1.order_schemas import JobRequestSchema
from app.client import ApiClient
from app.drawing import UnknownModel, choose_model, reason_of, save
from app.generate import _order, control, generate, lora, size
from app.watching import Bars, Lines


def order_of(*words: str) -> dict[str, Any]:
    """Return the order that a command line makes."""
    with generate.make_context("generate", ["a red circle", *words]) as context:
        own = {"prompt", "output", "url", "as_json", "quiet"}
        said = {name: value for name, value in context.params.items() if name not in own}
        return _order(context.params["prompt"], said)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return a file, of which only the bytes matter here."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"pixels")
    return path


PIXELS = base64.b64encode(b"pixels").decode()


def test_the_servers_own_model_cuts_out_where_none_is_named() -> None:
    assert order_of("--remove-background")["remove_background"] is True


def test_what_nobody_says_is_left_to_the_server() -> None:
    assert order_of() == {"prompt": "a red circle", "n": 1}


def test_options_become_fields_of_an_order(photo: Path) -> None:
    order = order_of(
        *("-n", "4", "--negative", "blurry", "--steps", "20", "--guidance", "5.5", "--size", "64x96", "--seed", "7"),
        *("--sampler", "Euler a", "--clip-skip", "2", "--format", "webp", "--priority", "3"),
        *("--lora", "detail:0.8", "--lora", "ink", "--embedding", "good", "--vae", "clear"),
        *("--image", str(photo), "--strength", "0.5", "--resize-mode", "crop", "--mask", str(photo)),
        *("--hires", "2", "--upscale", "1.5", "--upscaler", "sharp"),
        *("--control", f"openpose={photo}", "--annotate", "--background-model", "cutter", "--safety-check"),
    )

    assert order == {
        "prompt": "a red circle",
        "n": 4,
        "negative_prompt": "blurry",
        "steps": 20,
        "guidance_scale": 5.5,
        "width": 64,
        "height": 96,
        "seed": 7,
        "scheduler": "Euler a",
        "clip_skip": 2,
        "image_format": "webp",
        "priority": 3,
        "loras": [{"model_id": "detail", "weight": 0.8}, {"model_id": "ink"}],
        "embeddings": ["good"],
        "vae_id": "clear",
        "image": PIXELS,
        "strength": 0.5,
        "resize_mode": "crop",
        "mask": {"image": PIXELS},
        "hires": {"scale": 2.0, "upscaler": "sharp"},
        "upscale": {"factor": 1.5, "upscaler": "sharp"},
        "controls": [{"kind": "openpose", "image": PIXELS, "annotate": True}],
        "remove_background": "cutter",
        "safety_check": True,
    }
    assert set(order) <= set(JobRequestSchema().fields)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "64x64", "--width", "64"], "either --size or"),
        (["--strength", "0.5"], "need an --image"),
        (["--upscaler", "Lanczos"], "needs --hires or --upscale"),
        (["--annotate"], "about the files of --control"),
        (["--size", "big"], "'big' is no size; write it as 512x768"),
        (["--lora", "detail:much"], "write it as detail:0.8"),
        (["--image", "/no/such/file"], "cannot be read: No such file"),
        (["--control", "spoon=/x"], "kinds are openpose"),
        (["--format", "gif"], "'gif' is not one of"),
    ],
)
def test_what_does_not_fit_together_is_wrong_usage(words: list[str], reason: str) -> None:
    result = CliRunner().invoke(generate, ["a red circle", *words])

    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stdout == ""


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(photo: Path) -> None:
    result = CliRunner().invoke(generate, ["a red circle", "-o", str(photo / "below")])

    assert result.exit_code == 2
    assert "cannot be made: Not a directory" in result.stderr


def test_sizes_and_weights_can_be_written_short(photo: Path) -> None:
    assert (size("512"), size("512X768")) == ((512, 512), (512, 768))
    assert lora("a:b:1") == {"model_id": "a:b", "weight": 1.0}
    assert control(f"depth={photo}") == {"kind": "depth", "image": PIXELS}
    with pytest.raises(click.BadParameter):
        size("x5")


class Catalogue(ApiClient):
    """A server with these checkpoints, which hands out one picture."""

    def __init__(self, **statuses: str) -> None:
        super().__init__("http://127.0.0.1:1")
        self.models = [{"id": name, "kind": "checkpoint", "availability": status} for name, status in statuses.items()]

    def get(self, path: str) -> Any:
        """Answer with the catalogue."""
        return {"models": [*self.models, {"id": "detail", "kind": "lora", "availability": "ready"}]}

    def picture(self, image: Mapping[str, Any]) -> bytes:
        """Hand out a picture."""
        return str(image["seed"]).encode()


def test_the_first_model_that_a_machine_is_ready_for_is_taken() -> None:
    assert choose_model(Catalogue(dream="wanted", other="ready"), None) == "other"
    assert choose_model(Catalogue(dream="wanted"), None) == "dream"


@pytest.mark.parametrize(("wanted", "near"), [("draem", "did you mean dream"), ("xl", "mean my-xl-v2"), ("q", "dream")])
def test_an_unknown_model_is_answered_with_near_names(wanted: str, near: str) -> None:
    with pytest.raises(UnknownModel, match=near):
        choose_model(Catalogue(**{"dream": "ready", "my-xl-v2": "ready"}), wanted)


def test_a_lora_is_nothing_to_draw_with() -> None:
    with pytest.raises(UnknownModel):
        choose_model(Catalogue(dream="ready"), "detail")


def a_job(**more: Any) -> dict[str, Any]:
    image = {"seed": 7, "media_type": "image/png"}
    return {
        "job_id": "0123456789",
        "status": "completed",
        "error": None,
        "images": [image, image],
        "running": None,
    } | more


def test_files_are_called_by_job_and_position_and_none_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "01234567-1.png").write_bytes(b"mine")

    first = [path.name for path, _ in save(tmp_path, Catalogue(), a_job())]
    again = [path.name for path, _ in save(tmp_path, Catalogue(), a_job())]

    assert first == ["01234567-0.png", "01234567-1-2.png"]
    assert again == ["01234567-0-2.png", "01234567-1-3.png"]
    assert (tmp_path / "01234567-1.png").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 5  # nothing else is left


def test_a_failed_job_is_told_with_its_reason() -> None:
    failed = a_job(status="error", error={"code": "cannot_draw", "message": "no such hat"})

    assert reason_of(failed) == "job 0123456789 is error: no such hat"


def running(image: int, step: int, phase: str = "denoising") -> dict[str, Any]:
    return a_job(status="processing", running={"phase": phase, "step": step, "steps": 20, "image": image, "images": 2})


def test_without_a_terminal_a_line_comes_where_something_changes() -> None:
    said: list[str] = []
    lines = Lines(said.append)

    lines.see(a_job(status="queued", waiting_for="1 job is before it"))
    for job in (running(0, 0, "loading"), running(0, 1), running(0, 2), running(1, 0), a_job()):
        lines.see(job)

    assert [line.removeprefix("job 0123456789") for line in said] == [
        " is queued; 1 job is before it",
        ": loading",
        ": drawing picture 1 of 2",
        ": drawing picture 2 of 2",
        " is completed",
    ]


def test_on_a_terminal_every_picture_has_a_bar_with_its_steps() -> None:
    progress = Progress(TextColumn("{task.description}"), console=Console(stderr=True))
    bars = Bars(progress, 2)

    def shown() -> list[tuple[str, float, str]]:
        tasks = [task for task in progress.tasks if task.description.startswith("picture")]
        return [(task.description, task.completed, task.fields["steps"]) for task in tasks]

    bars.see(running(1, 5))
    in_the_midst = shown()
    bars.see(running(0, 10))  # another machine tries again
    begun_anew = shown()
    bars.see(a_job())

    assert in_the_midst == [("picture 1", 1.0, ""), ("picture 2", 0.25, "5/20")]
    assert begun_anew == [("picture 1", 0.5, "10/20"), ("picture 2", 0.0, "")]
    assert [done for _, done, _ in shown()] == [1.0, 1.0]
