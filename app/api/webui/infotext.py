"""Generation parameters as Automatic1111 writes them into its files, both ways.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, create_infotext in modules/processing.py, and
parse_generation_parameters in modules/infotext_utils.py.
"""

import io
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from app import pictures
from app.api.door import Refused, settings

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
CHARSET_BYTES = 8
"""An EXIF comment begins with the name of its character set. Source: EXIF 2.32, section 4.6.5."""

ENTRY = re.compile(r'(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""Its own expression, but for the bound on names: without one a long line of letters takes minutes."""

LONGEST = 100_000
"""Characters that are looked at; ten times the longest prompt."""

LEAST_ENTRIES = 3
"""A last line with fewer of them belongs to the prompt."""


def infotext(prompt: str, negative_prompt: str, facts: Mapping[str, Any]) -> str:
    """Write the parameters of one picture; facts that are None are left out."""
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in facts.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def parse(text: str) -> dict[str, str]:
    """Read the parameters of a picture; every value is text, sizes come apart into `Size-1` and `Size-2`."""
    *lines, last = text.strip()[:LONGEST].split("\n")
    if len(ENTRY.findall(last)) < LEAST_ENTRIES:
        lines, last = [*lines, last], ""
    whole, _, negative = "\n".join(lines).partition("Negative prompt:")
    found = {"Prompt": whole.strip(), "Negative prompt": negative.strip()}
    for name, value in ENTRY.findall(last):
        plain = _unquoted(value.strip())
        if size := re.fullmatch(r"(\d+)x(\d+)", plain):
            found |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            found[name] = plain
    return found


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def read_picture(data: bytes) -> tuple[str, dict[str, str]]:
    """Return a picture's infotext, empty where it has none, and its other texts. No pixel is decoded.

    Raises Refused for what is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            kind = pictures.kind_to_open(data, settings().max_input_pixels)
            with Image.open(io.BytesIO(data), formats=[kind]) as picture:
                texts = {str(n): value for n, value in picture.info.items() if isinstance(value, str)}
                comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    except (*pictures.BROKEN, pictures.UnusablePicture, UnidentifiedImageError, Warning) as exc:
        raise Refused(422, "invalid_image", "Invalid encoded image") from exc
    found = texts.pop("parameters", "") or _comment(comment)
    return found, texts


def _comment(comment: Any) -> str:
    if not isinstance(comment, bytes):
        return ""
    charset, text = comment[:CHARSET_BYTES], comment[CHARSET_BYTES:]
    return text.decode("utf-16-be" if charset.startswith(b"UNICODE") else "utf-8", errors="replace").strip("\0")
