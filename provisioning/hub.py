"""Repositories on Hugging Face, or on anything that speaks its API (``HF_ENDPOINT``).

``hf://owner/name[@revision][/path][?include=…&exclude=…]`` names one file, or all that a pipeline needs. The revision
is resolved to its commit first, and every file is proved by the hash that the commit holds: SHA-256 for files in
LFS or Xet storage, Git's own SHA-1 for the small ones. The files then come by our own transfer from ``/resolve/``;
docs/provisioning.md says why not through huggingface_hub (sizes only, from zero after a kill, thrice the processor).
API: https://huggingface.co/docs/hub/api, "Repo listing API".
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from provisioning import layout
from provisioning.digests import Digest, parse
from provisioning.errors import BadEntry, BadHash, GoneUpstream, OriginBroken
from provisioning.origin import refusal
from provisioning.transport import Transport

SCHEME = "hf"
NEXT_PAGE = re.compile(r'<([^>]+)>;\s*rel="next"')
PAGES = 1000
ANSWER_LIMIT = 64 << 20
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf")
NEVER = (
    ".git*",
    "*/.git*",
    "*.msgpack",
    "*.h5",
    "*.onnx",
    "*.onnx_data",
    "*.ot",
    "*openvino*",
    "*.png",
    "*.jpg",
    "*.md",
)
"""Files for other frameworks, and pictures; ``include`` brings them all the same."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository, or one file in it, as a catalogue entry names it."""

    id: str
    revision: str = "main"
    path: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "Repository":
        """Read an ``hf://`` address. Raises `BadEntry`."""
        parts = urlsplit(url)
        names = [each for each in f"{parts.netloc}{parts.path}".split("/") if each]
        if len(names) < 2 or parts.scheme != SCHEME:
            raise BadEntry(
                f"{url!r} names no repository; expected hf://owner/name, hf://owner/name@revision/path/to/file"
            )
        name, _, revision = names[1].partition("@")
        query = parse_qs(parts.query)
        return cls(
            id=f"{names[0]}/{name}",
            revision=revision or "main",
            path="/".join(names[2:]) or None,
            include=tuple(query.get("include", ())),
            exclude=tuple(query.get("exclude", ())),
        )


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit, with the hash that the commit holds."""

    path: str
    size: int
    digest: Digest
    url: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """The API of a hub."""

    def __init__(self, endpoint: str, transport: Transport) -> None:
        self.endpoint = endpoint
        self.transport = transport

    def snapshot(self, repository: Repository) -> Snapshot:
        """Return the commit that a revision is now, and the files of it that are wanted.

        Raises `OriginError`, `AccessError`, and `GoneUpstream` when nothing in the repository is wanted.
        """
        api = f"{self.endpoint}/api/models/{quote(repository.id)}"
        commit = str(self._get(f"{api}/revision/{quote(repository.revision, safe='')}")[0]["sha"])
        rows: list[dict[str, Any]] = []
        page: str | None = f"{api}/tree/{commit}?recursive=true"
        for _ in range(PAGES):
            if page is None:
                break
            answer, page = self._get(page)
            rows.extend(each for each in answer if each.get("type") == "file")
        resolve = f"{self.endpoint}/{quote(repository.id)}/resolve/{commit}"
        try:
            found = [_file(row, resolve) for row in rows]
        except (KeyError, TypeError, ValueError, BadHash) as error:
            raise OriginBroken(f"{api} lists files in a way that we do not understand: {error!r}") from error
        wanted = tuple(wanted_files(found, repository))
        if not wanted:
            what = repository.path or "any wanted file"
            raise GoneUpstream(
                f"{self.endpoint}/{repository.id} has no {what} at {repository.revision} ({commit[:12]})"
            )
        return Snapshot(commit, wanted)

    def _get(self, url: str) -> tuple[Any, str | None]:
        """Return an answer's JSON, and the address of the next page (RFC 8288)."""
        reply = self.transport.open(url, {"Accept": "application/json"})
        try:
            if reply.status != 200:
                raise refusal(reply, self.transport.tokens, url, "huggingface")
            following = NEXT_PAGE.search(reply.headers.get("Link", ""))
            return json.loads(reply.read(ANSWER_LIMIT)), following[1] if following else None
        except ValueError as error:
            raise OriginBroken(f"{url} answered with something else than JSON: {error}") from error
        finally:
            reply.close(keep=True)


def _file(row: dict[str, Any], resolve: str) -> HubFile:
    path, lfs = str(row["path"]), row.get("lfs")
    digest = parse(f"sha256:{lfs['oid'].removeprefix('sha256:')}") if lfs else Digest("gitsha1", str(row["oid"]))
    return HubFile(path, int(row["size"]), digest, f"{resolve}/{quote(path)}")


def wanted_files(files: Iterable[HubFile], repository: Repository) -> list[HubFile]:
    """Choose what a pipeline needs, as diffusers does: safetensors before other weights, no second precision."""
    files = list(files)
    if repository.path is not None:
        return [each for each in files if each.path == repository.path]
    if repository.include:
        chosen = [each for each in files if _matches(each.path, repository.include)]
    else:
        chosen = _by_default(files)
    return [each for each in chosen if not _matches(each.path, repository.exclude)]


def _by_default(files: list[HubFile]) -> list[HubFile]:
    is_pipeline = any(each.path == "model_index.json" for each in files)
    with_safetensors = {PurePosixPath(each.path).parent for each in files if each.path.endswith(".safetensors")}
    names = {each.path for each in files}

    def is_wanted(file: HubFile) -> bool:
        path = PurePosixPath(file.path)
        if _matches(file.path, NEVER):
            return False
        if path.suffix in WEIGHTS and path.suffix != ".safetensors" and path.parent in with_safetensors:
            return False
        if is_pipeline and len(path.parts) == 1 and path.suffix in WEIGHTS:
            return False
        return _plain_variant(file.path) not in names - {file.path}

    return [each for each in files if is_wanted(each)]


def _plain_variant(path: str) -> str:
    """Return the name that the full precision of a file has: model.fp16.safetensors is a second model.safetensors."""
    return re.sub(r"\.(fp16|bf16|fp32|non_ema)(?=[.-])", "", path)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def is_hub_address(url: str) -> bool:
    """Tell whether an address names a repository instead of a file on the web."""
    return url.startswith(f"{SCHEME}://")


def save_path_of(file: HubFile, repository: Repository, save_path: str) -> str:
    """Return where a file of a repository goes: below `save_path`, or, if it is the only one asked for, there."""
    relative = layout.relative_path(save_path)
    return relative.as_posix() if repository.path is not None else f"{relative.as_posix()}/{file.path}"
