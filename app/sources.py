"""Where a model comes from, as a person writes it: `https://...`, `hf:OWNER/REPO`, `civitai:ID`, `s3://...`. Pure."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from app.parse import SettingsError

CIVITAI_DOWNLOAD = "https://civitai.com/api/download/models/{version}"
HUGGING_FACE_FILE = "https://huggingface.co/{repo}/resolve/main/{file}"


def entry_of(  # noqa: PLR0913  # one argument for each option of the command
    source: str,
    *,
    model_id: str | None = None,
    name: str | None = None,
    hash_: str | None = None,
    kind: str = "checkpoint",
    base: str | None = None,
    save_path: str | None = None,
    size_bytes: int | None = None,
    depends_on: Sequence[str] = (),
    auth_provider: str | None = None,
    description: str | None = None,
) -> dict[str, Any]:
    """Make the body of `POST /v1/models`; raises SettingsError for a source in no known form."""
    url, provider = address_of(source)
    file_name = name or PurePosixPath(urlsplit(url).path).name
    entry = {
        "id": model_id,
        "name": file_name,
        "download_url": url,
        "hash": hash_,
        "kind": kind,
        "base": base,
        "save_path": save_path,
        "size_bytes": size_bytes,
        "dependencies": list(depends_on),
        "auth_required": auth_provider is not None,
        "auth_provider": auth_provider or provider,
        "description": description,
    }
    return {key: value for key, value in entry.items() if value is not None}


def address_of(source: str) -> tuple[str, str | None]:
    """Return a source's address and whose token it may need."""
    scheme, _, rest = source.partition(":")
    if scheme in {"https", "http", "s3"} and rest.startswith("//"):
        return source, None
    if scheme == "hf":
        owner, _, path = rest.strip("/").partition("/")
        repo, _, file = path.partition("/")
        if owner and repo:
            whole = f"{owner}/{repo}"
            return (HUGGING_FACE_FILE.format(repo=whole, file=file) if file else f"hf://{whole}"), "huggingface"
    if scheme == "civitai" and rest.isdigit():
        return CIVITAI_DOWNLOAD.format(version=rest), "civitai"
    if scheme == "file" and rest.startswith("/"):
        return f"file:///{rest.lstrip('/')}", None
    raise SettingsError(
        f"{source!r} is no source: write https://..., hf:OWNER/REPO[/FILE], civitai:VERSION_ID, s3://BUCKET/KEY "
        "or file:/PATH"
    )
