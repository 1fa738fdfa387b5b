"""A look at a file that is what was promised, to see whether it can be a model at all.

A catalogue made from a download that went wrong holds the right hash of a web page. A `.safetensors` file says
in its first bytes how long it must be (huggingface/safetensors, README, "Format").
"""

import json
from collections.abc import Callable
from pathlib import Path

from provisioning.errors import BadFormat

HEADER_LIMIT = 100_000_000
"""Bytes; the reference reader refuses more."""
MODEL_SUFFIXES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".sft"})


def check(path: Path, name: str) -> None:
    """Raise `BadFormat` if a file that calls itself a model cannot be one. `path` may be its part."""
    suffix = Path(name).suffix.lower()
    if suffix not in MODEL_SUFFIXES:
        return
    with path.open("rb") as file:
        head = file.read(4096)
        if looks_like_web_page(head):
            raise BadFormat(f"{name} has the right hash and is a web page: {_words(head)!r}; correct the catalogue")
        if suffix in {".safetensors", ".sft"}:
            size = path.stat().st_size
            trouble = _trouble_with_safetensors(head, size, file.read)
            if trouble:
                raise BadFormat(
                    f"{name} has the right hash and is no usable safetensors file: {trouble}; correct the catalogue"
                )


def looks_like_web_page(head: bytes) -> bool:
    """Tell whether a file begins like HTML or XML, or like the JSON of an error."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b'{"error'))


def _words(head: bytes) -> str:
    return head[:80].decode("utf-8", "replace")


def _trouble_with_safetensors(head: bytes, size: int, more: Callable[[int], bytes]) -> str | None:
    if size < 8:
        return f"it has {size} bytes, expected at least 8"
    length = int.from_bytes(head[:8], "little")
    if length > HEADER_LIMIT or 8 + length > size:
        return f"its header claims {length} bytes, the file has {size}"
    header = head[8 : 8 + length] + (more(8 + length - len(head)) if 8 + length > len(head) else b"")
    try:
        tensors = json.loads(header)
        spans = sorted(tuple(each["data_offsets"]) for name, each in tensors.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its header is no description of tensors"
    position = 0
    for first, last in spans:
        if first != position or last < first:
            return f"its tensors have a hole at byte {position}"
        position = last
    if 8 + length + position != size:
        return f"its tensors end at byte {8 + length + position}, the file has {size}"
    return None
