"""Schemas of the sdapi dialect; its orders are in app.api.webui.orders."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.api.paging import MOST_OF_A_FLEET, AfterField, PageSchema, limit_field, next_field, sort_field
from app.core.lifecycle import JobState
from app.core.listing import JOBS, MODELS

KINDS = ("txt2img", "img2img")
STATUSES = [state.value for state in JobState]
CIVITAI_STATUSES = ("found", "not_found", "pending", "unavailable", "off", "private", "no_hash")


def _status(**more: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(STATUSES), **more)


class SdapiErrorSchema(Schema):
    """A problem: a sentence, a word for programs, and messages by field where the body was wrong."""

    detail = fields.String(required=True)
    error = fields.String(required=True, metadata={"example": "model_not_found"})
    fields_ = fields.Dict(data_key="fields")


class SdapiJobQuerySchema(PageSchema):
    """Which jobs to list."""

    status = fields.List(_status(), metadata={"description": "Only jobs in these states; may be given several times."})
    model = fields.String(metadata={"description": "Only jobs of this model, by its id."})
    after = AfterField(JOBS)
    limit = limit_field()
    sort = sort_field(JOBS)


class SdapiEntryQuerySchema(PageSchema):
    """Which models or LoRAs to list."""

    base = fields.String(validate=validate.Length(min=1), metadata={"description": "only of this family"})
    tag = fields.String(validate=validate.Length(min=1))
    search = fields.String(validate=validate.Length(min=1), metadata={"description": "a part of the id or of the name"})
    after = AfterField(MODELS)
    limit = fields.Integer(
        validate=validate.Range(min=1, max=MOST_OF_A_FLEET),
        metadata={"description": "how many there are on a page; all of them where nobody asks for pages"},
    )
    sort = sort_field(MODELS)


class SdapiDetailQuerySchema(Schema):
    """How much of a job to show."""

    skip_images = fields.Boolean(load_default=False, metadata={"description": "Leave the pictures out of the answer."})
    skip_current_image = fields.Boolean(
        load_default=False, metadata={"description": "Leave out the preview of a running job."}
    )


class SdapiJobSchema(Schema):
    """A job in short, with its progress."""

    uuid = fields.UUID(required=True)
    status = _status(required=True)
    type = fields.String(required=True, validate=validate.OneOf(KINDS))
    model = fields.String(required=True)
    progress = fields.Float(required=True, metadata={"description": "0 to 1"})
    image_count = fields.Integer(required=True, metadata={"description": "how many pictures it was ordered to draw"})
    error = fields.String(required=True, allow_none=True)
    created_at = fields.AwareDateTime(required=True)
    started_at = fields.AwareDateTime(required=True, allow_none=True)
    ended_at = fields.AwareDateTime(required=True, allow_none=True)
    url = fields.Url(required=True, require_tld=False)


class SdapiCountsSchema(Schema):
    """How many jobs of the whole server wait and run."""

    queued = fields.Integer(required=True)
    processing = fields.Integer(required=True)


class SdapiJobListSchema(Schema):
    """A page of jobs."""

    jobs = fields.List(fields.Nested(SdapiJobSchema), required=True)
    summary = fields.Nested(SdapiCountsSchema, required=True)
    next = next_field()


class SdapiStateSchema(Schema):
    """Where a running job is, with Automatic1111's names."""

    job_no = fields.Integer(required=True, metadata={"description": "which picture is being drawn, from 0"})
    job_count = fields.Integer(required=True)
    sampling_step = fields.Integer(required=True)
    sampling_steps = fields.Integer(required=True)
    phase = fields.String(required=True, allow_none=True)


