"""Schemas of jobs and their pictures in the v1 dialect, as their clients see them."""

from marshmallow import Schema, fields, validate

from app import thumbnails
from app.api.paging import AfterField, PageSchema, limit_field, next_field, sort_field
from app.api.v1.schemas import STATES, ProblemSchema
from app.core.listing import IMAGES


class ImageSchema(Schema):
    """A picture of a completed job."""

    image_id = fields.UUID(required=True)
    url = fields.String(required=True)
    seed = fields.Integer(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    media_type = fields.String(required=True)
    size_bytes = fields.Integer(required=True)
    notes = fields.List(
        fields.String(),
        metadata={"description": "what could not be kept to, or was done to it, such as what the safety checker said"},
    )


class ListedImageSchema(ImageSchema):
    """A picture in a listing of pictures."""

    job_id = fields.UUID(required=True)
    model_id = fields.String(required=True)
    created_at = fields.AwareDateTime(required=True)
    favourite = fields.Boolean(required=True)
    thumbnail_url = fields.String(
        required=True, metadata={"description": f"the picture with at most {thumbnails.SIDE} pixels a side"}
    )
    parameters = fields.Dict(required=True, metadata={"description": "what its job was asked to draw"})


class ImageChangeSchema(Schema):
    """What may be changed of a picture."""

    favourite = fields.Boolean(required=True)


class ImageQuerySchema(PageSchema):
    """Which pictures to list."""

    model_id = fields.String()
    job_id = fields.UUID()
    search = fields.String(metadata={"description": "a part of the prompt, in any case"})
    favourite = fields.Boolean()
    since = fields.AwareDateTime(metadata={"description": "only pictures from this moment on"})
    before = fields.AwareDateTime(metadata={"description": "only pictures from before this moment"})
    after = AfterField(IMAGES)
    sort = sort_field(IMAGES)
    limit = limit_field()


class ImageListSchema(Schema):
    """Pictures, page by page."""

    images = fields.List(fields.Nested(ListedImageSchema), required=True)
    next = next_field()


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
    device = fields.String(metadata={"description": "the kind of device, by name"})
    state = fields.String(required=True)
    started_at = fields.AwareDateTime(required=True)
    ended_at = fields.AwareDateTime(allow_none=True)
    error = fields.Nested(ProblemSchema, allow_none=True)
    timings = fields.Dict(
        metadata={"description": "seconds by phase: queued, provisioning, loading, denoising, encoding, uploading"}
    )


class EtaSchema(Schema):
    """When a job will be done, and how good such estimates were."""

    seconds = fields.Float(required=True, allow_none=True, metadata={"description": "from now; null: not known"})
    at = fields.AwareDateTime(required=True, allow_none=True)
    basis = fields.String(required=True, metadata={"description": "what the estimate rests on, or why there is none"})
    error_p50 = fields.Float(
        required=True,
        allow_none=True,
        metadata={
            "description": "seconds; half of the last 200 jobs of this model ended no further from their promise"
        },
    )
    error_p90 = fields.Float(required=True, allow_none=True, metadata={"description": "the same for nine of ten"})
    relative_p50 = fields.Float(
        required=True, allow_none=True, metadata={"description": "the same as a part of the time from order to end"}
    )
    relative_p90 = fields.Float(required=True, allow_none=True)
    promises = fields.Integer(required=True, metadata={"description": "how many promises these figures rest on"})


class JobSchema(Schema):
    """A job as its client sees it."""

    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATES))
    progress = fields.Float(required=True, metadata={"description": "0 to 1"})
    model_id = fields.String(required=True)
    engine_id = fields.UUID(allow_none=True, metadata={"description": "the engine that draws it; null: any machine"})
    images = fields.List(fields.Nested(ImageSchema), required=True)
    created_at = fields.AwareDateTime(required=True)
    started_at = fields.AwareDateTime(allow_none=True)
    ended_at = fields.AwareDateTime(allow_none=True)
    priority = fields.Integer(required=True)
    deadline = fields.AwareDateTime(allow_none=True, metadata={"description": "not begun by then, it is cancelled"})
    batch_id = fields.UUID(allow_none=True, metadata={"description": "what jobs of one list of prompts have in common"})
    retry_of = fields.UUID(allow_none=True, metadata={"description": "the job that this one tries again"})
    replay_of = fields.UUID(
        allow_none=True,
        metadata={"description": "the job whose pictures this one draws again; how near it came: /replay of this one"},
    )
    parameters = fields.Dict(required=True)
    error = fields.Nested(ProblemSchema, allow_none=True)
    url = fields.String(required=True)


class JobDetailSchema(JobSchema):
    """A job with all that is known about it."""

    queue_position = fields.Integer(
        allow_none=True,
        metadata={
            "description": "1: it is next among the jobs of its model, as things are now, with every token having its "
            "turn; null when it does not wait"
        },
    )
    waiting_for = fields.String(allow_none=True, metadata={"description": "why a queued job has not begun"})
    running = fields.Nested(ProgressSchema, allow_none=True)
    preview_url = fields.String(allow_none=True, metadata={"description": "a small JPEG of what is being drawn"})
    eta = fields.Nested(EtaSchema, allow_none=True, metadata={"description": "null when the job has ended"})
    promised_at = fields.AwareDateTime(
        allow_none=True, metadata={"description": "when it would be done, as estimated when it was accepted"}
    )
    timings = fields.Dict(metadata={"description": "seconds by phase, of all attempts together"})
    attempts = fields.List(fields.Nested(AttemptSchema))


class JobBatchSchema(Schema):
    """The jobs of a list of prompts, in its order."""

    batch_id = fields.UUID(required=True)
    jobs = fields.List(fields.Nested(JobSchema), required=True)


class JobListSchema(Schema):
    """Jobs, page by page."""

    jobs = fields.List(fields.Nested(JobSchema), required=True)
    next = next_field()


class CancelledSchema(Schema):
    """What became of one job that was to be cancelled."""

    job_id = fields.UUID(required=True)
    cancelled = fields.Boolean(required=True, metadata={"description": "by this request"})
    status = fields.String(allow_none=True, metadata={"description": "what it is now; null: there is no such job"})
    error = fields.Nested(ProblemSchema, allow_none=True)


class CancelledListSchema(Schema):
    """What became of each job that was to be cancelled."""

    jobs = fields.List(fields.Nested(CancelledSchema), required=True)
