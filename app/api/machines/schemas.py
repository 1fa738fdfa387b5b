"""Schemas of the machine protocol, version 1; those of a check-in: check_in_schemas."""

from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from app.core import protocol
from app.core.lifecycle import AttemptState
from app.core.models import KINDS, MOST_BYTES, can_be_stored

MACHINE_ID = validate.Regexp(protocol.MACHINE_ID, error="letters, digits, '.', '_' and '-' only")

BOOT_ID = validate.Regexp(r"[\x21-\x7e]{1,64}\Z", error="1 to 64 visible ASCII characters only")

ENDINGS = [str(state) for state in (AttemptState.COMPLETED, AttemptState.ERROR, AttemptState.LOST)]
"""How a machine may end an attempt; only a client cancels."""

MOST_PIXELS = 10**6
MOST_KINDS = 1000
"""Of orders that a machine knows to draw several of in one pass."""
MOST_OFFERS = 10_000
MOST_WORDS = 10_000
"""Characters of an error: a traceback with its message, not a log file."""


class Tolerant(Schema):
    """A newer machine may say more than this server understands."""

    class Meta:
        """Unknown fields are let be."""

        unknown = EXCLUDE


class Words(fields.String):
    """Words of a machine for people: kept as far as a database takes them, never a reason to refuse the rest."""

    def __init__(self, longest: int, **more: Any) -> None:
        super().__init__(**more)
        self._longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **more)
        return "".join(letter if can_be_stored(letter) else "�" for letter in text[: self._longest])


class MachinesErrorSchema(Schema):
    """A problem in this dialect's shape."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    facts = fields.Dict(required=True)


class ClaimRequestSchema(Tolerant):
    """Who wants a job."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    boot_id = fields.String(required=True, validate=BOOT_ID)
    claim_id = fields.UUID(
        load_default=None,
        allow_none=True,
        metadata={"description": "the machine's own name for this claim: asked again, it gets the same attempt"},
    )
    together = fields.Dict(
        keys=Words(64),
        values=fields.Integer(validate=validate.Range(min=0)),
        load_default=dict,
        validate=validate.Length(max=MOST_KINDS),
        metadata={"description": "how many pictures it draws in one pass, by kind of order; others it draws alone"},
    )


class SeatSchema(Schema):
    """Where a picture lay in the pass that drew it."""

    together = fields.Integer(required=True, metadata={"description": "how many pictures were drawn in that pass"})
    row = fields.Integer(required=True)
    left = fields.List(
        fields.List(fields.Integer()),
        metadata={"description": "[row, steps]: rows that left it before its end, and after how many steps"},
    )


class ClaimedSchema(Schema):
    """A job that is now this machine's."""

    job_id = fields.UUID(required=True, metadata={"description": "the best that waits, not always the bell's"})
    attempt = fields.Integer(required=True)
    spec = fields.Dict(required=True)
    base = fields.String(allow_none=True, metadata={"description": "the model's family, as the catalogue has it"})
    variant = fields.String(allow_none=True, metadata={"description": "fp16, bf16 or fp32, as the catalogue has it"})
    companions = fields.Dict(
        keys=fields.String(),
        values=fields.Dict(),
        metadata={"description": "kind, base and options of what is needed beside the checkpoint, by id"},
    )
    seats = fields.List(
        fields.Nested(SeatSchema),
        metadata={"description": "of a replay: where each picture lay when it was drawn first; missing where unknown"},
    )
    traceparent = fields.String(
        metadata={"description": "W3C Trace Context of the request that ordered it; missing where it is not traced"}
    )


class ClaimSchema(ClaimedSchema):
    """What a claim was answered."""

    also = fields.List(
        fields.Nested(ClaimedSchema),
        metadata={"description": "more jobs that are its now, to be drawn in the same pass; missing for none"},
    )


class PictureQuerySchema(Tolerant):
    """What a delivered picture is."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    seed = fields.Integer(required=True, validate=validate.Range(min=0, max=MOST_BYTES))
    width = fields.Integer(required=True, validate=validate.Range(min=1, max=MOST_PIXELS))
    height = fields.Integer(required=True, validate=validate.Range(min=1, max=MOST_PIXELS))
    sha256 = fields.String(required=True, validate=validate.Regexp(r"[0-9a-f]{64}\Z"))


class PictureSchema(Schema):
    """A picture that was kept."""

    image_id = fields.UUID(required=True)


class FinishSchema(Tolerant):
    """How an attempt ended."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    state = fields.String(required=True, validate=validate.OneOf(ENDINGS))
    error_code = Words(50, load_default=None, allow_none=True)
    error = Words(MOST_WORDS, load_default=None, allow_none=True)
    permanent = fields.Boolean(load_default=False)
    timings = fields.Dict(keys=fields.String(), values=fields.Float(), load_default=dict)
    receipts = fields.List(
        fields.Dict(), load_default=list, metadata={"description": "what drew each picture, by position"}
    )


class FinishedSchema(Schema):
    """What became of the job."""

    status = fields.String(required=True)


class OfferSchema(Tolerant):
    """A model of another server that draws for a machine."""

    name = fields.String(required=True, validate=[validate.Length(min=1, max=400), validate.Predicate("isprintable")])
    kind = fields.String(required=True, validate=validate.OneOf(KINDS))
    file = Words(400, load_default="")
    sha256 = fields.String(load_default=None, allow_none=True, validate=validate.Regexp(r"[0-9a-f]{64}\Z"))


class OffersSchema(Tolerant):
    """All models that a machine offers."""

    machine_id = fields.String(required=True, validate=MACHINE_ID)
    models = fields.List(fields.Nested(OfferSchema), required=True, validate=validate.Length(max=MOST_OFFERS))


class AcceptedSchema(Schema):
    """What the offered models are called in the catalogue."""

    ids = fields.List(
        fields.List(fields.String()),
        required=True,
        metadata={"description": "for each offer, in order, every id that means it; none: it cannot be had"},
    )


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
