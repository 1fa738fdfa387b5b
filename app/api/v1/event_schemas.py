"""Schemas of what is to be known about a job while it waits and runs: its events, and the explanation of its state."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from app.api.v1.job_schemas import ImageSchema
from app.api.v1.schemas import ProblemSchema
from app.core.explain import Reason
from app.core.feed import Spot
from app.core.lifecycle import AttemptState, JobState
from app.core.timeline import Kind, Place

PROGRESS = "progress"
KINDS = [*(kind.value for kind in Kind), PROGRESS]


class EventId(fields.String):
    """The id of an event, as an earlier answer gave it."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> Any:
        try:
            return Place.parse(super()._deserialize(value, attr, data, **more))
        except ValueError as exc:
            raise ValidationError(f"{exc}; send one that this job's events had, or none") from exc


class EventQuerySchema(Schema):
    """From where on events are wanted."""

    last_event_id = EventId(metadata={"description": "only what came after the event of this id", "example": "1:"})


class EventSchema(Schema):
    """Something that happened to a job; which of the fields it has depends on what happened."""

    id = fields.String(required=True, metadata={"description": "resume with it", "example": "3:1763712000123-0"})
    event = fields.String(required=True, validate=validate.OneOf(KINDS))
    at = fields.AwareDateTime(metadata={"description": "absent with `progress`"})
    attempt = fields.Integer(metadata={"description": "which attempt began, ended or tells of its progress"})
    machine_id = fields.String()
    device = fields.String()
    state = fields.String(
        validate=validate.OneOf([state.value for state in AttemptState]),
        metadata={"description": "with `attempt_ended`: what became of the attempt"},
    )
    status = fields.String(
        validate=validate.OneOf([state.value for state in JobState]),
        metadata={"description": "with `ended`: what became of the job"},
    )
    error = fields.Nested(ProblemSchema, allow_none=True)
    timings = fields.Dict(metadata={"description": "with `attempt_ended`: seconds by phase"})
    images = fields.List(fields.Nested(ImageSchema), metadata={"description": "with `ended`: the pictures"})
    progress = fields.Float(metadata={"description": "with `progress`: 0 to 1"})
    phase = fields.String()
    step = fields.Integer()
    steps = fields.Integer()
    image = fields.Integer()
    image_count = fields.Integer()


class TimelineSchema(Schema):
    """What has happened to a job, oldest first."""

    events = fields.List(fields.Nested(EventSchema), required=True)
    last_event_id = fields.String(
        required=True, metadata={"description": "send it as `last_event_id` to get only what came later"}
    )
    is_over = fields.Boolean(required=True, metadata={"description": "the job has ended: nothing more will come"})


BEGAN = "began"
ALIVE = "alive"


class SpotField(fields.String):
    """The id of an event of the feed, as an earlier answer gave it."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> Any:
        try:
            return Spot.parse(super()._deserialize(value, attr, data, **more))
        except ValueError as exc:
            raise ValidationError(f"{exc}; send one that this feed's events had, or none") from exc


class FeedQuerySchema(Schema):
    """From where on the events of all jobs are wanted."""

    last_event_id = SpotField(
        metadata={"description": "only what came after the event of this id", "example": "1763712000123456"}
    )


class FeedEventSchema(EventSchema):
    """Something that happened to one of many jobs."""

    id = fields.String(metadata={"description": "resume with it; what is true only for the moment has none"})
    event = fields.String(required=True, validate=validate.OneOf([*KINDS, BEGAN, ALIVE]))
    job_id = fields.UUID(metadata={"description": "absent with `began` and `alive`"})
    number = fields.Integer(metadata={"description": "which of its job's events; absent with `progress`"})


class FeedSchema(Schema):
    """What has happened to many jobs, job by job."""

    events = fields.List(fields.Nested(FeedEventSchema), required=True)
    last_event_id = fields.String(
        required=True, metadata={"description": "send it as `last_event_id` to get only what came later"}
    )
    more = fields.Boolean(required=True, metadata={"description": "ask again at once: more has happened already"})


class VerdictSchema(Schema):
    """Why one machine has or has not taken the job."""

    machine_id = fields.String(required=True)
    reason = fields.String(required=True, validate=validate.OneOf([reason.value for reason in Reason]))
    message = fields.String(required=True, attribute="told")
    unblock = fields.String(required=True, allow_none=True, attribute="remedy")
    seconds = fields.Float(
        required=True, allow_none=True, metadata={"description": "about how long until this no longer holds"}
    )


class ExplanationSchema(Schema):
    """Why a job is where it is."""

    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf([state.value for state in JobState]))
    summary = fields.String(required=True, metadata={"description": "one sentence for people"})
    unblock = fields.String(
        required=True, allow_none=True, metadata={"description": "what would help; null where it only has to wait"}
    )
    machines = fields.List(fields.Nested(VerdictSchema), required=True)
