"""The header of a safetensors file: what tensors are in it, without reading one of them.

The format is that of huggingface/safetensors, README, "Format": eight bytes of length, JSON, then the tensors.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.machine.drivers.contract import CannotDraw

HEADER_LIMIT = 100_000_000
"""Bytes; the reference reader refuses more."""

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F4",), 4),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    """In safetensors' spelling, such as F16."""
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return how many numbers it has."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Return how long it is in the file, bytes."""
        return self.count * BITS.get(self.dtype, 32) // 8

    @property
    def is_float(self) -> bool:
        """Say whether it is loaded in the precision that is drawn with."""
        return self.dtype.startswith(("F", "BF"))


Tensors = Mapping[str, Tensor]


def read(path: Path) -> dict[str, Tensor]:
    """Read the header of a safetensors file; raises CannotDraw for what is none, or is not all there."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else HEADER_LIMIT + 1
            size = path.stat().st_size
            if not 2 <= length <= HEADER_LIMIT or 8 + length > size:
                raise CannotDraw(f"{path.name} is no safetensors file, or only the beginning of one: {size} bytes")
            header = json.loads(file.read(length))
        found = {name: tensor_of(each) for name, each in header.items() if name != "__metadata__"}
        end = max((int(each["data_offsets"][1]) for name, each in header.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise CannotDraw(f"the header of {path.name} is no description of tensors: {type(exc).__name__}") from exc
    if 8 + length + end != size:
        raise CannotDraw(f"{path.name} has {size} bytes, and its header speaks of {8 + length + end}: fetch it again")
    return found


def metadata_of(path: Path) -> dict[str, str]:
    """Return what the author of a safetensors file wrote into its header; nothing for a file that is none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= HEADER_LIMIT else {}
        found = header.get("__metadata__") or {}
        return {str(key): str(each) for key, each in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def tensor_of(entry: Mapping[str, object]) -> Tensor:
    """Read one entry of a header. Raises `KeyError`, `TypeError` or `ValueError` when it is none."""
    shape = entry["shape"]
    if not isinstance(shape, list) or not isinstance(entry["dtype"], str):
        raise TypeError("shape")
    return Tensor(entry["dtype"], tuple(int(side) for side in shape))