class SdapiJobDetailSchema(SdapiJobSchema):
    """A job with everything known about it; once it is completed, with Automatic1111's answer."""

    eta_relative = fields.Float(
        required=True, allow_none=True, metadata={"description": "seconds until it is done; null: nobody knows"}
    )
    queue_position = fields.Integer(required=True, allow_none=True)
    textinfo = fields.String(required=True, allow_none=True, metadata={"description": "what it waits for"})
    state = fields.Nested(SdapiStateSchema, required=True)
    current_image = fields.String(
        required=True, allow_none=True, metadata={"description": "a preview of a running job, JPEG in base64"}
    )
    images = fields.List(fields.String(), required=True, metadata={"description": "in base64, without `data:`"})
    parameters = fields.Dict(required=True, metadata={"description": "what it is drawn from, by Automatic1111's names"})
    info = fields.String(
        required=True, allow_none=True, metadata={"description": "JSON in a text; null until it is completed"}
    )


class SdapiCivitaiSchema(Schema):
    """What Civitai says of a model, in short."""

    model_id = fields.Integer(required=True)
    version_id = fields.Integer(required=True)
    name = fields.String(required=True, allow_none=True)
    version = fields.String(required=True, allow_none=True)
    type = fields.String(required=True, allow_none=True)
    base_model = fields.String(required=True, allow_none=True)
    trained_words = fields.List(fields.String(), required=True)
    nsfw = fields.Boolean(required=True)
    url = fields.String(required=True)


class SdapiCivitaiStatsSchema(Schema):
    """How much a model is used there."""

    downloads = fields.Integer(required=True, allow_none=True)
    thumbs_up = fields.Integer(required=True, allow_none=True)


class SdapiCivitaiImageSchema(Schema):
    """An example picture, at its own address."""

    url = fields.String(required=True)
    width = fields.Integer(required=True, allow_none=True)
    height = fields.Integer(required=True, allow_none=True)
    nsfw_level = fields.Integer(required=True, allow_none=True)


class SdapiCivitaiDetailSchema(SdapiCivitaiSchema):
    """What Civitai says of a model."""

    description = fields.String(required=True, allow_none=True)
    air = fields.String(required=True, allow_none=True)
    published_at = fields.String(required=True, allow_none=True)
    updated_at = fields.String(required=True, allow_none=True)
    stats = fields.Nested(SdapiCivitaiStatsSchema, required=True)
    images = fields.List(fields.Nested(SdapiCivitaiImageSchema), required=True)


class _EntrySchema(Schema):
    """What models and LoRAs have in common."""

    base_model = fields.String(required=True, allow_none=True)
    description = fields.String(required=True, allow_none=True)
    size_bytes = fields.Integer(required=True, allow_none=True)
    tags = fields.List(fields.String(), required=True)
    civitai_status = fields.String(required=True, validate=validate.OneOf(CIVITAI_STATUSES))


class SdapiModelSchema(_EntrySchema):
    """A model, with Automatic1111's names for it."""

    title = fields.String(required=True)
    model_name = fields.String(required=True)
    hash = fields.String(required=True, allow_none=True)
    sha256 = fields.String(required=True, allow_none=True)
    filename = fields.String(required=True)
    config = fields.String(required=True, allow_none=True)
    ready = fields.Boolean(required=True, metadata={"description": "a live machine can draw with it now"})
    civitai = fields.Nested(SdapiCivitaiSchema, required=True, allow_none=True)


class SdapiModelDetailSchema(SdapiModelSchema):
    """A model with everything known about it."""

    civitai = fields.Nested(SdapiCivitaiDetailSchema, required=True, allow_none=True)


class SdapiLoraSchema(_EntrySchema):
    """A LoRA, with Automatic1111's names for it."""

    name = fields.String(required=True)
    alias = fields.String(required=True)
    path = fields.String(required=True)
    metadata = fields.Dict(required=True)
    hash = fields.String(required=True, allow_none=True)
    sha256 = fields.String(required=True, allow_none=True)
    trigger_words = fields.List(fields.String(), required=True)
    civitai = fields.Nested(SdapiCivitaiSchema, required=True, allow_none=True)


class SdapiLoraDetailSchema(SdapiLoraSchema):
    """A LoRA with everything known about it."""

    civitai = fields.Nested(SdapiCivitaiDetailSchema, required=True, allow_none=True)
