"""What Automatic1111 writes into its pictures about how they began and grew. Pure: machines import this too.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/processing.py, extra_generation_params and create_infotext.
"""

from typing import Any

from app.core.extras import STRENGTH, Control
from app.core.spec import GenerationSpec

MASKED_CONTENT = {"fill": "fill", "noise": "latent noise", "nothing": "latent nothing"}
"""Its words for what is under a mask; it says nothing where that is the original."""


def strength_of(spec: GenerationSpec) -> float | None:
    """Return the "Denoising strength" of an order: of its picture, or of its second pass; None without either."""
    if spec.image is not None:
        return STRENGTH if spec.strength is None else spec.strength
    return spec.hires.strength if spec.hires else None


def facts_of(spec: GenerationSpec) -> dict[str, Any]:
    """Return what is said about pictures to begin with and sizes to end with; None is left out of the text."""
    found: dict[str, Any] = {"Denoising strength": strength_of(spec)}
    if spec.mask is not None:
        found |= {
            "Mask blur": spec.mask.blur or None,
            "Mask mode": "Inpaint not masked" if spec.mask.inverted else None,
            "Inpaint area": "Only masked" if spec.mask.only_masked else None,
            "Masked area padding": spec.mask.padding if spec.mask.only_masked else None,
            "Masked content": MASKED_CONTENT.get(spec.mask.fill),
        }
    if spec.hires is not None:
        found |= {
            "Hires upscale": _plain(spec.hires.scale),
            "Hires steps": spec.hires.steps,
            "Hires upscaler": spec.hires.upscaler,
        }
    if spec.upscale is not None:
        found |= {
            "Postprocess upscale by": _plain(spec.upscale.factor),
            "Postprocess upscaler": spec.upscale.upscaler,
        }
    return found | {f"ControlNet {number}": _unit(control) for number, control in enumerate(spec.controls)}


def _unit(control: Control) -> str:
    """Describe what steers as the extension sd-webui-controlnet does, source: its scripts/infotext.py."""
    told = {
        "Module": control.kind if control.annotate else "none",
        "Model": control.model_id,
        "Weight": control.weight,
        "Guidance Start": control.start,
        "Guidance End": control.end,
    }
    return ", ".join(f"{name}: {value}" for name, value in told.items())


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number
