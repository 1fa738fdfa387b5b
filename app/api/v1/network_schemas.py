"""Schemas of what an order of the v1 dialect brings along beside its checkpoint: networks of the catalogue."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from app.api.v1.schemas import NOT_EMPTY
from app.core.extras import MOST_WEIGHT, Lora

MOST_NETWORKS = 50
"""LoRAs or embeddings of one order: each is put on for its pictures, and taken off again."""

WEIGHT = validate.Range(min=-MOST_WEIGHT, max=MOST_WEIGHT)


class WeightedLoraSchema(Schema):
    """A LoRA with its weights."""

    model_id = fields.String(required=True, validate=NOT_EMPTY)
    weight = fields.Float(load_default=1.0, validate=WEIGHT)
    text_weight = fields.Float(load_default=None, allow_none=True, validate=WEIGHT)


class LoraField(fields.Field[Lora]):
    """A LoRA by its id, or with its weights."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> Lora:  # noqa: ARG002  # its signature
        given = {"model_id": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise ValidationError('must be the id of a model, or {"model_id": …, "weight": 0.8}')
        return Lora(**WeightedLoraSchema().load(dict(given)))


class NetworkFields(Schema):
    """The fields that name networks."""

    loras = fields.List(
        LoraField(metadata={"oneOf": [{"type": "string"}, {"type": "object"}]}),
        validate=validate.Length(max=MOST_NETWORKS),
        metadata={
            "description": 'ids of models, or {"model_id", "weight", "text_weight"}; a prompt may name them too, as '
            "`<lora:name:0.8>`",
            "example": [{"model_id": "add-detail-xl", "weight": 0.8}],
        },
    )
    embeddings = fields.List(
        fields.String(validate=NOT_EMPTY),
        validate=validate.Length(max=MOST_NETWORKS),
        metadata={"description": "ids of textual inversions; those whose names stand in a prompt are added"},
    )
    vae_id = fields.String(
        data_key="vae", validate=NOT_EMPTY, metadata={"description": "id of a VAE in place of the model's own"}
    )
