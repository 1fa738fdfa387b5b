"""Schemas of what steers an order of the v1 dialect, and of what happens to its pictures in the end."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api import given
from app.api.v1.picture_schemas import PictureField
from app.api.v1.schemas import NOT_EMPTY
from app.core.extras import CONTROL_KINDS, RESIZE_MODES, USUAL

MOST_CONTROLS = 8
"""Each is a network as large as half of the model's own."""

POSES = {"openpose_blob": "openpose", "midaspose_blob": "depth", "mediapipe_blob": "mediapipe_pose"}
"""Seed 000's ready-made control pictures, and the kinds that they are."""


class ControlSchema(Schema):
    """A ControlNet and the picture that steers it."""

    model_id = fields.String(
        validate=NOT_EMPTY,
        metadata={"description": "of kind controlnet; left out: the catalogue's for `kind` and the model's base"},
    )
    image = PictureField(required=True)
    kind = fields.String(
        load_default="openpose",
        validate=validate.OneOf(CONTROL_KINDS),
        metadata={"description": "what the picture shows, or is to be made to show; depth is as MiDaS draws it"},
    )
    annotate = fields.Boolean(
        load_default=False,
        metadata={"description": "the picture is a photo: make the control picture from it"},
    )
    weight = fields.Float(load_default=1.0, validate=validate.Range(min=0, max=2))
    start = fields.Float(
        load_default=0.0,
        validate=validate.Range(min=0, max=1),
        metadata={"description": "from which part of the steps on it steers, 0 to 1"},
    )
    end = fields.Float(load_default=1.0, validate=validate.Range(min=0, max=1))
    resize_mode = fields.String(
        load_default="stretch",
        validate=validate.OneOf(RESIZE_MODES),
        metadata={"description": "what happens to a control picture of another shape than what is drawn"},
    )

    @validates_schema
    def begin_before_the_end(self, data: Mapping[str, Any], **_: Any) -> None:
        """Steer for some time."""
        if data["start"] >= data["end"]:
            raise ValidationError(f"must be after start, {data['start']:g}", "end")


class PosesSchema(Schema):
    """Ready-made control pictures."""

    openpose_blob = PictureField()
    midaspose_blob = PictureField()
    mediapipe_blob = PictureField()


class CutterField(fields.Field[str | None]):
    """Whether the background is to be removed: the id of the ONNX model that does it, or true for the server's own."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> str | None:  # noqa: ARG002  # marshmallow's signature
        if isinstance(value, bool):
            return USUAL if value else None
        if isinstance(value, str) and len(value) > 0 and value != USUAL:
            return value
        raise ValidationError("must be true, false, or the id of a model of kind onnx")


class ControlFields(Schema):
    """The part of an order that is about steering and finishing."""

    controls = fields.List(fields.Nested(ControlSchema), validate=validate.Length(max=MOST_CONTROLS))
    poses = fields.Nested(PosesSchema, metadata={"description": "ready-made control pictures, each of weight 1"})
    remove_background = CutterField(
        metadata={
            "oneOf": [{"type": "boolean"}, {"type": "string", "minLength": 1}],
            "description": "true, or the id of a model of kind onnx: the pictures come with an alpha channel",
        }
    )
    safety_check = fields.Boolean(
        load_default=False,
        metadata={"description": "black out what the safety checker takes for unsafe; the server may do so always"},
    )


def kept(order: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the pictures that steer an order, and name them in it instead; raises Refused."""
    found = {name: value for name, value in order.items() if name != "poses"}
    controls = [
        {**control, "image": given.keep_text(control["image"], f"controls.{number}.image")}
        for number, control in enumerate(order.get("controls", ()))
    ]
    controls += [
        {"kind": POSES[name], "image": given.keep_text(blob, f"poses.{name}")}
        for name, blob in order.get("poses", {}).items()
    ]
    return found | {"controls": controls}
