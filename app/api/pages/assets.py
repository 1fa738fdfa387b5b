"""The page's own files, under addresses that name their version: browsers keep them, and never hold an old one.

The version is of all files together, and a folder in the address: modules that import each other by relative addresses
(`./api.js`) stay in one version, without a build step. An address of another version, from a page that an older or
newer server has sent, gets what is here; it is just not kept.
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from flask import Response, abort
from flask_smorest import Blueprint

import app
from app.api import serving
from app.api.pages import public

FOLDER = Path(app.__file__).parent / "static"

MEDIA_TYPES: Mapping[str, str] = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Fixed, whatever this computer thinks of endings: browsers refuse modules of another type."""

Standing = tuple[tuple[str, int, int], ...]
"""The files by their names, when each was written, and how large it is."""


def address(name: str) -> str:
    """Return where a file of the page is, in the version that is here."""
    return f"/static/{_version(_standing())}/{name}"


def add_routes(blueprint: Blueprint) -> None:
    """Add the files."""

    @blueprint.get("/static/<path:filename>")
    @blueprint.response(200, serving.FILE, content_type="application/octet-stream")
    @blueprint.alt_response(304, description="you have it already", success=True)
    def show_asset(filename: str) -> Response:
        """Hand out a file of the page; the folder before its name may say in which version it is wanted."""
        standing = _standing()
        known = {name: (name, at, size) for name, at, size in standing}
        version, _, rest = filename.partition("/")
        name = rest if version.startswith("v-") else filename
        if name not in known:
            abort(404)
        data, media_type = _read(*known[name]), MEDIA_TYPES[Path(name).suffix]
        return public.answer(data, media_type, is_versioned=version == _version(standing))


def _standing() -> Standing:
    """Look what is there: who works on the page sees each change at once."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in MEDIA_TYPES)
    return tuple((path.relative_to(FOLDER).as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in found)


@lru_cache(maxsize=4)
def _version(standing: Standing) -> str:
    """Return a name for the content of all files: the same on every server that has the same files."""
    digest = sha256()
    for name, at, size in standing:
        digest.update(f"{name} {size}\n".encode() + _read(name, at, size))
    return f"v-{digest.hexdigest()[:16]}"


@lru_cache(maxsize=128)
def _read(name: str, _written_at: int, _size: int) -> bytes:
    return (FOLDER / name).read_bytes()
