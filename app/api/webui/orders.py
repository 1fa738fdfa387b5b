"""Automatic1111's orders: null passes for every field, and fields that nobody knows are let be."""

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from app.api.door import settings
from app.api.hooks import HookFields
from app.api.webui.beginnings import problems_of_second_pass
from app.core.spec import MAX_CLIP_SKIP, MAX_SEED

AT_LEAST_ONE = validate.Range(min=1)
BLUR = validate.Range(min=0, max=256)


def _integer(default: int | None = None, **more: Any) -> fields.Integer:
    return fields.Integer(load_default=default, allow_none=True, **more)


def _number(default: float | None = None, **more: Any) -> fields.Float:
    return fields.Float(load_default=default, allow_none=True, **more)


def _text(default: str | None = None) -> fields.String:
    return fields.String(load_default=default, allow_none=True)


def _flag(*, default: bool | None = None) -> fields.Boolean:
    return fields.Boolean(load_default=default, allow_none=True)


def _let_be(default: Any = None) -> fields.Raw:
    """Take a field that says nothing to this server, whatever is in it."""
    return fields.Raw(load_default=default, allow_none=True)


class LenientSchema(Schema):
    """What real clients send has more in it than anybody documented."""

    class Meta:
        """Ignore what is unknown."""

        unknown: ClassVar[str] = EXCLUDE


class OrderSchema(LenientSchema, HookFields):
    """What both kinds of orders have, with Automatic1111's names.

    What is left out is as the model's catalogue entry says, and else as in Automatic1111. Its defaults stand here only
    where the picture does not depend on them.
    """

    prompt = _text("")
    negative_prompt = _text("")
    styles = fields.List(fields.String(allow_none=True), load_default=None, allow_none=True)
    seed = _integer(-1, validate=validate.Range(min=-1, max=MAX_SEED))
    subseed = _integer(-1, validate=validate.Range(min=-1, max=MAX_SEED))
    subseed_strength = _number(0, validate=validate.Range(min=0, max=1))
    seed_resize_from_h = _integer(-1)
    seed_resize_from_w = _integer(-1)
    sampler_name = _text()
    scheduler = _text()
    sampler_index = _text()
    batch_size = _integer(1, validate=AT_LEAST_ONE)
    n_iter = _integer(1, validate=AT_LEAST_ONE)
    steps = _integer(validate=AT_LEAST_ONE)
    cfg_scale = _number(validate=validate.Range(min=0, max=100))
    width = _integer(validate=AT_LEAST_ONE)
    height = _integer(validate=AT_LEAST_ONE)
    restore_faces = _flag()
    tiling = _flag()
    do_not_save_samples = _let_be(default=False)
    do_not_save_grid = _let_be(default=False)
    eta = _number()
    denoising_strength = _number(0.75, validate=validate.Range(min=0, max=1))
    s_min_uncond = _number()
    s_churn = _number()
    s_tmax = _let_be()
    s_tmin = _let_be()
    s_noise = _number()
    clip_skip = _integer(validate=validate.Range(min=0, max=MAX_CLIP_SKIP))
    override_settings = fields.Dict(keys=fields.String(), load_default=None, allow_none=True)
    override_settings_restore_afterwards = _let_be(default=True)
    refiner_checkpoint = _text()
    refiner_switch_at = _let_be()
    disable_extra_networks = _flag(default=False)
    firstpass_image = _text()
    comments = _let_be()
    force_task_id = _let_be()
    script_name = _text()
    script_args = _let_be(())
    send_images = _flag(default=True)
    save_images = _let_be(default=False)
    alwayson_scripts = fields.Dict(keys=fields.String(), load_default=dict, allow_none=True)
    infotext = _text()

    @validates_schema
    def keep_limits(self, data: Mapping[str, Any], **_: Any) -> None:
        """Hold the order against the server's settings."""
        known = settings()
        most = {"steps": known.max_steps, "width": known.max_size, "height": known.max_size}
        problems = {
            name: [f"is {data[name]}; this server's limit is {limit}"]
            for name, limit in most.items()
            if (data[name] or 0) > limit
        }
        for name in ("prompt", "negative_prompt"):
            if len(data[name] or "") > known.max_prompt:
                problems[name] = [f"has {len(data[name])} characters; this server's limit is {known.max_prompt}"]
        pictures = (data["n_iter"] or 1) * (data["batch_size"] or 1)
        if pictures > known.max_images:
            problems["batch_size"] = [f"times n_iter is {pictures} pictures; this server's limit is {known.max_images}"]
        problems |= problems_of_second_pass(data, known.max_size)
        if problems:
            raise ValidationError(problems)


class Txt2ImgSchema(OrderSchema):
    """An order that begins with words alone."""

    enable_hr = _flag(default=False)
    firstphase_width = _integer(0)
    firstphase_height = _integer(0)
    hr_scale = _number(2.0, validate=validate.Range(min=1, max=8))
    hr_upscaler = _text()
    hr_second_pass_steps = _integer(0, validate=validate.Range(min=0))
    hr_resize_x = _integer(0, validate=validate.Range(min=0))
    hr_resize_y = _integer(0, validate=validate.Range(min=0))
    hr_checkpoint_name = _text()
    hr_sampler_name = _text()
    hr_scheduler = _text()
    hr_prompt = _text("")
    hr_negative_prompt = _text("")


class Img2ImgSchema(OrderSchema):
    """An order that begins with a picture."""

    init_images = fields.List(fields.String(), load_default=None, allow_none=True)
    resize_mode = _integer(0, validate=validate.Range(min=0, max=3))
    image_cfg_scale = _let_be()
    mask = _text()
    mask_blur_x = _integer(4, validate=BLUR)
    mask_blur_y = _integer(4, validate=BLUR)
    mask_blur = _integer(validate=BLUR)
    mask_round = _let_be(default=True)
    inpainting_fill = _integer(0, validate=validate.Range(min=0, max=3))
    inpaint_full_res = _flag(default=True)
    inpaint_full_res_padding = _integer(0, validate=validate.Range(min=0, max=1024))
    inpainting_mask_invert = _integer(0)
    initial_noise_multiplier = _number()
    latent_mask = _text()
    include_init_images = _flag(default=False)
