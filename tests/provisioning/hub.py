"""A tiny hub: what Hugging Face answers for one repository, on a loopback origin."""

import json
from hashlib import sha1, sha256

from tests.provisioning.origin import Origin, Served, status

COMMIT = "c0ffee" * 6 + "c0ff"


def serve_repository(
    origin: Origin,
    name: str,
    files: dict[str, bytes],
    *,
    revision: str = "main",
    token: str | None = None,
    page_size: int = 100,
) -> None:
    """Serve a repository; files that end like weights are in LFS, and come from a redirect as there."""
    api = f"/api/models/{name}"
    _json(origin, f"{api}/revision/{revision}", {"sha": COMMIT}, token)
    rows = [_row(path, body) for path, body in files.items()]
    pages = [rows[start : start + page_size] for start in range(0, len(rows), page_size)]
    tree = f"{api}/tree/{COMMIT}"
    for number, page in enumerate(pages):
        path = tree if number == 0 else f"{tree}/page{number}"
        _json(origin, path, page, token)
        if number + 1 < len(pages):
            origin.files[path].headers["Link"] = f'<{origin.url}{tree}/page{number + 1}>; rel="next"'
    for path, body in files.items():
        resolve = f"/{name}/resolve/{COMMIT}/{path}"
        if "lfs" in _row(path, body):
            origin.serve(f"/cdn/{name}/{path}", body)
            linked = {"X-Linked-ETag": f'"{sha256(body).hexdigest()}"'}
            origin.serve(resolve, b"", redirect=f"/cdn/{name}/{path}?sig=1", headers=linked, token=token)
        else:
            origin.serve(resolve, body, token=token)


def gate(origin: Origin, name: str) -> None:
    """Answer as for a repository whose licence the account has not accepted."""
    for path in list(origin.files):
        if name in path:
            origin.always[path] = status(403, X_Error_Code="GatedRepo")


def _row(path: str, body: bytes) -> dict[str, object]:
    row: dict[str, object] = {"type": "file", "path": path, "size": len(body)}
    if path.endswith((".safetensors", ".bin", ".ckpt")):
        return {**row, "oid": "0" * 40, "lfs": {"oid": sha256(body).hexdigest(), "size": len(body)}}
    return {**row, "oid": sha1(f"blob {len(body)}\0".encode() + body).hexdigest()}


def _json(origin: Origin, path: str, content: object, token: str | None) -> None:
    origin.files[path] = Served(json.dumps(content).encode(), type="application/json", ranges=False, token=token)
