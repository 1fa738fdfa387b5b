"""Schemas of machines and plans in the v1 dialect."""

from marshmallow import Schema, fields, validate

from app.api.paging import MOST_OF_A_FLEET, AfterField, PageSchema, limit_field, next_field, sort_field
from app.api.v1.schemas import NOT_EMPTY, ProblemSchema
from app.core.lifecycle import HoldingState
from app.core.listing import MACHINES


class HoldingSchema(Schema):
    """How far a machine is with a model."""

    model_id = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf([state.value for state in HoldingState]))
    bytes_done = fields.Integer(required=True)
    bytes_total = fields.Integer(allow_none=True)
    bytes_per_second = fields.Float(allow_none=True)
    error = fields.Nested(ProblemSchema, allow_none=True)


class RunningSchema(Schema):
    """What a machine draws now."""

    job_id = fields.UUID(required=True)
    attempt = fields.Integer(required=True)
    started_at = fields.AwareDateTime(required=True)
    model_id = fields.String(required=True)
    progress = fields.Float(required=True, metadata={"description": "0 to 1, as far as it is known"})


class BootPhaseOfMachineSchema(Schema):
    """A part of the time from a machine's start to its first picture."""

    phase = fields.String(required=True, metadata={"example": "downloading"})
    model_id = fields.String(required=True, allow_none=True)
    start = fields.Float(required=True, metadata={"description": "seconds since the start"})
    seconds = fields.Float(required=True, allow_none=True, metadata={"description": "null: it goes on"})


class BootOfMachineSchema(Schema):
    """How a machine came up, as it measured it."""

    started_at = fields.String(required=True, metadata={"format": "date-time"})
    phases = fields.List(fields.Nested(BootPhaseOfMachineSchema), required=True)
    first_picture_seconds = fields.Float(
        required=True, allow_none=True, metadata={"description": "from its start; null: it has drawn none since"}
    )


class MachineSchema(Schema):
    """A machine, alive or silent."""

    machine_id = fields.String(required=True)
    alive = fields.Boolean(required=True, metadata={"description": "it was heard in the last seconds"})
    left = fields.Boolean(
        required=True,
        metadata={"description": "it said goodbye when it was last heard: it was stopped, and did not die"},
    )
    drained = fields.Boolean(required=True, metadata={"description": "an operator wants it to take no more jobs"})
    sick = fields.String(
        required=True, allow_none=True, metadata={"description": "why the fleet gives it no more jobs by itself"}
    )
    jobs = fields.List(fields.Nested(RunningSchema), required=True, metadata={"description": "what it draws now"})
    version = fields.String(required=True)
    device = fields.Dict(required=True)
    models_needed = fields.List(fields.String(), required=True)
    models = fields.List(fields.Nested(HoldingSchema), required=True)
    boot = fields.Nested(
        BootOfMachineSchema, required=True, allow_none=True, metadata={"description": "null: it has not told"}
    )
    first_seen_at = fields.AwareDateTime(required=True)
    last_seen_at = fields.AwareDateTime(required=True)


class MachineQuerySchema(PageSchema):
    """Which machines to list."""

    alive = fields.Boolean(metadata={"description": "whether it has checked in lately"})
    drained = fields.Boolean()
    model_id = fields.String(metadata={"description": "only machines that are ready for this model"})
    after = AfterField(MACHINES)
    sort = sort_field(MACHINES)
    limit = limit_field(MOST_OF_A_FLEET, usual=MOST_OF_A_FLEET)


class MachineListSchema(Schema):
    """Machines that ever checked in, page by page."""

    machines = fields.List(fields.Nested(MachineSchema), required=True)
    next = next_field()


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
