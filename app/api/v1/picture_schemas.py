"""Schemas of what an order of the v1 dialect may bring along: pictures to begin with, and what makes them larger."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.v1.schemas import NOT_EMPTY
from app.core.extras import FILLS, RESIZE_MODES
from app.settings import Settings

LONGEST_ID = 200


class PictureField(fields.String):
    """A picture: the id of an upload, or the picture itself in base64, with or without `data:` before it."""

    def __init__(self, **more: Any) -> None:
        about = {"description": "input_id of an uploaded picture, or the picture itself: base64, or a data: URL"}
        super().__init__(validate=NOT_EMPTY, metadata=about, **more)


class MaskSchema(Schema):
    """What of the picture is drawn anew."""

    image = PictureField(required=True)
    blur = fields.Integer(
        strict=True,
        load_default=4,
        validate=validate.Range(min=0, max=256),
        metadata={"description": "pixels by which the mask's edge is softened"},
    )
    inverted = fields.Boolean(load_default=False, metadata={"description": "draw where the mask is black instead"})
    fill = fields.String(
        load_default="original",
        validate=validate.OneOf(FILLS),
        metadata={"description": "what is under the mask before it is drawn over"},
    )
    only_masked = fields.Boolean(
        load_default=False,
        metadata={"description": "draw the surroundings of the mask in the full size, and put the result back"},
    )
    padding = fields.Integer(
        strict=True,
        load_default=32,
        validate=validate.Range(min=0, max=1024),
        metadata={"description": "pixels around the mask that are looked at as well, with only_masked"},
    )


class HiresSchema(Schema):
    """A second pass over the picture, made larger."""

    scale = fields.Float(load_default=2.0, validate=validate.Range(min=1, max=8))
    upscaler = fields.String(
        load_default="Latent",
        validate=validate.Length(min=1, max=LONGEST_ID),
        metadata={"description": "a name that GET /v1/upscalers lists, among them ids of models of kind upscaler"},
    )
    steps = fields.Integer(
        strict=True, validate=validate.Range(min=1), metadata={"description": "left out: as the first pass"}
    )
    strength = fields.Float(load_default=0.7, validate=validate.Range(min=0, max=1))


class UpscaleSchema(Schema):
    """The drawn picture, made larger without drawing."""

    factor = fields.Float(load_default=2.0, validate=validate.Range(min=1, max=8))
    upscaler = fields.String(
        load_default="Lanczos",
        validate=validate.Length(min=1, max=LONGEST_ID),
        metadata={"description": "Lanczos, Nearest, or the id of a model of kind upscaler"},
    )


class PictureFields(Schema):
    """The part of an order that is about pictures to begin with and sizes to end with."""

    image = PictureField()
    reference_image_blob = PictureField()
    strength = fields.Float(
        validate=validate.Range(min=0, max=1),
        metadata={
            "description": "how much of `image` is drawn anew: 0 keeps it, 1 keeps hardly anything; usually 0.75"
        },
    )
    resize_mode = fields.String(
        load_default="stretch",
        validate=validate.OneOf(RESIZE_MODES),
        metadata={"description": "what happens to a picture of another shape than width and height"},
    )
    mask = fields.Nested(MaskSchema)
    hires = fields.Nested(HiresSchema)
    upscale = fields.Nested(UpscaleSchema)

    @validates_schema
    def begin_with_one_picture(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take one name for the picture, and nothing that needs one without it."""
        if "image" in data and "reference_image_blob" in data:
            raise ValidationError("give either image or reference_image_blob", "image")
        if "image" in data or "reference_image_blob" in data:
            return
        for name in ("mask", "strength"):
            if name in data:
                raise ValidationError("needs an image to begin with", name)


class InputSchema(Schema):
    """An uploaded picture."""

    input_id = fields.String(required=True, metadata={"description": "its SHA-256, as it is kept"})
    url = fields.String(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    media_type = fields.String(required=True)
    size_bytes = fields.Integer(required=True)
    created_at = fields.AwareDateTime(required=True)


class UpscalerSchema(Schema):
    """A way to make pictures larger."""

    name = fields.String(required=True)
    latent = fields.Boolean(required=True, metadata={"description": "for hires alone"})
    built_in = fields.Boolean(required=True, metadata={"description": "false: a model of the catalogue"})


class UpscalerListSchema(Schema):
    """The ways to make pictures larger."""

    upscalers = fields.List(fields.Nested(UpscalerSchema), required=True)


def problems_of_sizes(order: Mapping[str, Any], known: Settings) -> dict[str, list[str]]:
    """Hold what comes out larger than it is drawn against the settings; sizes that the order leaves open pass."""
    width, height = order.get("width"), order.get("height")
    if not width or not height:
        return {}
    problems = {}
    scale = order.get("hires", {}).get("scale", 1.0)
    if "hires" in order and max(width, height) * scale > known.max_size:
        told = (
            f"makes it {width * scale:.0f} x {height * scale:.0f} pixels; this server draws {known.max_size} a side "
            "(MAX_SIZE): a smaller scale, or upscale, which does not draw"
        )
        problems["hires"] = [told]
    factor = scale * order.get("upscale", {}).get("factor", 1.0)
    if "upscale" in order and width * height * factor**2 > known.max_input_pixels:
        told = (
            f"makes it {width * factor:.0f} x {height * factor:.0f}; this server's limit are {known.max_input_pixels} "
            "pixels (MAX_INPUT_PIXELS)"
        )
        problems["upscale"] = [told]
    return problems
