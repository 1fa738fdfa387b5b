"""Schemas of the catalogue in the v1 dialect: seed 000's names of things, and ours beside them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, validate, validates_schema
from webargs.fields import DelimitedList

from app.api.paging import MOST_OF_A_FLEET, AfterField, PageSchema, limit_field, next_field, sort_field
from app.api.v1.model_translate import BASES, STATUSES, TYPES, VARIANTS
from app.api.v1.schemas import NOT_EMPTY
from app.core.listing import MODELS
from app.core.machines import Availability
from app.core.models import KINDS

TWINS: Mapping[str, str] = {
    "model_id": "id",
    "path": "download_url",
    "model_type": "kind",
    "model_base": "base",
}
"""Seed 000's name of a field, and ours."""

AVAILABILITIES = [each.value for each in Availability]


class ModelFields(Schema):
    """What may be said of a model, by either name."""

    name = fields.String(validate=NOT_EMPTY, metadata={"example": "sd_xl_base_1.0.safetensors"})
    path = fields.String(
        allow_none=True,
        validate=NOT_EMPTY,
        metadata={
            "description": "where its file is: https://, http://, file:// (and hf://, civitai://, s3://); null: `name` "
            "is the repository OWNER/NAME on Hugging Face. Whether there is such a file is looked at",
            "example": "https://huggingface.co/OWNER/REPO/resolve/main/sd_xl_base_1.0.safetensors",
        },
    )
    download_url = fields.String(
        validate=NOT_EMPTY, metadata={"description": "as `path`; looked at only with `check: true`"}
    )
    check = fields.Boolean(
        load_only=True,
        metadata={"description": "look whether the file can be had; left out: where `path` is given"},
    )
    model_type = fields.String(validate=validate.OneOf(list(TYPES)), metadata={"example": "Checkpoint"})
    kind = fields.String(validate=validate.OneOf(KINDS))
    model_base = fields.String(
        allow_none=True, validate=NOT_EMPTY, metadata={"description": f"such as {' or '.join(BASES)}"}
    )
    base = fields.String(allow_none=True)
    variant = fields.String(
        allow_none=True, validate=NOT_EMPTY, metadata={"description": f"such as {' or '.join(VARIANTS)}"}
    )
    tags = fields.List(fields.String())
    hash = fields.String(allow_none=True)
    size_bytes = fields.Integer(strict=True, allow_none=True, validate=validate.Range(min=1))
    file_size_gb = fields.Float(allow_none=True, validate=validate.Range(min=0))
    save_path = fields.String(validate=NOT_EMPTY)
    auth_required = fields.Boolean()
    auth_provider = fields.String(allow_none=True)
    dependencies = fields.List(fields.String(validate=NOT_EMPTY))
    description = fields.String(allow_none=True)
    options = fields.Dict()

    @validates_schema
    def say_it_once(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take each thing by one of its two names."""
        both = {theirs: ours for theirs, ours in TWINS.items() if theirs in data and ours in data}
        if both:
            raise ValidationError(
                {name: [f"is another name of {ours}; give one of them"] for name, ours in both.items()}
            )


ONE_NAME_EACH: Mapping[str, Any] = {"not": {"anyOf": [{"required": list(pair)} for pair in TWINS.items()]}}


class ModelRequestSchema(ModelFields):
    """An entry for the catalogue. `id` and `save_path` follow from the name where they are left out."""

    RULES: ClassVar[Mapping[str, Any]] = ONE_NAME_EACH

    id = fields.String(validate=NOT_EMPTY, metadata={"example": "sdxl-base"})
    model_id = fields.String(validate=NOT_EMPTY)
    name = fields.String(required=True, validate=NOT_EMPTY, metadata={"example": "sd_xl_base_1.0.safetensors"})


class ModelPatchSchema(ModelFields):
    """What is to become of an entry; what is left out stays as it is."""

    RULES: ClassVar[Mapping[str, Any]] = {**ONE_NAME_EACH, "minProperties": 1}

    @validates_schema
    def change_something(self, data: Mapping[str, Any], **_: Any) -> None:
        """Ask for a change."""
        if not set(data) - {"check"}:
            raise ValidationError("nothing is to be changed; name at least one field")
        if data.get("path", "") is None:
            raise ValidationError("cannot be taken away; give another one", "path")


class V1CivitaiSchema(Schema):
    """What Civitai knows of a model's file; docs/sdapi.md says what each status means."""

    status = fields.String(required=True, metadata={"description": "found, not_found, pending, off, private …"})
    name = fields.String(allow_none=True)
    version = fields.String(allow_none=True)
    trained_words = fields.List(fields.String(), metadata={"description": "what a prompt should have in it"})
    nsfw = fields.Boolean()
    url = fields.String(metadata={"description": "its page at Civitai"})
    picture_url = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "a small picture, kept by this server; only what Civitai rates for everybody"},
    )


