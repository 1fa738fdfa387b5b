"""Drawing from the command line: order, watch, save."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from app.client import ApiClient, ApiError

SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def draw_into(folder: Path, api: ApiClient, order: Mapping[str, Any]) -> Iterator[Path]:
    """Draw an order, and yield the path of each picture as it is saved; raises ApiError when the job fails."""
    job = _watch(api, {"model_id": _ready_model(api), **order})
    if job["status"] != "completed":
        reason = job["error"]["message"] if job["error"] else "no reason was given"
        raise ApiError(f"job {job['job_id']} is {job['status']}: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    for image in job["images"]:
        path = folder / f"{str(job['job_id'])[:8]}-{image['seed']}.{SUFFIXES[image['media_type']]}"
        path.write_bytes(api.picture(image))
        yield path


def _ready_model(api: ApiClient) -> str:
    """Choose a model where the order names none."""
    drawable = [model for model in api.get("v1/models")["models"] if model["kind"] == "checkpoint"]
    if not drawable:
        raise ApiError("the catalogue is empty: add a model with `imagefleet models add`")
    ready = [model for model in drawable if model["status"] == "ready"]
    return str((ready or drawable)[0]["id"])


def _watch(api: ApiClient, order: Mapping[str, Any]) -> Mapping[str, Any]:
    """Show how far the job is until it has ended, and what it waits for."""
    job: Mapping[str, Any] = {}
    told = ""
    with click.progressbar(length=100, file=sys.stderr, label="drawing") as bar:
        for news in api.draw(order):
            job = news
            bar.update(round(100 * job["progress"]) - bar.pos)
            if (waiting := job.get("waiting_for") or "") and waiting != told:
                click.echo(f"\nwaiting: {waiting}", err=True)
                told = waiting
    return job
