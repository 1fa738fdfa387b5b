"""Schemas of the catalog dialect."""

from marshmallow import Schema, fields


class CatalogModelSchema(Schema):
    """A model as seed 003 shows it."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    download_url = fields.String(required=True)
    file_size_gb = fields.Float(required=True, allow_none=True)
    hash = fields.String(required=True, allow_none=True)
    auth_required = fields.Boolean(required=True)
    auth_provider = fields.String(required=True, allow_none=True)
    save_path = fields.String(required=True)
    dependencies = fields.List(fields.String(), required=True)
    description = fields.String(required=True, allow_none=True)
    size_bytes = fields.Integer(allow_none=True)
    kind = fields.String()
    base = fields.String(allow_none=True)


class BatchSchema(Schema):
    """What was found, in the order asked, and what was not."""

    models = fields.List(fields.Nested(CatalogModelSchema), required=True)
    not_found = fields.List(fields.String(), required=True)
    near = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "similar ids for unknown ones, where the request says `near: true`"},
    )


class CatalogErrorSchema(Schema):
    """A problem in seed 003's shape."""

    error = fields.String(required=True)
    model_id = fields.String()
