"""Thousands of pictures in no time: rows that are copied, and a few files that all of them share."""

import io
from datetime import timedelta
from typing import Any
from uuid import uuid4

from PIL import Image as Pillow
from sqlalchemy import insert, select

from app.core.fleet import Fleet
from app.core.tables import Base, Image, Job
from tests.builders import a_completed_job

SHAPES = ((96, 64), (64, 96), (80, 80), (128, 64), (64, 64), (120, 80), (72, 96))
"""Width and height in pixels of the files; so many of them that no two neighbours are alike."""

AT_ONCE = 2000


def fill(fleet: Fleet, count: int, *, prompt: str = "picture {}") -> None:
    """Add so many completed jobs of one picture, a second apart; `{}` in the prompt is its number, 0 the oldest."""
    job, image = _template(fleet)
    keys = [_keep(fleet, place, shape) for place, shape in enumerate(SHAPES)]
    for start in range(0, count, AT_ONCE):
        jobs, images = [], []
        for number in range(start, min(start + AT_ONCE, count)):
            job_id, at = uuid4(), image["created_at"] - timedelta(seconds=count - number)
            width, height = SHAPES[number % len(SHAPES)]
            spec = job["spec"] | {"prompt": prompt.format(number)}
            jobs.append(job | {"id": job_id, "spec": spec, "created_at": at, "ended_at": at})
            shown = {"width": width, "height": height, "key": keys[number % len(SHAPES)]}
            images.append(image | shown | {"id": uuid4(), "job_id": job_id, "created_at": at})
        with fleet.transaction() as tx:
            for table, rows in ((Job, jobs), (Image, images)):
                tx.session.execute(insert(table), rows)


def _template(fleet: Fleet) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let one picture be drawn as all are, and return what its rows say."""
    job_id = a_completed_job(fleet).id
    with fleet.reading() as session:
        job = session.get_one(Job, job_id)
        image = session.scalars(select(Image).where(Image.job_id == job_id)).one()
        return _row(job), _row(image)


def _row(found: Base) -> dict[str, Any]:
    return {each.key: getattr(found, each.key) for each in type(found).__mapper__.column_attrs}


def _keep(fleet: Fleet, place: int, shape: tuple[int, int]) -> str:
    file = io.BytesIO()
    Pillow.effect_mandelbrot(shape, (-2.0, -1.2, 1.0, 1.2), 20 + 3 * place).convert("RGB").save(file, "PNG")
    fleet.images.put(f"shared/{place}.png", file.getvalue())
    return f"shared/{place}.png"
