"""What huggingface_hub has left on this machine: its cache names large files by their SHA-256.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache, "Understand caching".
"""

from collections.abc import Mapping
from pathlib import Path

from provisioning.digests import Digest


def folder_of(environ: Mapping[str, str]) -> Path | None:
    """Return where the cache is, as huggingface_hub decides it; None if that cannot be told."""
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    try:
        return Path(environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    except RuntimeError:
        return None


def find(folder: Path | None, digest: Digest) -> Path | None:
    """Return a file of the cache that should have this content. Its name is no proof; who takes it hashes it."""
    if folder is None or digest.algorithm != "sha256":
        return None
    try:
        return next((path for path in folder.glob(f"models--*/blobs/{digest.hex}") if path.is_file()), None)
    except OSError:
        return None
