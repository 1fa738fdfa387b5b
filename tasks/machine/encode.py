"""From a drawn picture to the bytes of a file that tells how it was drawn."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL.Image import Exif, Image

from app.core import captions, samplers
from app.core.spec import MAX_SEED, GenerationSpec, nth_seed
from tasks.machine import png
from tasks.machine.drivers.contract import Picture

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

QUALITIES = {"jpeg": 92, "webp": 90}
"""Where the order does not say."""

EXIF_FOLDER, USER_COMMENT = 0x8769, 0x9286
"""Where Automatic1111 writes `parameters` in JPEG and WebP. Source: modules/images.py, save_image_with_geninfo."""

SEGMENT = 65_000
"""Bytes that a JPEG file has for EXIF, and again for XMP, less their heads; what is longer is left out."""

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:imagefleet="https://imagefleet.invalid/ns/1.0/" imagefleet:order={}/>'
    "</rdf:RDF></x:xmpmeta>"
)
"""Our own JSON in JPEG and WebP."""

PREVIEW_SIDE = 256
"""Most pixels of a preview's side."""

PREVIEW_BYTES = 20_000
PREVIEW_QUALITIES = (75, 60, 45, 30, 15)
"""The first that is small enough is taken."""


def encode(
    picture: Picture, spec: GenerationSpec, receipt: Mapping[str, Any] | None = None
) -> tuple[dict[str, str | int], bytes]:
    """Return what is to be said about a picture, and its file, which tells how it was drawn and by what."""
    own = of_one(spec, picture.seed)
    notes = {"notes": list(picture.notes)} if picture.notes else {}
    known = json.dumps(own.to_json() | notes | ({"receipt": receipt} if receipt else {}), ensure_ascii=False)
    words = parameters(own)
    if spec.image_format == "png":
        data = png.write(picture.image, {"parameters": words}, {"imagefleet": known})
    else:
        data = _lossy(picture.image, spec, words, known)
    about: dict[str, str | int] = {
        "seed": picture.seed,
        "width": picture.image.width,
        "height": picture.image.height,
        "media_type": MEDIA_TYPES[spec.image_format],
        "sha256": sha256(data).hexdigest(),
    }
    return about, data


def _lossy(image: Image, spec: GenerationSpec, words: str, known: str) -> bytes:
    exif = Exif()
    # EXIF 2.32, 4.6.5 "UserComment": eight bytes name the code. As piexif writes it, for Automatic1111.
    exif.get_ifd(EXIF_FOLDER)[USER_COMMENT] = b"UNICODE\0" + words.encode("utf-16-be", "surrogatepass")
    written = {"exif": exif.tobytes(), "xmp": XMP.format(quoteattr(known)).encode()}
    fitting = {name: each for name, each in written.items() if len(each) < SEGMENT}
    quality = QUALITIES[spec.image_format] if spec.image_quality is None else spec.image_quality
    file = io.BytesIO()
    shown = image.convert("RGB") if spec.image_format == "jpeg" else image
    shown.save(file, spec.image_format, quality=quality, **fitting)
    return file.getvalue()


def encode_preview(image: Image) -> bytes:
    """Make a JPEG of at most PREVIEW_SIDE pixels a side and, but for pure noise, PREVIEW_BYTES."""
    small = image.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    data = b""
    for quality in PREVIEW_QUALITIES:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= PREVIEW_BYTES:
            break
    return data


def of_one(spec: GenerationSpec, seed: int) -> GenerationSpec:
    """Return the order that draws one picture of an order again, alone."""
    position = (seed - (spec.seed or 0)) & MAX_SEED
    subseed = None if spec.subseed is None else nth_seed(spec.subseed, position)
    return replace(spec, seed=seed, subseed=subseed, n=1)


def parameters(spec: GenerationSpec) -> str:
    """Write the generation parameters of one picture as Automatic1111 does into its PNG files.

    Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/processing.py, create_infotext.
    """
    sampler, schedule = samplers.split(spec.scheduler) if spec.scheduler else (None, None)
    facts = {
        "Steps": spec.steps,
        "Sampler": sampler,
        "Schedule type": schedule or (sampler and samplers.UNIFORM),
        "CFG scale": spec.guidance_scale,
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}" if spec.width and spec.height else None,
        "Model": spec.model_id,
        "Variation seed": spec.subseed if spec.subseed_strength else None,
        "Variation seed strength": spec.subseed_strength or None,
        "Clip skip": spec.clip_skip if spec.clip_skip and spec.clip_skip > 1 else None,
        **captions.facts_of(spec),
    }
    lines = [spec.prompt]
    if spec.negative_prompt:
        lines.append(f"Negative prompt: {spec.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None))
    return "\n".join(lines)
