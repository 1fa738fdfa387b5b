"""Pictures in requests, the same for every dialect: read, checked, kept; afterwards orders name them by SHA-256."""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager

from flask import request

from app import pictures
from app.api.door import Refused, fleet, settings
from app.core import inputs
from app.core.extras import SHA256
from app.core.tables import Input
from app.pictures import Picture, UnusablePicture

DATA_URL = re.compile(r"data:[\w/+.;=-]{0,200},")
"""What stands before a picture's base64 in the address of a picture that brings itself."""

LONGEST_TOLD = 80
"""Characters of what was given that are told again where it is no picture."""


def checked(data: bytes) -> Picture:
    """Check a picture's bytes; raises Refused."""
    try:
        return pictures.checked(data, settings().max_input_pixels)
    except UnusablePicture as exc:
        status, code = (413, "picture_too_large") if exc.is_too_large else (422, "invalid_image")
        raise Refused(status, code, str(exc)) from exc


def keep(data: bytes) -> Input:
    """Check a picture's bytes and keep it; raises Refused."""
    return keep_checked(checked(data))


def keep_checked(found: Picture) -> Input:
    """Keep a picture that `checked` has returned."""
    return inputs.keep(
        fleet(),
        inputs.Given(
            sha256=found.sha256,
            media_type=found.media_type,
            width=found.width,
            height=found.height,
            data=found.data,
        ),
    )


def keep_text(text: str, field: str) -> str:
    """Return the SHA-256 of a picture that a field of JSON names, or brings along in base64; raises Refused.

    A name is taken as it is: whether there is such a picture is asked where the order is accepted.
    """
    if SHA256.fullmatch(text.lower()):
        return text.lower()
    data = to_bytes(text)
    if not data:
        told = text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}..."
        sentence = (
            f"{field}: {told!r} is neither the id of an uploaded picture nor a picture in base64; "
            "addresses of pictures are not fetched"
        )
        raise Refused(422, "invalid_image", sentence, **{field: [sentence]})
    with named(field):
        return keep(data).sha256


@contextmanager
def named(field: str) -> Iterator[None]:
    """Let what is refused in this block say which field it was in."""
    try:
        yield
    except Refused as exc:
        problem = exc.problem
        raise Refused(
            problem.status, problem.code, f"{field}: {problem.message}", **{field: [problem.message]}
        ) from exc


def to_bytes(text: str) -> bytes | None:
    """Read base64, with or without `data:...,` before it; None for what is none."""
    try:
        plain = DATA_URL.sub("", text, count=1) if text.startswith("data:") else text
        return base64.b64decode("".join(plain.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def from_body() -> bytes:
    """Read a picture that is the request's body, or the part `file` of a form; raises Refused."""
    if request.mimetype == "multipart/form-data":
        part = request.files.get("file")
        if part is None:
            raise Refused(422, "missing_file", "the form has no part `file`; send the picture as that")
        return bytes(part.read())
    data = request.get_data()
    if not data:
        raise Refused(
            422, "missing_picture", "the body is empty; send the picture as the body, or as the part `file` of a form"
        )
    return data
