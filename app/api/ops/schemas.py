"""Schemas of the ops dialect."""

from marshmallow import Schema, fields


class HealthSchema(Schema):
    """The process answers."""

    status = fields.String(required=True, metadata={"example": "ok"})


class PartsSchema(Schema):
    """What the server depends on: `ok`, or what is wrong with it."""

    database = fields.String(required=True)
    broker = fields.String(required=True)
    machines = fields.String(required=True)


class ReadySchema(Schema):
    """Whether jobs can be taken and drawn."""

    status = fields.String(required=True, metadata={"enum": ["ready", "degraded", "down"]})
    parts = fields.Nested(PartsSchema, required=True)
    models = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "how many live machines are ready for each model"},
    )


class OpsErrorSchema(Schema):
    """A problem in this dialect's shape."""

    status = fields.String(required=True, metadata={"example": "error"})
    error = fields.String(required=True)
