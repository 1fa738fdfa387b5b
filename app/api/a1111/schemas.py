"""Schemas of the Automatic1111 dialect; its orders are in app.api.webui.orders."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.door import settings
from app.api.webui.orders import LenientSchema

SIDE = validate.Range(min=1)


def _let_be() -> fields.Raw:
    """Take a field that says nothing to this server, whatever is in it."""
    return fields.Raw(load_default=None, allow_none=True)


class A1111PictureSchema(LenientSchema):
    """A picture in base64."""

    image = fields.String(required=True)


MOST_DETECTED = 16
"""Pictures that a preprocessor is shown in one request; each is a job."""


class A1111DetectSchema(LenientSchema):
    """Pictures that a preprocessor is to look at."""

    controlnet_module = fields.String(load_default="none", allow_none=True)
    controlnet_input_images = fields.List(
        fields.String(), load_default=None, allow_none=True, validate=validate.Length(max=MOST_DETECTED)
    )
    controlnet_images = fields.List(
        fields.String(),
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=MOST_DETECTED),
        metadata={"description": "what webuiapi calls them"},
    )
    controlnet_processor_res = _let_be()
    controlnet_threshold_a = _let_be()
    controlnet_threshold_b = _let_be()
    low_vram = _let_be()


class A1111DetectedSchema(Schema):
    """What it sees."""

    images = fields.List(fields.String(), required=True)
    info = fields.String(required=True)


class A1111ExtraOptionsSchema(LenientSchema):
    """How pictures are to be made larger."""

    resize_mode = fields.Integer(load_default=0, allow_none=True, validate=validate.OneOf([0, 1]))
    show_extras_results = _let_be()
    gfpgan_visibility = fields.Float(load_default=0, allow_none=True)
    codeformer_visibility = fields.Float(load_default=0, allow_none=True)
    codeformer_weight = _let_be()
    upscaling_resize = fields.Float(load_default=2, allow_none=True)
    upscaling_resize_w = fields.Integer(load_default=512, allow_none=True, validate=SIDE)
    upscaling_resize_h = fields.Integer(load_default=512, allow_none=True, validate=SIDE)
    upscaling_crop = fields.Boolean(load_default=True, allow_none=True)
    upscaler_1 = fields.String(load_default=None, allow_none=True)
    upscaler_2 = fields.String(load_default=None, allow_none=True)
    extras_upscaler_2_visibility = fields.Float(load_default=0, allow_none=True)
    upscale_first = _let_be()


class A1111ExtraSchema(A1111ExtraOptionsSchema):
    """A picture that is to be made larger."""

    image = fields.String(required=True, metadata={"description": "base64, with or without `data:`"})


class A1111NamedPictureSchema(LenientSchema):
    """One picture of several."""

    data = fields.String(required=True, metadata={"description": "base64, with or without `data:`"})
    name = _let_be()


class A1111ExtrasSchema(A1111ExtraOptionsSchema):
    """Pictures that are to be made larger."""

    imageList = fields.List(fields.Nested(A1111NamedPictureSchema), required=True)  # noqa: N815  # its name there

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Hold the number of pictures against the server's setting."""
        most = settings().max_images
        if len(data["imageList"]) > most:
            raise ValidationError({"imageList": [f"has {len(data['imageList'])} pictures; the limit is {most}"]})


class A1111EnlargedSchema(Schema):
    """A picture that was made larger."""

    html_info = fields.String(required=True)
    image = fields.String(required=True, metadata={"description": "base64 without `data:`"})


class A1111EnlargedBatchSchema(Schema):
    """Pictures that were made larger, in the order in which they were given."""

    html_info = fields.String(required=True)
    images = fields.List(fields.String(), required=True, metadata={"description": "base64 without `data:`"})


class A1111DrawnSchema(Schema):
    """Pictures, and what they were drawn from."""

    images = fields.List(fields.String(), required=True, metadata={"description": "base64 without `data:`"})
    parameters = fields.Dict(required=True)
    info = fields.String(required=True, metadata={"description": "JSON in a text"})


class A1111StateSchema(Schema):
    """What is being done."""

    skipped = fields.Boolean(required=True)
    interrupted = fields.Boolean(required=True)
    stopping_generation = fields.Boolean(required=True)
    job = fields.String(required=True)
    job_count = fields.Integer(required=True)
    job_timestamp = fields.String(required=True)
    job_no = fields.Integer(required=True)
    sampling_step = fields.Integer(required=True)
    sampling_steps = fields.Integer(required=True)


class A1111ProgressQuerySchema(LenientSchema):
    """What is to be told of a job's progress."""

    skip_current_image = fields.Boolean(load_default=False)


class A1111ProgressSchema(Schema):
    """How far the caller's own job is."""

    progress = fields.Float(required=True, metadata={"description": "0 to 1"})
    eta_relative = fields.Float(required=True, metadata={"description": "seconds"})
    state = fields.Nested(A1111StateSchema, required=True)
    current_image = fields.String(required=True, allow_none=True)
    textinfo = fields.String(required=True, allow_none=True)


class A1111PngInfoSchema(Schema):
    """What a picture says about itself."""

    info = fields.String(required=True)
    items = fields.Dict(required=True)
    parameters = fields.Dict(required=True)


class A1111MemorySchema(Schema):
    """Memory of the live machines, bytes."""

    ram = fields.Dict(required=True)
    cuda = fields.Dict(required=True)


class A1111ErrorSchema(Schema):
    """A problem: a sentence, or for a wrong field a list."""

    detail = fields.Raw(required=True)
    error = fields.String()
    body = fields.String()
    errors = fields.String()
