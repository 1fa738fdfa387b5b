"""The families of pipelines, as rows of one table: what draws them, with which defaults, and what they cannot do.

A new family is one row here, its words in `app.core.bases`, its signs in `signs.SIGNS` where it comes as a single file,
and its tests on the zoo: docs/drivers.md, "Adding a family".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from app.core.bases import meant_by
from tasks.machine.drivers.contract import CannotDraw

Guidance = Literal["classifier-free", "distilled", "none"]
"""How a family follows the prompt: by a second prediction without it (which doubles the work and is where a negative
prompt comes in), by a number that the network was trained to obey, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row."""

    name: str
    label: str
    """As people call it."""
    pipelines: Mapping[str, str]
    """diffusers' classes by task: txt2img, img2img, inpaint, controlnet, controlnet_img2img, controlnet_inpaint."""
    steps: int
    guidance_scale: float
    size: int
    """Pixels of a side that it was trained for; what a pipeline says of itself comes first."""
    grid: int = 8
    """Sides are multiples of so many pixels."""
    steps_most: int | None = None
    guidance: Guidance = "classifier-free"
    samplers: Literal["diffusion", "flow", "own"] = "diffusion"
    """Which samplers fit: those for noise prediction, those for flow matching, or the model's own only."""
    half: Literal["float16", "bfloat16"] = "bfloat16"
    """In which half precision it draws where neither the catalogue nor the file says: its numbers fit."""
    file: str | None = None
    """The row that its file looks like; None: itself. Distilled ones differ in nothing that a file shows."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """What its scheduler must be told, whatever the model's own configuration says."""
    activations: float = 0.6
    """GB that drawing one picture of `size` x `size` takes beside the weights, in half precision; see estimate."""
    pack: str = ""
    """A repository whose configuration fits single files of this family, for the sentence that asks for it."""

    @property
    def looks_like(self) -> str:
        """Return the name of the row that a file of this family looks like."""
        return self.file or self.name

    @property
    def takes_negative_prompt(self) -> bool:
        """Say whether a negative prompt changes anything; where it does not, it is ignored."""
        return self.guidance == "classifier-free"


SD = {
    "txt2img": "StableDiffusionPipeline",
    "img2img": "StableDiffusionImg2ImgPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "controlnet": "StableDiffusionControlNetPipeline",
    "controlnet_img2img": "StableDiffusionControlNetImg2ImgPipeline",
    "controlnet_inpaint": "StableDiffusionControlNetInpaintPipeline",
}
XL = {
    "txt2img": "StableDiffusionXLPipeline",
    "img2img": "StableDiffusionXLImg2ImgPipeline",
    "inpaint": "StableDiffusionXLInpaintPipeline",
    "controlnet": "StableDiffusionXLControlNetPipeline",
    "controlnet_img2img": "StableDiffusionXLControlNetImg2ImgPipeline",
    "controlnet_inpaint": "StableDiffusionXLControlNetInpaintPipeline",
}
REFINER = {"img2img": XL["img2img"], "inpaint": XL["inpaint"]}
SD3 = {
    "txt2img": "StableDiffusion3Pipeline",
    "img2img": "StableDiffusion3Img2ImgPipeline",
    "inpaint": "StableDiffusion3InpaintPipeline",
    "controlnet": "StableDiffusion3ControlNetPipeline",
}
FLUX = {
    "txt2img": "FluxPipeline",
    "img2img": "FluxImg2ImgPipeline",
    "inpaint": "FluxInpaintPipeline",
    "controlnet": "FluxControlNetPipeline",
    "controlnet_img2img": "FluxControlNetImg2ImgPipeline",
    "controlnet_inpaint": "FluxControlNetInpaintPipeline",
}
SANA = {"txt2img": "SanaPipeline", "controlnet": "SanaControlNetPipeline"}
SPRINT = {"txt2img": "SanaSprintPipeline", "img2img": "SanaSprintImg2ImgPipeline"}

FLUX_PACK = "black-forest-labs/FLUX.1-{}"
XL_PACK = "stabilityai/stable-diffusion-xl-base-1.0"
TRAILING = {"timestep_spacing": "trailing"}
"""Few-step models are trained to begin at the last timestep: their cards on huggingface.co say so."""

