"""Schemas of the OpenAI dialect. Null passes for what may be left out; what OpenAI does not know is refused, as there.

Source: OpenAI's API reference "Images", and the types of its Python package, 3.52.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.limits import problems_of
from app.core.models import can_be_stored
from app.core.spec import IMAGE_FORMATS, MAX_QUALITY, MAX_SEED, SCHEDULERS

AUTO = "auto"
SIZE = validate.Regexp(
    r"(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})\Z", error="must be auto, or WIDTHxHEIGHT in pixels, such as 1024x1024"
)
NOT_EMPTY = validate.Length(min=1, error="must not be empty")
MOST_PICTURES = 10
MOST_PARTIALS = 3
QUALITIES = ("low", "medium", "high", "xhigh", "max")
SAID_OTHERWISE = {"standard": "medium", "hd": "high"}
"""Qualities of older clients."""

SEE_THROUGH = "transparent"


def _one_of(*words: str, **more: Any) -> fields.String:
    return fields.String(allow_none=True, validate=validate.OneOf(words), **more)


def _whole(least: int, most: int | None, **more: Any) -> fields.Integer:
    return fields.Integer(allow_none=True, strict=True, validate=validate.Range(min=least, max=most), **more)


def _let_be(*words: str, **more: Any) -> fields.String:
    """Take a word that says nothing to this server, if OpenAI knows it."""
    return _one_of(*words, load_only=True, metadata={"description": "taken, and without effect"}, **more)


def _can_be_stored(text: str) -> None:
    if not can_be_stored(text):
        raise ValidationError("must be text without NUL and without halves of characters")


class OpenAiPictureSchema(Schema):
    """What all three kinds of orders may say."""

    model = fields.String(
        allow_none=True,
        metadata={"description": "one of /models; OpenAI's own names mean the server's default", "example": "sdxl"},
    )
    n = _whole(1, MOST_PICTURES)
    size = fields.String(allow_none=True, validate=SIZE, metadata={"example": "1024x1024"})
    response_format = _one_of(
        "url", "b64_json", metadata={"description": "url where the model is dall-e-2 or dall-e-3, or else b64_json"}
    )
    user = fields.String(allow_none=True, validate=_can_be_stored)
    negative_prompt = fields.String(allow_none=True, metadata={"description": "ours: what is not to be seen"})
    seed = _whole(0, MAX_SEED, metadata={"description": "ours: of the first picture; picture k has seed + k"})
    steps = _whole(1, None, metadata={"description": "ours: in place of what quality means"})
    guidance_scale = fields.Float(allow_none=True, validate=validate.Range(min=0, max=100))
    scheduler = _one_of(*SCHEDULERS, metadata={"description": "ours: a sampler in Automatic1111's spelling"})

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Hold the order against the server's limits."""
        problems = problems_of({**data, **sides(data)})
        of_size = [text for name in ("width", "height") for text in problems.pop(name, [])]
        if of_size:
            problems["size"] = of_size[:1]
        if problems:
            raise ValidationError(problems)


class OpenAiOrderFields(OpenAiPictureSchema):
    """What orders with a prompt may say beside it."""

    prompt = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "a red circle on a blue background"})
    quality = _one_of(
        *QUALITIES,
        *SAID_OTHERWISE,
        AUTO,
        metadata={"description": "low: the fewest steps that the model's entry allows; high and more: the most"},
    )
    background = _one_of(
        SEE_THROUGH, "opaque", AUTO, metadata={"description": "transparent: what is behind the subject is cut out"}
    )
    output_format = _one_of(*IMAGE_FORMATS)
    output_compression = _whole(0, MAX_QUALITY, metadata={"description": "of webp and jpeg: 100 is the best"})
    safety_identifier = fields.String(allow_none=True, validate=_can_be_stored)
    stream = fields.Boolean(allow_none=True, truthy={True}, falsy={False})
    partial_images = _whole(0, MOST_PARTIALS)
    moderation = _let_be("low", AUTO)
    complexity = _let_be("low", "medium", "high")

    @validates_schema
    def fit_together(self, data: Mapping[str, Any], **_: Any) -> None:
        """Refuse what cannot be had at once."""
        kind = data.get("output_format") or "png"
        if data.get("background") == SEE_THROUGH and kind == "jpeg":
            raise ValidationError("transparent needs output_format png or webp", "background")
        if kind == "png" and (data.get("output_compression") or MAX_QUALITY) != MAX_QUALITY:
            raise ValidationError("is for output_format webp and jpeg; a png loses nothing", "output_compression")
        if data.get("stream") and data.get("response_format") == "url":
            raise ValidationError("a stream brings its pictures along: b64_json, or leave it out", "response_format")
        if data.get("partial_images") and not data.get("stream"):
            raise ValidationError("is for streams: send stream as well", "partial_images")


