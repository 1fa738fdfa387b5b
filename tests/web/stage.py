"""A fleet with something of everything to look at, which stands still: only rows and files."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image as Pillow
from PIL import ImageDraw
from sqlalchemy import create_engine

from app.api.application import make_application
from app.core import engines, enrichments, images
from app.core.enrichments import Finding
from app.core.fleet import Fleet, Limits, prepare_engine
from app.core.lifecycle import AttemptState, HoldingState
from app.core.live import Progress
from app.core.machines import HoldingReport
from app.core.tables import Job
from app.settings import Settings
from tests.builders import a_job, a_machine, a_model, a_running_job, an_upload, finish
from tests.support.fakes import MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.web import serving

GB = 10**9
HASH = "5e" * 32
STILL = Limits(silent_after=3600.0)
"""Machines that checked in once are alive for longer than anybody looks."""

PICTURES = (
    ("a harbour at dusk, fishing boats, oil on canvas", (192, 128), (24, 44, 84), (236, 140, 84)),
    ("portrait of an old gardener, soft window light", (128, 192), (60, 74, 52), (226, 206, 170)),
    ("isometric reading room, paper cut", (160, 160), (176, 92, 70), (244, 226, 196)),
    ("mountain road in fog, long exposure", (256, 112), (92, 108, 118), (222, 226, 228)),
    ("three pears on blue linen", (160, 128), (34, 62, 120), (214, 196, 92)),
    ("tall lighthouse, risograph print", (112, 192), (196, 64, 58), (248, 238, 222)),
)
"""Prompts, sizes and two colours each."""

EASEL = {
    "name": "NVIDIA GeForce RTX 4090",
    "memory_total": 24 * GB,
    "memory_free": 9 * GB,
    "disk_free": 400 * GB,
    "loaded": ["dreamy-xl"],
}
BENCH = {"name": "NVIDIA L40S", "memory_total": 48 * GB, "memory_free": 46 * GB, "disk_free": 200 * GB}


@dataclass(frozen=True, slots=True)
class Stage:
    """Such a fleet, served."""

    url: str
    fleet: Fleet
    jobs: Sequence[UUID]
    """What its visitor has sent: one that failed, one that is done, one that waits, one that is drawn."""


@contextmanager
def stage(folder: Path, template: Path, **known: Any) -> Iterator[Stage]:
    """Serve such a fleet from a copy of a migrated database; `known` are settings."""
    database = folder / "fleet.db"
    database.write_bytes(template.read_bytes())
    engine = prepare_engine(create_engine(f"sqlite:///{database}"))
    fleet = Fleet(engine, RecordingDispatcher(), MemoryImages(), MemoryLive(), limits=STILL)
    settings = Settings(data_dir=folder, database_url=f"sqlite:///{database}", **known).completed()
    jobs = furnish(fleet)
    with serving(make_application(fleet, settings)) as url:
        yield Stage(url, fleet, jobs)
    engine.dispose()


def furnish(fleet: Fleet) -> list[UUID]:
    """Put in models, machines, an engine and pictures; returns the jobs that a visitor has sent, the newest last."""
    _put_models(fleet)
    for number in range(4 * len(PICTURES)):
        _draw(fleet, number)
    failed = a_running_job(fleet, "easel", model_id="dreamy-xl", prompt="the whole city from above, every window lit")
    words = "CUDA out of memory: 2.1 GB more were needed than the 9 GB that are free"
    finish(
        fleet, failed, AttemptState.ERROR, machine_id="easel", error_code="out_of_memory", error=words, permanent=True
    )
    done = _draw(fleet, 0)
    running = a_running_job(fleet, "easel", model_id="dreamy-xl", prompt="a fox asleep in tall grass, morning", n=2)
    fleet.live.report(running.id, Progress(1, "denoising", 13, 20, 0, 2), _painted((128, 128), *PICTURES[4][2:]))
    _put_machines(fleet, running)
    waiting = a_job(fleet, model_id="dreamy-xl", prompt="a clockmaker's bench, macro")
    with fleet.transaction() as tx:
        engines.create(tx, engines.EngineSpec(checkpoint_id="dreamy-xl"))
    return [failed.id, done.id, waiting.id, running.id]


def _put_models(fleet: Fleet) -> None:
    about = "An all-round model for paintings and photographs, trained at 1024 pixels."
    a_model(fleet, "dreamy-xl", base="sdxl", size_bytes=6_938_040_682, hash=f"sha256:{HASH}", description=about)
    a_model(fleet, "flux-dev", base="flux", size_bytes=23_800_000_000, auth_required=True, auth_provider="huggingface")
    a_model(fleet, "paper-cut", kind="lora", base="sdxl", size_bytes=228_000_000, description="Layers of cut paper.")
    a_model(fleet, "fine-ink", kind="embedding", base="sdxl", size_bytes=51_000)
    a_model(fleet, "soft-vae", kind="vae", base="sdxl", size_bytes=334_000_000)
    with fleet.transaction() as tx:
        enrichments.owe(tx, [HASH])
    found = {
        "name": "Dreamy XL",
        "version": "3.1",
        "trained_words": ["dreamy", "soft light"],
        "nsfw": False,
        "url": "https://civitai.com/models/1",
        enrichments.PICTURE: True,
    }
    fleet.images.put(enrichments.picture_key(HASH), _painted((384, 384), *PICTURES[0][2:], kind="WEBP"))
    with fleet.transaction() as tx:
        enrichments.record(tx, HASH, Finding(found))


def _put_machines(fleet: Fleet, running: Job) -> None:
    coming = HoldingReport(
        model_id="flux-dev",
        state=HoldingState.DOWNLOADING,
        bytes_done=9_300_000_000,
        bytes_total=23_800_000_000,
        bytes_per_second=310e6,
    )
    wrong = HoldingReport(
        model_id="paper-cut",
        state=HoldingState.ERROR,
        error_code="hash_mismatch",
        error="the file's SHA-256 is 9f…, and the catalogue says 3c…; it was put into quarantine",
    )
    drawing = frozenset({(running.id, 1)})
    a_machine(fleet, "easel", ready_for=["dreamy-xl"], device=EASEL, version="0.1.0", attempts=drawing)
    a_machine(fleet, "workbench", device=BENCH, version="0.1.0", holdings=[coming, wrong])


def _draw(fleet: Fleet, number: int) -> Job:
    prompt, (width, height), dark, light = PICTURES[number % len(PICTURES)]
    job = a_running_job(
        fleet, "easel", model_id="dreamy-xl", prompt=prompt, width=width, height=height, steps=20, seed=1000 + number
    )
    data = _painted((width, height), dark, light, turn=number)
    images.receive(fleet, an_upload(job, data=data, width=width, height=height, machine_id="easel", seed=1000 + number))
    return finish(fleet, job, machine_id="easel")


def _painted(
    size: tuple[int, int], dark: tuple[int, int, int], light: tuple[int, int, int], *, turn: int = 0, kind: str = "PNG"
) -> bytes:
    """Paint hills of two colours."""
    picture = Pillow.linear_gradient("L").resize(size)
    sky = Pillow.merge(
        "RGB", [picture.point(lambda v, a=a, b=b: b + (a - b) * v // 255) for a, b in zip(dark, light, strict=True)]
    )
    pen = ImageDraw.Draw(sky)
    for hill in range(3):
        line = [
            (x, size[1] * (0.55 + 0.15 * hill + 0.06 * math.sin(x / (17 + 9 * hill) + turn + hill)))
            for x in range(size[0] + 1)
        ]
        shade = tuple(int(a * (0.9 - 0.2 * hill)) for a in dark)
        pen.polygon([*line, (size[0], size[1]), (0, size[1])], fill=shade)
    file = io.BytesIO()
    sky.save(file, kind)
    return file.getvalue()
