"""Schemas of engines in the v1 dialect; the fields are named as in seed 000."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate
from webargs.fields import DelimitedList

from app.api.paging import AfterField, PageSchema, limit_field, next_field, sort_field
from app.api.v1.order_schemas import OneOfSamplers
from app.api.v1.schemas import NOT_EMPTY, ProblemSchema
from app.core.engines import LISTING, WEIGHTERS
from app.core.extras import MOST_WEIGHT
from app.core.lifecycle import EngineState
from app.core.spec import SCHEDULERS

STATES = [state.value for state in EngineState]

MOST_PARTS = 50
"""LoRAs, embeddings or ControlNets of one engine: each is put on for every picture."""


class ModelId(fields.String):
    """The id of a model; an empty one is no id."""

    def __init__(self, **more: Any) -> None:
        super().__init__(validate=NOT_EMPTY, **more)


class LoraField(fields.Field[Mapping[str, Any]]):
    """A LoRA by its id, or with its weight."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> Mapping[str, Any]:  # noqa: ARG002  # marshmallow's signature
        given = {"model_id": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise ValidationError('must be the id of a model, or {"model_id": …, "weight": 0.8}')
        loaded: Mapping[str, Any] = WeightedLoraSchema().load(dict(given))
        return loaded


class WeightedLoraSchema(Schema):
    """A LoRA with its weight."""

    model_id = ModelId(required=True)
    weight = fields.Float(load_default=1.0, validate=validate.Range(min=-MOST_WEIGHT, max=MOST_WEIGHT))


def _at_most() -> validate.Length:
    return validate.Length(max=MOST_PARTS)


class EngineRequestSchema(Schema):
    """What an engine is to be made of."""

    checkpoint = ModelId(required=True, metadata={"example": "demo-shapes"})
    vae = ModelId(load_default=None, allow_none=True)
    loras = fields.List(
        LoraField(metadata={"oneOf": [{"type": "string"}, {"type": "object"}]}),
        load_default=list,
        validate=_at_most(),
        metadata={"description": 'ids of models, or {"model_id", "weight"}'},
    )
    embeddings = fields.List(ModelId(), load_default=list, validate=_at_most())
    prompt_weighter = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf(
            WEIGHTERS, error="must be one of {choices}: prompts are read in Automatic1111's syntax, as sd_embed does"
        ),
    )
    controlnet = fields.List(
        ModelId(),
        load_default=list,
        validate=_at_most(),
        metadata={"description": "kinds, such as openpose or depth, or ids of models"},
    )
    default_scheduler = fields.String(allow_none=True, load_default=None, validate=OneOfSamplers(SCHEDULERS))
    default_steps = fields.Integer(strict=True, allow_none=True, load_default=None, validate=validate.Range(min=1))
    default_cfg = fields.Float(allow_none=True, load_default=None, validate=validate.Range(min=0, max=100))
    default_width = fields.Integer(strict=True, allow_none=True, load_default=None, validate=validate.Range(min=8))
    default_height = fields.Integer(strict=True, allow_none=True, load_default=None, validate=validate.Range(min=8))


class EngineSchema(Schema):
    """An engine as its client sees it."""

    engine_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATES))
    stopping = fields.Boolean(required=True, metadata={"description": "it will be Closed once its job has ended"})
    checkpoint = fields.String(required=True)
    vae = fields.String(required=True, allow_none=True)
    loras = fields.List(fields.String(), required=True)
    lora_weights = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    embeddings = fields.List(fields.String(), required=True)
    prompt_weighter = fields.String(required=True)
    controlnet = fields.List(fields.String(), required=True)
    default_scheduler = fields.String(required=True, allow_none=True)
    default_steps = fields.Integer(required=True, allow_none=True)
    default_cfg = fields.Float(required=True, allow_none=True)
    default_width = fields.Integer(required=True, allow_none=True)
    default_height = fields.Integer(required=True, allow_none=True)
    machine_id = fields.String(
        required=True, allow_none=True, metadata={"description": "where it is, is being started, or was last"}
    )
    bytes_estimated = fields.Integer(
        required=True, allow_none=True, metadata={"description": "what its networks take, from the files' headers"}
    )
    bytes_measured = fields.Integer(
        required=True, allow_none=True, metadata={"description": "the same as measured in the memory it is in"}
    )
    error = fields.Nested(
        ProblemSchema,
        required=True,
        allow_none=True,
        metadata={"description": "why the last start failed, or what closed it"},
    )
    created_at = fields.AwareDateTime(required=True)
    updated_at = fields.AwareDateTime(required=True)
    started_at = fields.AwareDateTime(required=True, allow_none=True)
    url = fields.String(required=True)


class EngineQuerySchema(PageSchema):
    """Which engines to list."""

    status = DelimitedList(
        fields.String(validate=validate.OneOf(STATES)),
        load_default=list,
        validate=validate.Length(max=20),
        metadata={"description": "one or several, between commas"},
    )
    checkpoint = fields.String(load_default=None)
    after = AfterField(LISTING)
    sort = sort_field(LISTING)
    limit = limit_field()


class EngineListSchema(Schema):
    """Engines, page by page."""

    engines = fields.List(fields.Nested(EngineSchema), required=True)
    total = fields.Integer(required=True, metadata={"description": "on all pages"})
    next = next_field()
