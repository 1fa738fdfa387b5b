"""Schemas of the v1 dialect."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.door import settings
from app.core.lifecycle import HoldingState, JobState
from app.core.models import KINDS
from app.core.spec import IMAGE_FORMATS, MAX_SEED, SCHEDULERS

NOT_EMPTY = validate.Length(min=1, error="must not be empty")


class JobRequestSchema(Schema):
    """An order for pictures. What is left out is as the model's catalogue entry says."""

    model_id = fields.String(validate=NOT_EMPTY, metadata={"example": "demo-shapes"})
    engine_id = fields.String(validate=NOT_EMPTY)
    prompt = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "a red circle on a blue background"})
    negative_prompt = fields.String(load_default="")
    steps = fields.Integer(strict=True, validate=validate.Range(min=1))
    guidance_scale = fields.Float(validate=validate.Range(min=0, max=100))
    width = fields.Integer(strict=True, validate=validate.Range(min=8))
    height = fields.Integer(strict=True, validate=validate.Range(min=8))
    seed = fields.Integer(strict=True, validate=validate.Range(min=0, max=MAX_SEED))
    n = fields.Integer(strict=True, load_default=1, validate=validate.Range(min=1))
    scheduler = fields.String(validate=validate.OneOf(SCHEDULERS))
    image_format = fields.String(load_default="png", validate=validate.OneOf(IMAGE_FORMATS))
    priority = fields.Integer(strict=True, load_default=0, validate=validate.Range(min=0, max=9))

    @validates_schema
    def name_one_drawer(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for a model or an engine, and not for both."""
        if ("model_id" in data) == ("engine_id" in data):
            raise ValidationError("give either model_id or engine_id", "model_id")

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Hold the order against the server's settings."""
        known = settings()
        limits = {
            "steps": known.max_steps,
            "width": known.max_size,
            "height": known.max_size,
            "n": known.max_images,
        }
        problems = {
            name: [f"is {data[name]}; this server's limit is {limit}"]
            for name, limit in limits.items()
            if data.get(name) is not None and data[name] > limit
        }
        for name in ("prompt", "negative_prompt"):
            if len(data.get(name, "")) > known.max_prompt:
                problems[name] = [f"has {len(data[name])} characters; this server's limit is {known.max_prompt}"]
        if problems:
            raise ValidationError(problems)


class ImageSchema(Schema):
    """A picture of a completed job."""

    image_id = fields.UUID(required=True)
    url = fields.String(required=True)
    seed = fields.Integer(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    media_type = fields.String(required=True)
    size_bytes = fields.Integer(required=True)


class ProblemSchema(Schema):
    """A problem in words and a code for programs."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields", attribute="fields")


class V1ErrorSchema(Schema):
    """A problem in the v1 dialect's shape."""

    error = fields.Nested(ProblemSchema, required=True)


class ProgressSchema(Schema):
    """How far a running job is."""

    phase = fields.String(required=True)
    step = fields.Integer(required=True)
    steps = fields.Integer(required=True)
    image = fields.Integer(required=True)
    images = fields.Integer(required=True)


class AttemptSchema(Schema):
    """One try of a job on one machine."""

    number = fields.Integer(required=True)
    machine_id = fields.String(required=True)
    state = fields.String(required=True)
    started_at = fields.AwareDateTime(required=True)
    ended_at = fields.AwareDateTime(allow_none=True)
    error = fields.Nested(ProblemSchema, allow_none=True)
    timings = fields.Dict()


class JobSchema(Schema):
    """A job as its client sees it."""

    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf([state.value for state in JobState]))
    progress = fields.Float(required=True, metadata={"description": "0 to 1"})
    model_id = fields.String(required=True)
    images = fields.List(fields.Nested(ImageSchema), required=True)
    created_at = fields.AwareDateTime(required=True)
    started_at = fields.AwareDateTime(allow_none=True)
    ended_at = fields.AwareDateTime(allow_none=True)
    parameters = fields.Dict(required=True)
    error = fields.Nested(ProblemSchema, allow_none=True)
    url = fields.String(required=True)


class JobDetailSchema(JobSchema):
    """A job with all that is known about it."""

    waiting_for = fields.String(allow_none=True, metadata={"description": "why a queued job has not begun"})
    running = fields.Nested(ProgressSchema, allow_none=True)
    attempts = fields.List(fields.Nested(AttemptSchema))


class JobQuerySchema(Schema):
    """Which jobs to list."""

    status = fields.String(validate=validate.OneOf([state.value for state in JobState]))
    model_id = fields.String()
    before = fields.AwareDateTime(metadata={"description": "only jobs created before this moment, for the next page"})
    limit = fields.Integer(load_default=50, validate=validate.Range(min=1, max=200))


class JobListSchema(Schema):
    """Jobs, newest first."""

    jobs = fields.List(fields.Nested(JobSchema), required=True)


class HoldingSchema(Schema):
    """How far a machine is with a model."""

    model_id = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf([state.value for state in HoldingState]))
    bytes_done = fields.Integer(required=True)
    bytes_total = fields.Integer(allow_none=True)
    bytes_per_second = fields.Float(allow_none=True)
    error = fields.Nested(ProblemSchema, allow_none=True)


