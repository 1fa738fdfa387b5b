"""`imagefleet generate`: draw pictures with a running server, and save them.

Paths of pictures are all that is written to standard output, so that other programs can read them. Exit status: 0 if
drawn, 1 if that failed, 2 for wrong usage and for orders that the server refuses, 130 when cancelled.
"""

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from app.client import ApiClient, ApiError
from app.core.extras import CONTROL_KINDS, RESIZE_MODES
from app.core.spec import IMAGE_FORMATS
from app.drawing import Cancelled, Drawing, Job, UnknownModel, choose_model, reason_of, save
from app.settings import Settings
from app.watching import watching

REFUSALS = frozenset({400, 404, 409, 413, 415, 422})
"""Statuses that say that the order is wrong; all others say that it could not be done."""

CANCELLED = 130
"""What shells expect of a program that Ctrl-C ended."""


def size(value: str) -> tuple[int, int]:
    """Read `WxH`, or one number for both."""
    width, _, height = value.lower().partition("x")
    if not width.isdecimal() or (height and not height.isdecimal()):
        raise click.BadParameter(f"{value!r} is no size; write it as 512x768")
    return int(width), int(height or width)


def lora(value: str) -> dict[str, Any]:
    """Read `ID`, or `ID:0.8`."""
    model_id, colon, weight = value.rpartition(":")
    if not colon:
        return {"model_id": value}
    try:
        return {"model_id": model_id, "weight": float(weight)}
    except ValueError as exc:
        raise click.BadParameter(f"{weight!r} is no weight; write it as {model_id}:0.8") from exc


def picture(value: str) -> str:
    """Read a file, to be sent along in base64."""
    try:
        return base64.b64encode(Path(value).read_bytes()).decode("ascii")
    except OSError as exc:
        raise click.BadParameter(f"{value} cannot be read: {exc.strerror}") from exc


def control(value: str) -> dict[str, Any]:
    """Read `KIND=FILE`."""
    kind, _, path = value.partition("=")
    if kind not in CONTROL_KINDS or not path:
        raise click.BadParameter(f"write it as KIND=FILE; kinds are {', '.join(CONTROL_KINDS)}")
    return {"kind": kind, "image": picture(path)}


