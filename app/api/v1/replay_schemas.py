"""Schemas of replays and receipts in the v1 dialect."""

from marshmallow import Schema, fields


class ReplayedPictureSchema(Schema):
    """How far a picture is from the one that it replays."""

    position = fields.Integer(required=True)
    first_image_id = fields.UUID(required=True, allow_none=True)
    image_id = fields.UUID(required=True)
    equal = fields.Boolean(
        required=True, allow_none=True, metadata={"description": "all pixels, bit for bit; null: see `problem`"}
    )
    largest_difference = fields.Integer(required=True, allow_none=True, metadata={"description": "0 to 255"})
    mean_difference = fields.Float(required=True, allow_none=True, metadata={"description": "0 to 255"})
    psnr = fields.Float(
        required=True, allow_none=True, metadata={"description": "dB; 48 and more is rounding, null when equal"}
    )
    problem = fields.String(required=True, allow_none=True, metadata={"description": "why they cannot be compared"})
    differs = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.Raw(allow_none=True)),
        required=True,
        metadata={"description": "what is different in the receipts: what it was, and what it is now"},
    )


class ReplaySchema(Schema):
    """How far a replay is from the job that it replays."""

    job_id = fields.UUID(required=True)
    replay_of = fields.UUID(required=True)
    status = fields.String(required=True)
    compared = fields.Boolean(required=True, metadata={"description": "false until the replay is completed"})
    equal = fields.Boolean(
        required=True, allow_none=True, metadata={"description": "every picture is equal to the first, bit for bit"}
    )
    pictures = fields.List(fields.Nested(ReplayedPictureSchema), required=True)


class ReceiptSchema(Schema):
    """What drew a picture."""

    image_id = fields.UUID(required=True)
    receipt = fields.Dict(
        required=True,
        allow_none=True,
        metadata={"description": "files with their hashes, versions, device, seed; null: its machine gave none"},
    )
