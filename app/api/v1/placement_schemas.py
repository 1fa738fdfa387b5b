"""Schemas of the placement adviser in the v1 dialect."""

from marshmallow import Schema, fields


class ProposalSchema(Schema):
    """What one machine should hold next."""

    machine_id = fields.String(required=True)
    changed = fields.Boolean(required=True, metadata={"description": "whether anything is proposed"})
    models_needed_now = fields.List(fields.String(), required=True)
    models_needed_next = fields.List(fields.String(), required=True)
    setting = fields.String(
        required=True, metadata={"description": "for MACHINE_MODELS_NEEDED", "example": "flux-dev,sdxl-base"}
    )
    adds = fields.List(fields.String(), required=True)
    drops = fields.List(fields.String(), required=True)
    bytes_to_fetch = fields.Integer(required=True)
    seconds_to_fetch = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "at the speed that machines of this fleet were measured with; null: none was"},
    )
    explanation = fields.String(required=True)


class UnplacedSchema(Schema):
    """A model that is asked for and has no machine."""

    model_id = fields.String(required=True)
    explanation = fields.String(required=True, metadata={"description": "why, and what would help"})


class PlacementSchema(Schema):
    """The next MACHINE_MODELS_NEEDED of every machine that was seen in the last day. Nothing is changed by asking."""

    machines = fields.List(fields.Nested(ProposalSchema), required=True)
    unplaced = fields.List(fields.Nested(UnplacedSchema), required=True)
