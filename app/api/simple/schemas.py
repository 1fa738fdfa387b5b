"""Schemas of the simple dialect: seed 001."""

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.answers import any_of
from app.api.hooks import HookFields
from app.api.limits import problems_of
from app.core.spec import IMAGE_FORMATS, MAX_SEED, SCHEDULERS

NOT_EMPTY = validate.Length(min=1, error="must not be empty")
RESPONSES = ("base64", "url")

SIZE = validate.Regexp(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}\Z", error="must be WIDTHxHEIGHT in pixels, such as 512x512")


class SimpleOrderSchema(HookFields):
    """An order for pictures. What is left out is as the model's entry says."""

    RULES: ClassVar[Mapping[str, Any]] = {"not": {"required": ["size"], **any_of("width", "height")}}

    model = fields.String(
        required=True,
        validate=NOT_EMPTY,
        error_messages={"required": "is missing; GET /models lists them"},
        metadata={"example": "demo-shapes"},
    )
    prompt = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "a red circle on a blue background"})
    negative_prompt = fields.String(load_default="")
    size = fields.String(validate=SIZE, metadata={"description": "in place of width and height", "example": "512x512"})
    width = fields.Integer(strict=True, validate=validate.Range(min=8))
    height = fields.Integer(strict=True, validate=validate.Range(min=8))
    steps = fields.Integer(strict=True, validate=validate.Range(min=1))
    guidance_scale = fields.Float(validate=validate.Range(min=0, max=100))
    seed = fields.Integer(strict=True, validate=validate.Range(min=0, max=MAX_SEED))
    n = fields.Integer(strict=True, load_default=1, validate=validate.Range(min=1))
    scheduler = fields.String(validate=validate.OneOf(SCHEDULERS))
    image_format = fields.String(
        validate=validate.OneOf(IMAGE_FORMATS),
        metadata={"description": "left out: what `Accept` asks for, and else png"},
    )
    response = fields.String(
        load_default="base64",
        validate=validate.OneOf(RESPONSES),
        metadata={"description": "how JSON answers carry the pictures"},
    )
    wait = fields.Float(
        validate=validate.Range(min=0),
        metadata={"description": "seconds to wait for the pictures, within the server's limit; 0: answer at once"},
    )

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take one way of saying the size, and hold the order against the server's limits."""
        if "size" in data and ("width" in data or "height" in data):
            raise ValidationError("give either size or width and height", "size")
        if problems := problems_of(with_size(data)):
            raise ValidationError(problems)


def with_size(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order with `width` and `height` in place of `size`."""
    found = dict(order)
    if size := found.pop("size", None):
        width, _, height = size.partition("x")
        found |= {"width": int(width), "height": int(height)}
    return found


class SimpleImageSchema(Schema):
    """A picture: its bytes as base64, or where it is."""

    image_id = fields.UUID(required=True)
    seed = fields.Integer(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    media_type = fields.String(required=True)
    url = fields.String(required=True)
    base64 = fields.String()


class SimpleDrawnSchema(Schema):
    """A job with its pictures; without them while it goes on."""

    job_id = fields.UUID(required=True)
    status = fields.String(required=True)
    model = fields.String(required=True)
    images = fields.List(fields.Nested(SimpleImageSchema), required=True)
    url = fields.String(required=True, metadata={"description": "where to ask for the job"})


class SimpleModelSchema(Schema):
    """A model that pictures can be drawn with."""

    name = fields.String(required=True, metadata={"description": "what `model` of an order is"})
    label = fields.String(required=True)
    description = fields.String(required=True, allow_none=True)
    base = fields.String(required=True, allow_none=True)
    ready = fields.Boolean(required=True, metadata={"description": "a live machine holds it"})
    options = fields.Dict(required=True)


class SimpleModelsSchema(Schema):
    """All of them."""

    models = fields.List(fields.Nested(SimpleModelSchema), required=True)


class SimpleMemorySchema(Schema):
    """Memory, bytes."""

    total = fields.Integer(required=True)
    free = fields.Integer(required=True)


class SimpleMachineSchema(Schema):
    """What one machine has and does."""

    name = fields.String(required=True)
    alive = fields.Boolean(required=True)
    device = fields.String(required=True)
    type = fields.String(required=True, metadata={"description": "cuda, cpu, ..."})
    memory = fields.Nested(SimpleMemorySchema, required=True, metadata={"description": "of what draws"})
    cpus = fields.Integer(required=True, metadata={"description": "processors of its computer"})
    cpu_load = fields.Float(
        required=True, allow_none=True, metadata={"description": "how many processes wanted one, in the last minute"}
    )
    cpu_memory = fields.Nested(SimpleMemorySchema, required=True, metadata={"description": "of its computer"})
    models = fields.List(fields.String(), required=True, metadata={"description": "those it is ready for"})
    jobs = fields.Integer(required=True, metadata={"description": "how many it draws at the moment"})


class SimpleTotalsSchema(Schema):
    """All live machines together."""

    machines = fields.Integer(required=True)
    gpus = fields.Integer(required=True)
    gpu_memory = fields.Nested(SimpleMemorySchema, required=True)
    cpus = fields.Integer(required=True, metadata={"description": "of their computers, each counted once"})
    cpu_memory = fields.Nested(SimpleMemorySchema, required=True, metadata={"description": "likewise"})


class SimpleStatusSchema(Schema):
    """The server and its resources."""

    status = fields.String(required=True, metadata={"description": "ok, or idle where no live machine is ready"})
    version = fields.String(required=True)
    jobs = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    resources = fields.Nested(SimpleTotalsSchema, required=True)
    machines = fields.List(fields.Nested(SimpleMachineSchema), required=True)


class SimpleErrorSchema(Schema):
    """A problem in this dialect's shape."""

    detail = fields.String(required=True)
    code = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields", attribute="fields")
