"""From an order to the body of a request that draws some of its pictures. Pure."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from app.core import samplers
from app.core.extras import RESIZE_MODES, STRENGTH, Control
from app.core.spec import PIXEL_GRID, GenerationSpec, nth_seed
from tasks.machine.drivers.a1111.errors import NotHere
from tasks.machine.drivers.contract import CannotDraw

LORA = re.compile(r"<(?:lora|lyco):[^<>]+>", re.IGNORECASE)

FILLS = {"fill": 0, "original": 1, "noise": 2, "nothing": 3}
"""Its numbers for what is under a mask before it is drawn over."""

OWN_VAE = "Automatic"
"""Its word for the autoencoder that belongs to the checkpoint."""

LAST_LAYER = 1
RESIZE_MODES_OF_UNITS = {"stretch": "Just Resize", "crop": "Crop and Resize", "fill": "Resize and Fill"}
"""The words of the extension sd-webui-controlnet for what happens to a control picture of another shape."""

MODULES = {
    "canny": ("canny",),
    "depth": ("depth_midas", "depth", "depth_anything_v2", "depth_anything"),
    "openpose": ("openpose_full", "openpose"),
    "mediapipe_face": ("mediapipe_face",),
}
"""The extension's preprocessors that make our kinds of control pictures from photos; the first that it has is taken."""

