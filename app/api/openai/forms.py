"""Orders that come as forms: their texts read as what the fields hold, their pictures checked and kept."""

import io
from collections.abc import Mapping
from typing import Any, NoReturn

from flask import request
from marshmallow import Schema, ValidationError, fields
from PIL import Image
from webargs.flaskparser import abort
from werkzeug.datastructures import FileStorage

from app.api import given
from app.api.door import Refused
from app.core.tables import Input

WORDS = {"true": True, "false": False}


def read(schema: Schema) -> dict[str, Any]:
    """Read this request's form; raises werkzeug's BadRequest with the messages of the schema.

    All that a form has is text, or a file. Several files may come under one name, or under `name[]`.
    """
    texts = {name: _value(schema.fields.get(name), text) for name, text in request.form.items()}
    files: dict[str, list[FileStorage]] = {}
    for name, parts in request.files.lists():
        files.setdefault(name.removesuffix("[]"), []).extend(parts)
    try:
        found: dict[str, Any] = schema.load(texts | files)
    except ValidationError as exc:
        abort(400, messages={"form": exc.messages})
    return found


def _value(field: fields.Field[Any] | None, text: str) -> Any:
    """Return what the text of a field means; what is none of its values stays, and the schema refuses it."""
    if isinstance(field, fields.Boolean):
        return WORDS.get(text.lower(), text)
    if isinstance(field, fields.Integer):
        try:
            return int(text)
        except ValueError:
            return text
    return text


def with_pictures_kept(order: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the pictures that an order brings along, and name them in it by SHA-256 instead; raises Refused."""
    with given.named("image"):
        image = given.keep(_bytes(order["image"]))
    if "mask" not in order:
        return {**order, "image": image.sha256}
    with given.named("mask"):
        mask = given.keep(_to_paint(given.checked(_bytes(order["mask"])).data, image))
    return {**order, "image": image.sha256, "mask": mask.sha256}


def _bytes(parts: Any) -> bytes:
    if not isinstance(parts, list):
        raise Refused(400, "invalid_type", "send it as a file")
    if len(parts) > 1:
        told = f"{len(parts)} pictures were sent, and no model of this server draws from several; send one"
        raise Refused(400, "not_possible", f"{told}, or put them side by side into one")
    return bytes(parts[0].read())


def _to_paint(mask: bytes, image: Input) -> bytes:
    """Turn OpenAI's mask, fully transparent where something is to be drawn, into ours, which is white there."""
    with Image.open(io.BytesIO(mask)) as opened:
        if opened.size != (image.width, image.height):
            _refuse_mask(
                f"has {opened.width} x {opened.height} pixels and the image {image.width} x {image.height}; "
                "make them alike"
            )
        holes = opened.getchannel("A").point([255] + [0] * 255) if "A" in opened.getbands() else None
    if holes is None or holes.getbbox() is None:
        _refuse_mask("nothing of it is fully transparent; what is to be drawn anew must be")
    file = io.BytesIO()
    holes.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _refuse_mask(why: str) -> NoReturn:
    raise Refused(400, "invalid_mask", why)
