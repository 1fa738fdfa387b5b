"""Schemas of the catalogue in the v1 dialect."""

from marshmallow import Schema, fields, validate

from app.api.v1.schemas import NOT_EMPTY
from app.core.models import KINDS


class ModelRequestSchema(Schema):
    """An entry for the catalogue. `id` and `save_path` follow from the name where they are left out."""

    id = fields.String(validate=NOT_EMPTY, metadata={"example": "sdxl-base"})
    name = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "sd_xl_base_1.0.safetensors"})
    download_url = fields.String(required=True, validate=NOT_EMPTY)
    hash = fields.String(allow_none=True, load_default=None)
    size_bytes = fields.Integer(allow_none=True, load_default=None, validate=validate.Range(min=1))
    file_size_gb = fields.Float(allow_none=True, load_default=None, validate=validate.Range(min=0))
    save_path = fields.String(validate=NOT_EMPTY)
    auth_required = fields.Boolean(load_default=False)
    auth_provider = fields.String(allow_none=True, load_default=None)
    dependencies = fields.List(fields.String(validate=NOT_EMPTY), load_default=list)
    description = fields.String(allow_none=True, load_default=None)
    kind = fields.String(load_default="checkpoint", validate=validate.OneOf(KINDS))
    base = fields.String(allow_none=True, load_default=None)
    variant = fields.String(allow_none=True, load_default=None)
    tags = fields.List(fields.String(), load_default=list)
    options = fields.Dict(load_default=dict)


class ModelSchema(Schema):
    """A catalogue entry, and how far the fleet is with it."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    status = fields.String(
        required=True, metadata={"description": "ready, downloading, error, or absent from all live machines"}
    )
    kind = fields.String(required=True)
    base = fields.String(allow_none=True)
    variant = fields.String(allow_none=True)
    tags = fields.List(fields.String())
    description = fields.String(allow_none=True)
    download_url = fields.String(required=True)
    hash = fields.String(allow_none=True)
    size_bytes = fields.Integer(allow_none=True)
    file_size_gb = fields.Float(allow_none=True)
    save_path = fields.String(required=True)
    dependencies = fields.List(fields.String())
    options = fields.Dict()
    trigger_words = fields.List(
        fields.String(), metadata={"description": "what a prompt should have in it, as the file says; machines read it"}
    )
    origin = fields.String()
    machines_ready = fields.List(fields.String())
    jobs_waiting = fields.Integer()


class ModelListSchema(Schema):
    """The catalogue."""

    models = fields.List(fields.Nested(ModelSchema), required=True)
