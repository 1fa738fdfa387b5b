"""Schemas of the machine protocol, version 1."""

from marshmallow import EXCLUDE, Schema, fields, validate

from app.core.lifecycle import AttemptState, HoldingState

MACHINE_ID = validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z", error="letters, digits, '.', '_' and '-' only")


class Tolerant(Schema):
    """A newer machine may say more than this server understands."""

    class Meta:
        """Unknown fields are let be."""

        unknown = EXCLUDE


class AttemptKeySchema(Tolerant):
    """Which attempt: a job and the number of the try."""

    job_id = fields.UUID(required=True)
    number = fields.Integer(required=True)


class HoldingReportSchema(Tolerant):
    """How far a machine is with one model."""

    model_id = fields.String(required=True)
    state = fields.Enum(HoldingState, by_value=True, required=True)
    bytes_done = fields.Integer(load_default=0)
    bytes_total = fields.Integer(load_default=None, allow_none=True)
    bytes_per_second = fields.Float(load_default=None, allow_none=True)
    error_code = fields.String(load_default=None, allow_none=True)
    error = fields.String(load_default=None, allow_none=True)


class CheckInSchema(Tolerant):
    """One check-in."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    boot_id = fields.String(required=True, validate=validate.Length(min=1, max=64))
    version = fields.String(load_default="")
    device = fields.Dict(load_default=dict)
    needed = fields.List(fields.String(), load_default=list)
    holdings = fields.List(fields.Nested(HoldingReportSchema), load_default=list)
    attempts = fields.List(fields.Nested(AttemptKeySchema), load_default=list)


class OrdersSchema(Schema):
    """What the server answers to a check-in."""

    abandon = fields.List(fields.Nested(AttemptKeySchema), required=True)
    drained = fields.Boolean(required=True)


class ClaimRequestSchema(Tolerant):
    """Who wants the job."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    boot_id = fields.String(required=True)


class ClaimSchema(Schema):
    """A job that is now this machine's."""

    job_id = fields.UUID(required=True)
    attempt = fields.Integer(required=True)
    spec = fields.Dict(required=True)
    base = fields.String(allow_none=True, metadata={"description": "the model's family, as the catalogue has it"})


class PictureQuerySchema(Tolerant):
    """What a delivered picture is."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    seed = fields.Integer(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    sha256 = fields.String(required=True, validate=validate.Regexp(r"[0-9a-f]{64}\Z"))


class PictureSchema(Schema):
    """A picture that was kept."""

    image_id = fields.UUID(required=True)


class FinishSchema(Tolerant):
    """How an attempt ended."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    state = fields.Enum(AttemptState, by_value=True, required=True)
    error_code = fields.String(load_default=None, allow_none=True)
    error = fields.String(load_default=None, allow_none=True)
    permanent = fields.Boolean(load_default=False)
    timings = fields.Dict(keys=fields.String(), values=fields.Float(), load_default=dict)


class FinishedSchema(Schema):
    """What became of the job."""

    status = fields.String(required=True)


class SharedFileSchema(Tolerant):
    """A file that a machine holds or is fetching."""

    key = fields.String(required=True, validate=validate.Length(min=1, max=200))
    complete = fields.Boolean(required=True)


class AnnouncementSchema(Tolerant):
    """What a machine can hand to its neighbours, and where."""

    url = fields.Url(required=True, require_tld=False, schemes={"http", "https"}, validate=validate.Length(max=300))
    files = fields.List(fields.Nested(SharedFileSchema), required=True)


class PeerSchema(Schema):
    """A neighbour that has the same file, or is fetching it."""

    url = fields.String(required=True)
    complete = fields.Boolean(required=True)


class PeersSchema(Schema):
    """Neighbours by file."""

    peers = fields.Dict(keys=fields.String(), values=fields.List(fields.Nested(PeerSchema)), required=True)