WITHOUT_SCHEDULE = frozenset({"DDIM", "PLMS"})
"""It does not look at the schedule for these."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """Which samplers and schedules a server has. It takes unknown ones for others without a word."""

    samplers: frozenset[str] = frozenset()
    schedules: frozenset[str] | None = None
    """None: one older than version 1.9, where a schedule is part of the sampler's name."""
    modules: frozenset[str] | None = None
    """The preprocessors of its extension sd-webui-controlnet; None: it has not that extension."""

    def module_for(self, control: Control) -> str:
        """Say what is to be done with a control picture first; raises NotHere where this server cannot do it."""
        if self.modules is None:
            raise NotHere(
                "pictures that steer (controls): this Automatic1111 has no extension sd-webui-controlnet; install it "
                "there, or use a machine of another driver"
            )
        if not control.annotate:
            return "none"
        found = next((name for name in MODULES.get(control.kind, ()) if name in self.modules), None)
        if found is None:
            raise NotHere(f"this Automatic1111 makes no {control.kind} from a photo; give a ready control picture")
        return found

    def words_for(self, scheduler: str) -> dict[str, str]:
        """Say one of our schedulers in this server's words; raises NotHere where it has none."""
        sampler, schedule = samplers.split(scheduler)
        if self.schedules is None:
            sampler, schedule = scheduler, None
        elif sampler not in WITHOUT_SCHEDULE:
            schedule = schedule or samplers.UNIFORM
        if sampler not in self.samplers:
            raise NotHere(f"this Automatic1111 has no sampler {sampler!r}; it has {', '.join(sorted(self.samplers))}")
        if schedule and schedule not in (self.schedules or ()):
            raise NotHere(f"this Automatic1111 has no schedule {schedule!r} to draw {scheduler!r} with")
        return {"sampler_name": sampler} | ({"scheduler": schedule} if schedule else {})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one request is made from: an order, and where in it the request begins."""

    spec: GenerationSpec
    names: Mapping[str, str]
    """What the server calls the models that the order names, by their ids."""
    pictures: Mapping[str, Image]
    abilities: Abilities
    first: int = 0
    """Which picture of the order comes first."""
    count: int = 1
    size: tuple[int, int] | None = field(init=False)
    """Of the pictures that come back before anything else is done with them; None where the server decides."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self._size())

    @property
    def route(self) -> str:
        """Return where the request goes."""
        return "img2img" if self.spec.image else "txt2img"

    def body(self) -> dict[str, Any]:
        """Return the request. Raises CannotDraw and NotHere for what this kind of server cannot do."""
        spec = self.spec
        refuse(spec)
        width, height = self._first_size()
        wanted = {
            "prompt": self._words(spec.prompt) + "".join(self._tags()),
            "negative_prompt": self._words(spec.negative_prompt),
            "steps": spec.steps,
            "cfg_scale": spec.guidance_scale,
            "width": width,
            "height": height,
            "seed": nth_seed(spec.seed, self.first),
            "subseed": nth_seed(spec.subseed, self.first) if spec.subseed_strength else None,
            "subseed_strength": spec.subseed_strength or None,
            "batch_size": self.count,
            "n_iter": 1,
            "override_settings": self._settings(),
            # Setting them back would load the former checkpoint again after every picture.
            "override_settings_restore_afterwards": False,
            "send_images": True,
            "save_images": False,
            "do_not_save_samples": True,
            "do_not_save_grid": True,
            **(self.abilities.words_for(spec.scheduler) if spec.scheduler else {}),
            **self._hires(),
            **self._begun(),
            **self._steered(),
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _settings(self) -> dict[str, Any]:
        """Return every setting that changes pictures: they stay as they are, so each order says them all."""
        spec = self.spec
        return {
            "sd_model_checkpoint": self.names[spec.model_id],
            "sd_vae": self.names[spec.vae_id] if spec.vae_id else OWN_VAE,
            "CLIP_stop_at_last_layers": spec.clip_skip or LAST_LAYER,
            "samples_format": "png",
        }

    def _tags(self) -> list[str]:
        """Name the LoRAs as prompts do: the text encoder's weight, then the UNet's where they differ."""
        tags = []
        for lora in self.spec.loras:
            same = lora.text_weight is None or lora.text_weight == lora.weight
            weights = f"{lora.weight:g}" if same else f"{lora.text_weight:g}:{lora.weight:g}"
            tags.append(f"<lora:{self.names[lora.model_id]}:{weights}>")
        return tags

    def _words(self, prompt: str) -> str:
        """Return a prompt without LoRAs, where the order lists them, and with embeddings by the server's names."""
        if self.spec.loras:
            prompt = LORA.sub("", prompt)
        for model_id in self.spec.embeddings:
            prompt = re.sub(rf"(?<!\w){re.escape(model_id)}(?!\w)", lambda _: self.names[model_id], prompt)  # noqa: B023  # used at once
        return prompt

    def _hires(self) -> dict[str, Any]:
        hires = self.spec.hires
        if hires is None:
            return {}
        return {
            "enable_hr": True,
            "hr_scale": hires.scale,
            "hr_upscaler": self.names.get(hires.upscaler, hires.upscaler),
            "hr_second_pass_steps": hires.steps or 0,
            "denoising_strength": hires.strength,
        }

    def _begun(self) -> dict[str, Any]:
        """Return what belongs to a picture that is begun with, and its mask."""
        spec, mask = self.spec, self.spec.mask
        if spec.image is None:
            return {}
        begun: dict[str, Any] = {
            "init_images": [as_base64(self.pictures[spec.image])],
            "denoising_strength": STRENGTH if spec.strength is None else spec.strength,
            "resize_mode": RESIZE_MODES.index(spec.resize_mode),
            "include_init_images": False,
        }
        if mask is None:
            return begun
        return begun | {
            "mask": as_base64(self.pictures[mask.image].convert("L")),
            "mask_blur": mask.blur,
            "inpainting_fill": FILLS[mask.fill],
            "inpaint_full_res": mask.only_masked,
            "inpaint_full_res_padding": mask.padding,
            "inpainting_mask_invert": int(mask.inverted),
        }

    def _steered(self) -> dict[str, Any]:
        """Return the units of the extension sd-webui-controlnet."""
        units = [
            {
                "enabled": True,
                "image": as_base64(self.pictures[control.image]),
                "module": self.abilities.module_for(control),
                "model": self.names[str(control.model_id)],
                "weight": control.weight,
                "guidance_start": control.start,
                "guidance_end": control.end,
                "resize_mode": RESIZE_MODES_OF_UNITS[control.resize_mode],
                "control_mode": "Balanced",
                "pixel_perfect": True,
                "save_detected_map": False,  # it would come back behind the pictures
            }
            for control in self.spec.controls
        ]
        return {"alwayson_scripts": {"controlnet": {"args": units}}} if units else {}

    def _first_size(self) -> tuple[int | None, int | None]:
        """Return the size that is drawn at first; where nobody says one, that of the picture begun with."""
        spec = self.spec
        if spec.image is None:
            return spec.width, spec.height
        given = self.pictures[spec.image].size
        cut = [max(PIXEL_GRID, side // PIXEL_GRID * PIXEL_GRID) for side in given]
        return spec.width or cut[0], spec.height or cut[1]

    def _size(self) -> tuple[int, int] | None:
        width, height = self._first_size()
        if not width or not height:
            return None
        scale = self.spec.hires.scale if self.spec.hires else 1.0
        return int(width * scale), int(height * scale)


def refuse(spec: GenerationSpec) -> None:
    """Raise for what would have to be left out: nothing of an order is left out without a word."""
    if spec.hires and spec.image:
        raise CannotDraw("the high-res fix belongs to drawing from words alone; leave out hires, or image")
    for asked, what in (
        (spec.remove_background, "removing the background"),
        (spec.safety_check, "the safety checker (SAFETY_CHECK=1 on the server asks every order for it)"),
    ):
        if asked:
            raise NotHere(f"{what}: not with a remote Automatic1111; leave it out, or use a machine of another driver")


def as_base64(picture: Image) -> str:
    """Write a picture as its API takes them."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
