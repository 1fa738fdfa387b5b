"""Schemas of what clients of the v1 dialect ask for: orders, and questions about them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema
from webargs.fields import DelimitedList

from app.api.answers import either
from app.api.door import fleet, settings
from app.api.hooks import HookFields
from app.api.limits import problems_of
from app.api.paging import AfterField, PageSchema, limit_field, sort_field
from app.api.v1.control_schemas import ControlFields
from app.api.v1.network_schemas import NetworkFields
from app.api.v1.picture_schemas import PictureFields, problems_of_sizes
from app.api.v1.schemas import NOT_EMPTY, STATES
from app.core.dispatch import TOP_PRIORITY
from app.core.listing import JOBS
from app.core.samplers import why_unknown
from app.core.spec import IMAGE_FORMATS, MAX_CLIP_SKIP, MAX_SEED, SCHEDULERS
from app.settings import Settings

LONGEST_WAIT_SECONDS = 365 * 24 * 3600
"""Later deadlines are none: a client that means "for ever" leaves the deadline out."""


class OneOfSamplers(validate.OneOf):
    """One of a hundred names: what is wrong with another says more than all of them."""

    def _format_error(self, value: Any) -> str:
        return why_unknown(str(value))


class TermsSchema(HookFields):
    """How an order wants to be treated, beside its pictures."""

    priority = fields.Integer(
        strict=True,
        validate=validate.Range(min=0, max=TOP_PRIORITY),
        metadata={"description": f"0 to {TOP_PRIORITY}, {TOP_PRIORITY} first, among the jobs of one token; usually 0"},
    )
    expires_in = fields.Float(
        validate=validate.Range(min=0, min_inclusive=False, max=LONGEST_WAIT_SECONDS),
        metadata={
            "exclusiveMinimum": True,
            "description": "seconds after which the job is cancelled if it has not begun",
        },
    )
    deadline = fields.AwareDateTime(
        metadata={"description": "the moment at which the job is cancelled if it has not begun, with its time zone"}
    )

    @validates_schema
    def keep_to_one_deadline(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take one deadline at most. Whether it has passed is asked where a job is made: the order may come again."""
        if "deadline" not in data:
            return
        if "expires_in" in data:
            raise ValidationError("give either deadline or expires_in", "deadline")
        if data["deadline"] - fleet().clock() > timedelta(seconds=LONGEST_WAIT_SECONDS):
            raise ValidationError("must be at most a year ahead", "deadline")


class JobRequestSchema(NetworkFields, PictureFields, ControlFields, TermsSchema):
    """An order for pictures. What is left out is as the model's catalogue entry says."""

    RULES: ClassVar[Mapping[str, Any]] = {"allOf": [either("model_id", "engine_id"), either("prompt", "prompts")]}

    model_id = fields.String(validate=NOT_EMPTY, metadata={"example": "demo-shapes"})
    engine_id = fields.String(validate=NOT_EMPTY)
    prompt = fields.String(validate=NOT_EMPTY, metadata={"example": "a red circle on a blue background"})
    prompts = fields.List(
        fields.String(validate=NOT_EMPTY),
        validate=NOT_EMPTY,
        metadata={"description": "instead of `prompt`: one job for each of them, with the same parameters otherwise"},
    )
    negative_prompt = fields.String(load_default="")
    steps = fields.Integer(strict=True, validate=validate.Range(min=1))
    guidance_scale = fields.Float(validate=validate.Range(min=0, max=100))
    width = fields.Integer(strict=True, validate=validate.Range(min=8))
    height = fields.Integer(strict=True, validate=validate.Range(min=8))
    seed = fields.Integer(strict=True, validate=validate.Range(min=0, max=MAX_SEED))
    subseed = fields.Integer(
        strict=True,
        validate=validate.Range(min=0, max=MAX_SEED),
        metadata={"description": "another first noise, for variations; random when only its strength is given"},
    )
    subseed_strength = fields.Float(
        load_default=0.0,
        validate=validate.Range(min=0, max=1),
        metadata={"description": "0 draws the seed's picture, 1 the subseed's, and others lie between them"},
    )
    n = fields.Integer(strict=True, load_default=1, validate=validate.Range(min=1))
    scheduler = fields.String(validate=OneOfSamplers(SCHEDULERS))
    clip_skip = fields.Integer(
        strict=True,
        validate=validate.Range(min=1, max=MAX_CLIP_SKIP),
        metadata={"description": "layer of the text encoder, counted from the end: 1 is the last, many models want 2"},
    )
    image_format = fields.String(load_default="png", validate=validate.OneOf(IMAGE_FORMATS))

    @validates_schema
    def name_one_drawer(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for a model or an engine, and not for both."""
        if ("model_id" in data) == ("engine_id" in data):
            raise ValidationError("give either model_id or engine_id", "model_id")

    @validates_schema
    def say_what_to_draw(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for one prompt or for a list of them."""
        if ("prompt" in data) == ("prompts" in data):
            raise ValidationError("give either prompt or prompts", "prompt")

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Hold the order against the server's settings."""
        problems = problems_of(data)
        problems |= problems_of_sizes(data, settings())
        problems |= _problems_of_list(data.get("prompts", ()), settings())
        if problems:
            raise ValidationError(problems)


def _problems_of_list(prompts: Sequence[str], known: Settings) -> dict[str, list[str]]:
    if len(prompts) > known.max_prompts:
        return {"prompts": [f"has {len(prompts)} members; this server's limit is {known.max_prompts}"]}
    longest = max(map(len, prompts), default=0)
    if longest > known.max_prompt:
        return {"prompts": [f"one has {longest} characters; this server's limit is {known.max_prompt}"]}
    return {}


class RetryRequestSchema(TermsSchema):
    """How an ended job is to be tried again. What is left out is as it was, without its deadline."""

    new_seed = fields.Boolean(load_default=False, metadata={"description": "draw other pictures than the first time"})


class ReplayRequestSchema(TermsSchema):
    """How a completed job is to be replayed. What is left out is as it was, without its deadline and its webhook."""


class JobQuerySchema(PageSchema):
    """Which jobs to list."""

    status = DelimitedList(
        fields.String(validate=validate.OneOf(STATES)),
        validate=NOT_EMPTY,
        metadata={"description": "one or several, between commas"},
    )
    model_id = fields.String()
    batch_id = fields.UUID()
    engine_id = fields.UUID()
    after = AfterField(JOBS)
    cursor = AfterField(JOBS)
    before = fields.AwareDateTime(metadata={"description": "only jobs created before this moment"})
    sort = sort_field(JOBS)
    limit = limit_field()

    @post_load
    def take_the_older_name(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Read `cursor` as `after`."""
        return {"after" if name == "cursor" else name: value for name, value in data.items()}


class CancelRequestSchema(Schema):
    """Which jobs to cancel."""

    RULES: ClassVar[Mapping[str, Any]] = either("job_ids", "batch_id")

    job_ids = fields.List(fields.UUID(), validate=NOT_EMPTY)
    batch_id = fields.UUID()

    @validates_schema
    def name_jobs(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for jobs one by one or for a batch."""
        if ("job_ids" in data) == ("batch_id" in data):
            raise ValidationError("give either job_ids or batch_id", "job_ids")
        if len(data.get("job_ids", ())) > settings().max_batch_ids:
            raise ValidationError(
                f"has {len(data['job_ids'])} members; this server's limit is {settings().max_batch_ids}", "job_ids"
            )
