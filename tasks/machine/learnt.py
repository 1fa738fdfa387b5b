"""What a machine has learnt, kept from one start to the next: small lists as JSON."""

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def write(file: Path, rows: list[list[Any]]) -> None:
    """Keep rows in a file, whole or not at all; a disk that is full must not cost a picture, and is only told."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(rows), encoding="utf-8")
        part.replace(file)
    except OSError as exc:
        log.warning("%s cannot be written: %s", file, exc)