class MachineSchema(Schema):
    """A machine, alive or silent."""

    machine_id = fields.String(required=True)
    alive = fields.Boolean(required=True)
    drained = fields.Boolean(required=True)
    version = fields.String(required=True)
    device = fields.Dict(required=True)
    models_needed = fields.List(fields.String(), required=True)
    models = fields.List(fields.Nested(HoldingSchema), required=True)
    first_seen_at = fields.AwareDateTime(required=True)
    last_seen_at = fields.AwareDateTime(required=True)


class MachineListSchema(Schema):
    """All machines that ever checked in."""

    machines = fields.List(fields.Nested(MachineSchema), required=True)


class ModelRequestSchema(Schema):
    """An entry for the catalogue. `id` and `save_path` follow from the name where they are left out."""

    id = fields.String(validate=NOT_EMPTY, metadata={"example": "sdxl-base"})
    name = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "sd_xl_base_1.0.safetensors"})
    download_url = fields.String(required=True, validate=NOT_EMPTY)
    hash = fields.String(allow_none=True, load_default=None)
    size_bytes = fields.Integer(allow_none=True, load_default=None, validate=validate.Range(min=1))
    file_size_gb = fields.Float(allow_none=True, load_default=None, validate=validate.Range(min=0))
    save_path = fields.String(validate=NOT_EMPTY)
    auth_required = fields.Boolean(load_default=False)
    auth_provider = fields.String(allow_none=True, load_default=None)
    dependencies = fields.List(fields.String(validate=NOT_EMPTY), load_default=list)
    description = fields.String(allow_none=True, load_default=None)
    kind = fields.String(load_default="checkpoint", validate=validate.OneOf(KINDS))
    base = fields.String(allow_none=True, load_default=None)
    variant = fields.String(allow_none=True, load_default=None)
    tags = fields.List(fields.String(), load_default=list)
    options = fields.Dict(load_default=dict)


class ModelSchema(Schema):
    """A catalogue entry, and how far the fleet is with it."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    status = fields.String(
        required=True, metadata={"description": "ready, downloading, error, or absent from all live machines"}
    )
    kind = fields.String(required=True)
    base = fields.String(allow_none=True)
    variant = fields.String(allow_none=True)
    tags = fields.List(fields.String())
    description = fields.String(allow_none=True)
    download_url = fields.String(required=True)
    hash = fields.String(allow_none=True)
    size_bytes = fields.Integer(allow_none=True)
    file_size_gb = fields.Float(allow_none=True)
    save_path = fields.String(required=True)
    dependencies = fields.List(fields.String())
    options = fields.Dict()
    origin = fields.String()
    machines_ready = fields.List(fields.String())
    jobs_waiting = fields.Integer()


class ModelListSchema(Schema):
    """The catalogue."""

    models = fields.List(fields.Nested(ModelSchema), required=True)


class PlanRequestSchema(Schema):
    """A MACHINE_MODELS_NEEDED to think through."""

    models_needed = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "flux-dev,sdxl-base"})
    machine_id = fields.String(metadata={"description": "count only what this machine does not hold, and its disk"})


class PlannedSchema(Schema):
    """One model of a plan."""

    model = fields.String(required=True)
    needed = fields.Boolean(required=True, metadata={"description": "named; otherwise another one depends on it"})
    here = fields.Boolean(required=True)
    size = fields.Integer(required=True, allow_none=True)
    missing = fields.Integer(required=True, metadata={"description": "bytes to fetch"})
    url = fields.String(required=True, allow_none=True)
    save_path = fields.String(required=True, allow_none=True)
    dependencies = fields.List(fields.String(), required=True)
    error = fields.Nested(ProblemSchema, required=True, allow_none=True)


class PlanSchema(Schema):
    """What a machine would have to fetch, in this order."""

    would_work = fields.Boolean(required=True)
    models = fields.List(fields.Nested(PlannedSchema), required=True)
    bytes_to_fetch = fields.Integer(required=True)
    disk_free_after = fields.Integer(required=True, allow_none=True)
    minutes_at_1_gbit = fields.Float(required=True)
