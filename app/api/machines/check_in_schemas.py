"""Schemas of a check-in: what a machine says of itself, and what it is told to do."""

from datetime import UTC
from typing import Any

from marshmallow import Schema, fields, post_load, validate

from app.api.machines.schemas import BOOT_ID, MACHINE_ID, MOST_WORDS, Tolerant, Words
from app.core.lifecycle import EngineState, HoldingState
from app.core.models import MOST_BYTES

MOST_PHASES = 1000


class Amount(fields.Integer):
    """A number of bytes; one that no disk has is cut to what a database holds."""

    def __init__(self, **more: Any) -> None:
        super().__init__(metadata={"type": "number"}, **more)  # parts of a byte are cut off as well

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> int:
        number: int = super()._deserialize(value, attr, data, **more)
        return max(0, min(number, MOST_BYTES))


class Truth(fields.Boolean):
    """True or false, and nothing that is merely like one of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        found: bool = super()._deserialize(value, attr, data, **more)
        return found


class AttemptKeySchema(Tolerant):
    """Which attempt: a job and the number of the try."""

    job_id = fields.UUID(required=True)
    number = fields.Integer(strict=True, required=True)


class HoldingReportSchema(Tolerant):
    """How far a machine is with one model."""

    model_id = Words(200, required=True)
    state = fields.Enum(HoldingState, by_value=True, required=True)
    bytes_done = Amount(load_default=0)
    bytes_total = Amount(load_default=None, allow_none=True)
    bytes_per_second = fields.Float(load_default=None, allow_none=True)
    weights_bytes = Amount(load_default=None, allow_none=True)
    drawing_bytes = Amount(load_default=None, allow_none=True)
    error_code = Words(50, load_default=None, allow_none=True)
    error = Words(MOST_WORDS, load_default=None, allow_none=True)
    trigger_words = fields.List(Words(200), load_default=list, validate=validate.Length(max=100))


class EngineReportSchema(Tolerant):
    """How far a machine is with one engine."""

    engine_id = fields.UUID(required=True)
    state = fields.Enum(EngineState, by_value=True, required=True)
    bytes_estimated = Amount(load_default=None, allow_none=True)
    bytes_measured = Amount(load_default=None, allow_none=True)
    error_code = Words(50, load_default=None, allow_none=True)
    error = Words(MOST_WORDS, load_default=None, allow_none=True)


class WhoSchema(Tolerant):
    """Which machine it is, and which process of it: what a check-in of any version says."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    boot_id = fields.String(required=True, validate=BOOT_ID)
    version = Words(50, load_default="")


class BootPhaseSchema(Tolerant):
    """A part of the time from a machine's start to its first picture."""

    phase = Words(30, required=True)
    model_id = Words(200, load_default=None, allow_none=True)
    start = fields.Float(required=True, metadata={"description": "seconds since the start"})
    seconds = fields.Float(load_default=None, allow_none=True, metadata={"description": "null: it goes on"})


class BootReportSchema(Tolerant):
    """How a machine came up."""

    started_at = fields.AwareDateTime(required=True, default_timezone=UTC)
    phases = fields.List(fields.Nested(BootPhaseSchema), load_default=list, validate=validate.Length(max=MOST_PHASES))
    first_picture_seconds = fields.Float(load_default=None, allow_none=True)

    @post_load
    def keep_as_json(self, told: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make it what a column of JSON takes."""
        return {**told, "started_at": told["started_at"].isoformat()}


class CheckInSchema(WhoSchema):
    """One check-in."""

    device = fields.Dict(load_default=dict)
    needed = fields.List(Words(200), load_default=list)
    holdings = fields.List(fields.Nested(HoldingReportSchema), load_default=list)
    attempts = fields.List(fields.Nested(AttemptKeySchema), load_default=list)
    engines = fields.List(fields.Nested(EngineReportSchema), load_default=list)
    boot = fields.Nested(BootReportSchema)
    is_idle = Truth(
        data_key="idle", load_default=False, metadata={"description": "it has nothing to do, and heeds `pause_seconds`"}
    )


class WantedEngineSchema(Schema):
    """An engine that the machine should hold in memory."""

    engine_id = fields.UUID(required=True)
    spec = fields.Dict(required=True, metadata={"description": "an order as its jobs are, without a prompt"})
    base = fields.String(allow_none=True)
    variant = fields.String(allow_none=True)


class OrdersSchema(Schema):
    """What the server answers to a check-in."""

    abandon = fields.List(fields.Nested(AttemptKeySchema), required=True)
    drained = fields.Boolean(required=True, metadata={"description": "it gets no more jobs: leave the queues"})
    reason = fields.String(required=True, allow_none=True, metadata={"description": "why it gets none"})
    engines = fields.List(
        fields.Nested(WantedEngineSchema),
        required=True,
        metadata={"description": "hold these in memory, and let go of every other engine"},
    )
    pause_seconds = fields.Float(
        required=True, metadata={"description": "when to check in again, as long as there is nothing to do"}
    )
