"""Extras: pictures made larger by the fleet without drawing, read for their parameters, or described."""

import html
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from app import pictures
from app.api import given, ordering
from app.api.a1111 import checkpoints, enlarging, ordered, schemas, translate
from app.api.a1111.blueprint import blueprint, problems
from app.api.door import Refused, caller, fleet, settings
from app.api.webui.infotext import parse, read_picture
from app.core import callers, jobs, models
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.tables import Input, Job


@blueprint.post("/extra-single-image")
@blueprint.arguments(schemas.A1111ExtraSchema)
@blueprint.response(200, schemas.A1111EnlargedSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@problems(409, 413, 429, 500, 503, 504)
def extra_single_image(order: Mapping[str, Any]) -> dict[str, Any]:
    """Make a picture larger, by resampling or with an upscaler of the catalogue."""
    (image,) = _enlarged(order, [order["image"]])
    return {"html_info": _told(order), "image": translate.to_base64(image)}


@blueprint.post("/extra-batch-images")
@blueprint.arguments(schemas.A1111ExtrasSchema)
@blueprint.response(200, schemas.A1111EnlargedBatchSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@problems(409, 413, 429, 500, 503, 504)
def extra_batch_images(order: Mapping[str, Any]) -> dict[str, Any]:
    """Make several pictures larger, each a job of its own; they come back in their order."""
    texts = [each["data"] for each in order["imageList"]]
    found = _enlarged(order, texts) if texts else []
    return {"html_info": _told(order), "images": [translate.to_base64(image) for image in found]}


@blueprint.post("/png-info")
@blueprint.arguments(schemas.A1111PictureSchema)
@blueprint.response(200, schemas.A1111PngInfoSchema)
def png_info(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a picture says about how it was drawn, ours or Automatic1111's."""
    info, items = read_picture(_bytes_of(body["image"]))
    return {"info": info, "items": items, "parameters": parse(info) if info else {}}


@blueprint.post("/interrogate")
@blueprint.response(200)
@problems(501)
def interrogate() -> dict[str, Any]:
    """Say that pictures cannot be described."""
    raise Refused(
        501,
        "not_possible",
        "interrogate: this server draws pictures and has no model that describes them; write a prompt",
    )


def _enlarged(order: Mapping[str, Any], texts: Sequence[str]) -> list[bytes]:
    """Make pictures in base64 larger, and return them as PNG; raises Refused."""
    enlarging.refuse_what_cannot_be(order)
    kept = [given.keep(_bytes_of(text)) for text in texts]
    if enlarging.is_nothing_asked(order):
        return [fleet().images.get(each.key) for each in kept]
    sizes = [(each.width, each.height) for each in kept]
    for size in sizes:
        enlarging.refuse_too_large(order, size, settings().max_input_pixels)
    found = ordered.awaited(lambda: _placed(order, kept))
    return [_read(job, enlarging.cut_to(order, size)) for job, size in zip(found, sizes, strict=True)]


def _bytes_of(text: str) -> bytes:
    """Read a picture in base64, with or without `data:...,` before it; raises Refused."""
    found = given.to_bytes(text)
    if not found:
        raise Refused(422, "invalid_image", "Invalid encoded image")
    return found


def _placed(order: Mapping[str, Any], kept: Sequence[Input]) -> list[UUID]:
    def enlarge(tx: Transaction, terms: Terms) -> list[Job]:
        options = callers.options_of(tx.session, caller())
        model = checkpoints.to_draw_with(tx.session, None, options, fleet())
        upscalers = [each.id for each in models.listing(tx.session, kind="upscaler")]
        specs = [enlarging.to_spec(order, model.id, each.sha256, (each.width, each.height), upscalers) for each in kept]
        return jobs.submit_list(tx, specs, terms)

    return ordered.placed(enlarge)


def _read(job: Job, size: tuple[int, int] | None) -> bytes:
    """Read a picture that was made larger, cut to a size in pixels where one is said."""
    found = ordered.pictures_of(job)
    if not found:
        raise Refused(409, "interrupted", f"job {job.id} was interrupted; there is no larger picture")
    return found[0] if size is None else pictures.cut(found[0], size)


def _told(order: Mapping[str, Any]) -> str:
    return f"<p>{html.escape(enlarging.told(order))}</p>"