_ROWS = (
    Family(
        name="sd15",
        label="Stable Diffusion 1.5",
        pipelines=SD,
        steps=30,
        guidance_scale=7.5,
        size=512,
        half="float16",
        pack="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    Family(
        name="sd2",
        label="Stable Diffusion 2",
        pipelines=SD,
        steps=30,
        guidance_scale=7.5,
        size=768,
        half="float16",
        activations=1.2,
        pack="stabilityai/stable-diffusion-2-1",
    ),
    Family(
        name="sdxl",
        label="Stable Diffusion XL",
        pipelines=XL,
        steps=30,
        guidance_scale=6.0,
        size=1024,
        half="float16",
        activations=2.5,
        pack=XL_PACK,
    ),
    Family(
        name="sdxl-turbo",
        label="SDXL Turbo",
        pipelines=XL,
        steps=1,
        guidance_scale=0.0,
        size=512,
        half="float16",
        file="sdxl",
        scheduler=TRAILING,
        activations=0.8,
        pack="stabilityai/sdxl-turbo",
    ),
    Family(
        name="sdxl-lightning",
        label="SDXL Lightning",
        pipelines=XL,
        steps=4,
        guidance_scale=0.0,
        size=1024,
        half="float16",
        file="sdxl",
        scheduler=TRAILING,
        activations=2.5,
        pack=XL_PACK,
    ),
    Family(
        name="sdxl-refiner",
        label="SDXL refiner",
        pipelines=REFINER,
        steps=30,
        guidance_scale=6.0,
        size=1024,
        half="float16",
        activations=2.5,
        pack="stabilityai/stable-diffusion-xl-refiner-1.0",
    ),
    Family(
        name="sd3",
        label="Stable Diffusion 3",
        pipelines=SD3,
        steps=28,
        guidance_scale=4.5,
        size=1024,
        grid=16,
        samplers="flow",
        activations=2.5,
        pack="stabilityai/stable-diffusion-3.5-large",
    ),
    Family(
        name="sd3-turbo",
        label="SD 3.5 Large Turbo",
        pipelines=SD3,
        steps=4,
        guidance_scale=0.0,
        size=1024,
        grid=16,
        samplers="flow",
        file="sd3",
        activations=2.5,
        pack="stabilityai/stable-diffusion-3.5-large-turbo",
    ),
    Family(
        name="flux-dev",
        label="FLUX.1 dev",
        pipelines=FLUX,
        steps=28,
        guidance_scale=3.5,
        size=1024,
        grid=16,
        guidance="distilled",
        samplers="flow",
        activations=2.8,
        pack=FLUX_PACK.format("dev"),
    ),
    Family(
        name="flux-schnell",
        label="FLUX.1 schnell",
        pipelines=FLUX,
        steps=4,
        guidance_scale=0.0,
        size=1024,
        grid=16,
        guidance="none",
        samplers="flow",
        activations=2.8,
        pack=FLUX_PACK.format("schnell"),
    ),
    Family(
        name="sana",
        label="Sana",
        pipelines=SANA,
        steps=20,
        guidance_scale=4.5,
        size=1024,
        grid=32,
        samplers="flow",
        activations=2.0,
        pack="Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
    ),
    Family(
        name="sana-sprint",
        label="Sana Sprint",
        pipelines=SPRINT,
        steps=2,
        guidance_scale=4.5,
        size=1024,
        grid=32,
        steps_most=4,
        guidance="distilled",
        samplers="own",
        activations=2.0,
        pack="Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    ),
)
FAMILIES: Mapping[str, Family] = {row.name: row for row in _ROWS}


def of_pipeline(class_name: str) -> list[Family]:
    """Return the rows that a class of diffusers draws for, the plain ones before the distilled ones."""
    return [row for row in _ROWS if class_name in row.pipelines.values()]


def of_base(base: str | None) -> list[Family]:
    """Return the rows that a catalogue's word for a family may mean; none for a word that nobody knows."""
    return [FAMILIES[name] for name in meant_by(base)]


def settled(found: str, base: str | None, name: str) -> Family:
    """Return the row of a model whose file looks like the row `found`, refined by what the catalogue calls it.

    Raises CannotDraw where the catalogue contradicts the file; `name` is the model's, for the sentence.
    """
    meant = of_base(base)
    fitting = [row for row in meant if row.looks_like == found]
    if meant and not fitting:
        looks = FAMILIES[found].label
        raise CannotDraw(
            f"the catalogue says that the base of {name} is {base}, and the file is one of {looks}: "
            f"set base to {found} there, or leave it out"
        )
    # A word that means several rows, such as `flux`, leaves it to the file.
    return next((row for row in fitting if row.name == found), fitting[0]) if fitting else FAMILIES[found]
