"""Schemas of the gallery dialect: seed 004."""

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.answers import either
from app.api.hooks import HookFields
from app.api.limits import problems_of
from app.core.spec import MAX_SEED, SCHEDULERS

NOT_EMPTY = validate.Length(min=1, error="must not be empty")


class GallerySettingsSchema(Schema):
    """How to draw; what is left out is as the model's entry says."""

    RULES: ClassVar[Mapping[str, Any]] = {"not": {"required": ["steps", "num_inference_steps"]}}

    steps = fields.Integer(strict=True, validate=validate.Range(min=1))
    num_inference_steps = fields.Integer(
        strict=True, validate=validate.Range(min=1), metadata={"description": "the same as `steps`"}
    )
    guidance_scale = fields.Float(validate=validate.Range(min=0, max=100))
    width = fields.Integer(strict=True, validate=validate.Range(min=8))
    height = fields.Integer(strict=True, validate=validate.Range(min=8))
    seed = fields.Integer(strict=True, validate=validate.Range(min=0, max=MAX_SEED))
    num_images = fields.Integer(strict=True, validate=validate.Range(min=1))
    scheduler = fields.String(validate=validate.OneOf(SCHEDULERS))

    @validates_schema
    def say_steps_once(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take either name of the steps."""
        if "steps" in data and "num_inference_steps" in data:
            raise ValidationError("give either steps or num_inference_steps", "steps")


class GalleryOrderSchema(HookFields):
    """An order for pictures."""

    RULES: ClassVar[Mapping[str, Any]] = either("model", "model_id")

    model = fields.String(validate=NOT_EMPTY, metadata={"example": "demo-shapes"})
    model_id = fields.String(validate=NOT_EMPTY, metadata={"description": "the same as `model`"})
    prompt = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "a red circle on a blue background"})
    negative_prompt = fields.String(load_default="")
    settings = fields.Nested(GallerySettingsSchema, load_default=dict)

    @validates_schema
    def name_the_model(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for one model, and hold the order against the server's limits."""
        if ("model" in data) == ("model_id" in data):
            raise ValidationError("is missing; GET /api/models lists them", "model")
        asked = data.get("settings", {})
        steps = asked.get("steps", asked.get("num_inference_steps"))
        told = {
            "steps": steps,
            "width": asked.get("width"),
            "height": asked.get("height"),
            "n": asked.get("num_images"),
            "prompt": data.get("prompt"),
            "negative_prompt": data.get("negative_prompt"),
        }
        if problems := problems_of(told):
            raise ValidationError(problems)


class GalleryAcceptedSchema(Schema):
    """An order that was taken."""

    job_id = fields.UUID(required=True)
    status = fields.String(required=True)
    message = fields.String(required=True)


class GalleryImageSchema(Schema):
    """A picture of a job."""

    image_id = fields.UUID(required=True)
    url = fields.String(required=True)
    seed = fields.Integer(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)


class GalleryJobSchema(Schema):
    """A job, in the words of seed 004's table."""

    id = fields.UUID(required=True)
    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(["PENDING", "PROCESSING", "COMPLETED", "FAILED"]))
    model = fields.String(required=True)
    prompt = fields.String(required=True)
    created_at = fields.AwareDateTime(required=True)
    completed_at = fields.AwareDateTime(required=True, allow_none=True)
    image_path = fields.String(required=True, allow_none=True, metadata={"description": "of the first picture"})
    settings = fields.Dict(required=True)
    images = fields.List(fields.Nested(GalleryImageSchema), required=True)
    progress = fields.Float(required=True, metadata={"description": "0 to 1"})
    error = fields.String(required=True, allow_none=True)


class GalleryStepsSchema(Schema):
    """Which numbers of steps a model takes."""

    min = fields.Integer(allow_none=True)
    max = fields.Integer(allow_none=True)
    default = fields.Integer(allow_none=True)


class GalleryModelSchema(Schema):
    """A model that pictures can be drawn with."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True, allow_none=True)
    source = fields.String(required=True)
    requires_auth = fields.Boolean(required=True)
    ready = fields.Boolean(required=True, metadata={"description": "a live machine holds it"})
    fixed_steps = fields.Integer(metadata={"description": "there when it draws with exactly so many"})
    steps = fields.Nested(GalleryStepsSchema, metadata={"description": "there when it takes a range"})


class GalleryModelsSchema(Schema):
    """All of them."""

    models = fields.List(fields.Nested(GalleryModelSchema), required=True)


class GalleryQueueSchema(Schema):
    """What waits and what is being drawn."""

    pending = fields.Integer(required=True)
    processing = fields.Integer(required=True)
    jobs = fields.List(
        fields.Nested(GalleryJobSchema),
        required=True,
        metadata={"description": "the oldest hundred, in the order they came"},
    )


class GalleryErrorSchema(Schema):
    """A problem in this dialect's shape."""

    error = fields.String(required=True)
    code = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields", attribute="fields")