class OpenAiGenerationSchema(OpenAiOrderFields):
    """An order for pictures from words alone."""

    style = _let_be("vivid", "natural")


class OpenAiFormSchema(Schema):
    """What comes as a form, with the picture to begin with; see `forms`."""

    image = fields.Raw(
        required=True,
        metadata={"type": "string", "format": "binary", "description": "also `image[]`; a PNG, JPEG or WebP"},
    )


class OpenAiEditSchema(OpenAiFormSchema, OpenAiOrderFields):
    """An order for pictures from a picture, or for something else in a part of it."""

    mask = fields.Raw(
        metadata={
            "type": "string",
            "format": "binary",
            "description": "a PNG as large as the image: what is fully transparent in it is drawn anew",
        }
    )
    input_fidelity = _one_of("low", "high", metadata={"description": "high: less of the picture is drawn anew"})
    strength = fields.Float(
        allow_none=True,
        validate=validate.Range(min=0, max=1),
        metadata={"description": "ours: how much is drawn anew; 1 with a mask, or else 0.75"},
    )


class OpenAiVariationSchema(OpenAiFormSchema, OpenAiPictureSchema):
    """An order for pictures like a picture, without words."""


def sides(order: Mapping[str, Any]) -> dict[str, int]:
    """Return an order's width and height in pixels; nothing where it leaves them open."""
    size = order.get("size")
    if size in {None, AUTO}:
        return {}
    width, _, height = str(size).partition("x")
    return {"width": int(width), "height": int(height)}


class OpenAiImageSchema(Schema):
    """A picture: its bytes as base64, or where it is."""

    b64_json = fields.String()
    url = fields.String()
    seed = fields.Integer(required=True, metadata={"description": "ours: send it to get this picture again"})


class OpenAiInputTokensSchema(Schema):
    """Tokens by kind."""

    text_tokens = fields.Integer(required=True)
    image_tokens = fields.Integer(required=True)


class OpenAiUsageSchema(Schema):
    """Zeroes: nothing is counted in tokens here."""

    input_tokens = fields.Integer(required=True)
    output_tokens = fields.Integer(required=True)
    total_tokens = fields.Integer(required=True)
    input_tokens_details = fields.Nested(OpenAiInputTokensSchema, required=True)


class OpenAiDrawnSchema(Schema):
    """The pictures of an order; none while it goes on, for those who prefer not to wait."""

    created = fields.Integer(required=True)
    data = fields.List(fields.Nested(OpenAiImageSchema), required=True)
    background = fields.String(validate=validate.OneOf([SEE_THROUGH, "opaque"]))
    output_format = fields.String(required=True, validate=validate.OneOf(IMAGE_FORMATS))
    quality = fields.String(validate=validate.OneOf(QUALITIES))
    size = fields.String()
    usage = fields.Nested(OpenAiUsageSchema, required=True)
    safety_identifier = fields.String()
    job_id = fields.UUID(required=True, metadata={"description": "ours: GET /v1/jobs/{job_id} knows more"})


class OpenAiModelSchema(Schema):
    """A model that pictures can be drawn with."""

    id = fields.String(required=True)
    object = fields.String(required=True, validate=validate.Equal("model"))
    created = fields.Integer(required=True)
    owned_by = fields.String(required=True)


class OpenAiModelsSchema(Schema):
    """All of them."""

    object = fields.String(required=True, validate=validate.Equal("list"))
    data = fields.List(fields.Nested(OpenAiModelSchema), required=True)


class OpenAiProblemSchema(Schema):
    """What went wrong."""

    message = fields.String(required=True)
    type = fields.String(required=True)
    param = fields.String(required=True, allow_none=True)
    code = fields.String(required=True, allow_none=True)
    job_id = fields.UUID(metadata={"description": "ours: the job that goes on, or that failed"})


class OpenAiErrorSchema(Schema):
    """A problem in this dialect's shape."""

    error = fields.Nested(OpenAiProblemSchema, required=True)
