"""What goes along with a model for one order and takes memory beside it: weighed before anything is loaded."""

from collections.abc import Mapping

from app.core.spec import GenerationSpec
from tasks.machine.drivers import safety, upscalers
from tasks.machine.drivers.contract import Order
from tasks.machine.drivers.estimate import weight_of_files


def weigh(order: Order, dtype: str) -> dict[str, int]:
    """Return what an order's companions take there, bytes by id; `dtype` is torch's, that its model is drawn in.

    Embeddings are too small to count, and what looks at finished pictures from an ONNX file does so elsewhere. Raises
    CannotDraw for broken files.
    """
    found = {}
    for model_id, precision in _precisions(order.spec, dtype).items():
        files = order.companions.get(model_id)
        if files is not None:
            found[model_id] = weight_of_files(files.path, precision)
    return found


def _precisions(spec: GenerationSpec, dtype: str) -> Mapping[str, str]:
    drawn_with = [spec.vae_id, *(lora.model_id for lora in spec.loras), *(each.model_id for each in spec.controls)]
    enlarged_with = [each.upscaler for each in (spec.hires, spec.upscale) if each is not None]
    checked_with = [spec.safety_checker] if spec.safety_check else []
    return {
        **dict.fromkeys(filter(None, drawn_with), dtype),
        **dict.fromkeys(enlarged_with, upscalers.PRECISION),
        **dict.fromkeys(filter(None, checked_with), safety.PRECISION),
    }