class ModelSchema(Schema):
    """A catalogue entry, and how far the fleet is with it."""

    id = fields.String(required=True)
    model_id = fields.String(required=True, metadata={"description": "the same as `id`"})
    name = fields.String(required=True)
    status = fields.String(
        required=True,
        validate=validate.OneOf(STATUSES),
        metadata={"description": "Downloading also while no machine has begun; `reason` says what it waits for"},
    )
    percent = fields.Float(
        required=True, allow_none=True, metadata={"description": "of its bytes, on the machine that is furthest"}
    )
    reason = fields.String(required=True, allow_none=True, metadata={"description": "why it is not Ready"})
    availability = fields.String(
        required=True,
        validate=validate.OneOf(AVAILABILITIES),
        metadata={"description": "the same, and absent where no live machine is asked to hold it"},
    )
    path = fields.String(required=True, metadata={"description": "the same as `download_url`"})
    model_type = fields.String(required=True, metadata={"description": "`kind` in seed 000's words"})
    model_base = fields.String(required=True, allow_none=True, metadata={"description": "the same as `base`"})
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
    auth_required = fields.Boolean()
    auth_provider = fields.String(allow_none=True)
    dependencies = fields.List(fields.String())
    options = fields.Dict()
    trigger_words = fields.List(
        fields.String(), metadata={"description": "what a prompt should have in it, as the file says; machines read it"}
    )
    civitai = fields.Nested(V1CivitaiSchema, required=True)
    origin = fields.String()
    machines_ready = fields.List(fields.String())
    jobs_waiting = fields.Integer()
    created_at = fields.AwareDateTime()
    updated_at = fields.AwareDateTime()


class ModelQuerySchema(PageSchema):
    """Which models to list."""

    status = DelimitedList(
        fields.String(validate=validate.OneOf(STATUSES)),
        validate=NOT_EMPTY,
        metadata={"description": "one or several, between commas"},
    )
    availability = DelimitedList(
        fields.String(validate=validate.OneOf(AVAILABILITIES)),
        validate=NOT_EMPTY,
        metadata={"description": "one or several, between commas; in place of status"},
    )
    model_type = fields.String(validate=validate.OneOf(list(TYPES)))
    kind = fields.String(validate=validate.OneOf(KINDS))
    model_base = fields.String(validate=NOT_EMPTY)
    base = fields.String(validate=NOT_EMPTY)
    variant = fields.String(validate=NOT_EMPTY)
    tag = fields.String(validate=NOT_EMPTY)
    search = fields.String(validate=NOT_EMPTY, metadata={"description": "a part of the id or of the name"})
    after = AfterField(MODELS)
    sort = sort_field(MODELS)
    limit = limit_field(MOST_OF_A_FLEET, usual=MOST_OF_A_FLEET)

    @validates_schema
    def filter_once(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take each filter by one of its two names."""
        twins = {"status": "availability", "model_type": "kind", "model_base": "base"}
        both = {name: other for name, other in twins.items() if name in data and other in data}
        if both:
            raise ValidationError({name: [f"give either {name} or {other}"] for name, other in both.items()})


class ModelListSchema(Schema):
    """The catalogue, page by page."""

    models = fields.List(fields.Nested(ModelSchema), required=True)
    next = next_field()