@click.command()
@click.argument("prompt")
@click.option("--model", "model_id", help="Catalogue id.  [default: the first model that a machine is ready for]")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder.")
@click.option("-n", "--count", "n", type=int, default=1, help="How many pictures.", show_default=True)
@click.option("--negative", "--negative-prompt", "negative_prompt", help="What should not be in the picture.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", "--guidance-scale", "guidance_scale", type=float, help="How closely to follow the prompt.")
@click.option("--size", type=size, metavar="WxH", help="Pixels, such as 512x768.")
@click.option("--width", type=int, help="Pixels.")
@click.option("--height", type=int, help="Pixels.")
@click.option("--seed", type=int, help="Of the first picture; the k-th has seed + k.")
@click.option("--sampler", "--scheduler", "scheduler", help="By Automatic1111's name, such as 'DPM++ 2M Karras'.")
@click.option("--clip-skip", type=int, help="Layer of the text encoder, from the end.")
@click.option("--format", "image_format", type=click.Choice(IMAGE_FORMATS), help="Of the files.  [default: png]")
@click.option("--priority", type=int, help="0 to 9, 9 first.")
@click.option("--lora", "loras", type=lora, multiple=True, metavar="ID[:WEIGHT]", help="May be repeated.")
@click.option("--embedding", "embeddings", multiple=True, metavar="ID", help="Textual inversion; may be repeated.")
@click.option("--vae", "vae_id", metavar="ID", help="Autoencoder in place of the model's own.")
@click.option("--image", type=picture, metavar="FILE", help="Picture to begin with.")
@click.option("--strength", type=float, help="How much of it is drawn anew, 0 to 1.")
@click.option("--resize-mode", type=click.Choice(RESIZE_MODES), help="What happens to one of another shape.")
@click.option("--mask", type=picture, metavar="FILE", help="White is drawn anew.")
@click.option("--hires", type=float, metavar="SCALE", help="High-res fix: larger, and gone over once more.")
@click.option("--upscale", type=float, metavar="FACTOR", help="Larger, without drawing.")
@click.option("--upscaler", help="With what, for --hires or --upscale.")
@click.option("--control", "controls", type=control, multiple=True, metavar="KIND=FILE", help="Steers.")
@click.option("--annotate", is_flag=True, help="The files of --control are photos, not control pictures.")
@click.option("--remove-background", is_flag=True, default=None, help="Cut the foreground out; PNG with transparency.")
@click.option("--background-model", metavar="ID", help="Cut it out with this ONNX model.")
@click.option("--safety-check", is_flag=True, default=None, help="Black out what the safety checker takes for unsafe.")
@click.option("--url", help="The server.  [default: the one that runs here, or FLEET_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of paths.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def generate(prompt: str, output: Path, url: str | None, *, as_json: bool, quiet: bool, **said: Any) -> None:
    """Draw pictures with a running server, and save them; Ctrl-C cancels the job."""
    order = _order(prompt, said)
    try:
        output.mkdir(parents=True, exist_ok=True)  # before anything is drawn for a place that cannot be
    except OSError as exc:
        raise click.BadParameter(f"{output} cannot be made: {exc.strerror}", param_hint="--output") from exc
    api = ApiClient.of(Settings.load(os.environ), url)
    try:
        order["model_id"] = choose_model(api, said["model_id"])
        with watching(order["n"], quiet=quiet) as watcher:
            job = Drawing(api, order, watcher).run()
    except UnknownModel as exc:
        raise click.BadParameter(str(exc), param_hint="--model") from exc
    except ApiError as exc:
        if exc.status not in REFUSALS:
            raise
        raise click.UsageError(f"the server refuses this order: {exc}") from exc
    except Cancelled as exc:
        click.echo(f"imagefleet: {exc}", err=True)
        _tell(as_json, exc.job, [])
        sys.exit(CANCELLED)
    try:
        _tell(as_json, job, _saved(output, api, job, as_json=as_json))
    except OSError as exc:
        raise ApiError(f"the pictures of job {job['job_id']} are drawn, and could not be saved: {exc}") from exc
    if job["status"] != "completed":
        click.echo(f"imagefleet: {reason_of(job)}", err=True)
        sys.exit(1)


def _order(prompt: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Make the order of what was said; raises UsageError for what does not fit together."""
    _refuse_what_does_not_fit(said)
    plain = {name: value for name, value in said.items() if name not in APART and value not in (None, ())}
    order = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    order["prompt"] = prompt
    if said["size"]:
        order["width"], order["height"] = said["size"]
    if said["mask"]:
        order["mask"] = {"image": said["mask"]}
    upscaler = {"upscaler": said["upscaler"]} if said["upscaler"] else {}
    if said["hires"] is not None:
        order["hires"] = {"scale": said["hires"], **upscaler}
    if said["upscale"] is not None:
        order["upscale"] = {"factor": said["upscale"], **upscaler}
    if said["controls"]:
        order["controls"] = [each | {"annotate": said["annotate"]} for each in said["controls"]]
    if said["background_model"]:
        order["remove_background"] = said["background_model"]
    return order


def _refuse_what_does_not_fit(said: Mapping[str, Any]) -> None:
    if said["size"] and (said["width"] or said["height"]):
        raise click.UsageError("give either --size or --width and --height")
    if said["image"] is None and (said["mask"] or said["strength"] is not None or said["resize_mode"]):
        raise click.UsageError("--mask, --strength and --resize-mode need an --image to begin with")
    if said["upscaler"] and not (said["hires"] or said["upscale"]):
        raise click.UsageError("--upscaler needs --hires or --upscale")
    if said["annotate"] and not said["controls"]:
        raise click.UsageError("--annotate is about the files of --control")


APART = frozenset(
    {"model_id", "size", "mask", "hires", "upscale", "upscaler", "controls", "annotate", "background_model"}
)
"""What is not a field of the order as it is said."""


def _saved(folder: Path, api: ApiClient, job: Job, *, as_json: bool) -> list[dict[str, Any]]:
    """Save the pictures; without JSON each path is printed as soon as it is there."""
    found = []
    for path, image in save(folder, api, job):
        found.append({**image, "path": str(path)})
        if not as_json:
            click.echo(path)
    return found


def _tell(as_json: bool, job: Job, images: list[dict[str, Any]]) -> None:  # noqa: FBT001  # the option, passed on
    """Print all that other programs may want to know."""
    if as_json:
        known = {name: job.get(name) for name in ("job_id", "status", "model_id", "url", "error")}
        click.echo(json.dumps(known | {"images": images}, indent=2))
