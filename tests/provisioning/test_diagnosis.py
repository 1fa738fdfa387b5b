"""Every failure is told apart, and says what to do. One row each; the other files test the same at more length."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any

import pytest

from provisioning.transport import named
from tests.provisioning.conftest import MIB, Fleet, Provision, some_bytes
from tests.provisioning.hub import COMMIT, gate, serve_repository
from tests.provisioning.origin import Fault, Handler, Origin, Served, cut_after, other_bytes, stall, status, web_page

BODY = some_bytes(2 * MIB)
OTHER = some_bytes(2 * MIB, seed=1)
REPOSITORY = "owner/name"
FILE = f"/{REPOSITORY}/resolve/{COMMIT}/model.bin"


@dataclass(frozen=True)
class Case:
    """What goes wrong, what it has to be called, and a word of what the operator is told to do."""

    code: str
    advice: str
    fault: Fault | None = None
    arrange: Callable[[Origin], None] = lambda origin: None
    entry: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def ask_for_token(origin: Origin) -> None:
    origin.files["/a"].token = "another"


def tell_another_hash(origin: Origin) -> None:
    origin.files["/a"].headers["X-Linked-ETag"] = f'"{sha256(OTHER).hexdigest()}"'


def tell_the_hash(origin: Origin) -> None:
    origin.files["/a"].headers["X-Linked-ETag"] = f'"{sha256(BODY).hexdigest()}"'


def never_the_same(origin: Origin) -> None:
    marks = count()

    def fault(handler: Handler, served: Served) -> bool:
        handler.serve(served, etag=f'"{next(marks)}"')
        return True

    origin.always["/a"] = fault


CASES = {
    "not in the catalogue": Case("not_found", "check MACHINE_MODELS_NEEDED"),
    "not at its origin": Case("gone_upstream", "check download_url", status(404)),
    "needs a token": Case("needs_token", "set HF_TOKEN", arrange=ask_for_token, settings={"hf_endpoint": True}),
    "token refused": Case(
        "token_refused",
        "set a new HF_TOKEN",
        arrange=ask_for_token,
        settings={"hf_endpoint": True, "hf_token": "hf_mine"},
    ),
    "licence not accepted": Case(
        "licence_not_accepted",
        f"/{REPOSITORY} with the token's account, accept the licence",
        entry={"download_url": FILE},
        arrange=lambda origin: gate(origin, REPOSITORY),
        settings={"hf_endpoint": True, "hf_token": "hf_mine"},
    ),
    "an unknown host refuses": Case("forbidden", "needs no login", status(403)),
    "truncated": Case("truncated", "try again", cut_after(100)),
    "a web page": Case("web_page", "open it in a browser", web_page()),
    "another file upstream": Case("upstream_changed", "pin the revision", arrange=tell_another_hash),
    "a file that goes on changing": Case("upstream_changed", "pin the revision", arrange=never_the_same),
    "catalogue hash wrong": Case(
        "catalogue_hash_wrong", "correct the catalogue", arrange=tell_the_hash, entry={"hash": "md5:" + "0" * 32}
    ),
    "always the same wrong bytes": Case("hash_mismatch", "correct the hash", other_bytes(OTHER)),
    "disk full": Case("disk_full", "larger disk", entry={"size_bytes": 10**16}),
    "no route": Case(
        "no_route", "check that this machine can reach it", entry={"download_url": "http://127.0.0.1:9/a"}
    ),
    "no such host": Case("no_route", "check DNS", entry={"download_url": "http://no-such-host.invalid/a"}),
    "too slow": Case("too_slow", "PROVISION_STALL_SECONDS", stall(5), settings={"stall_seconds": 0.2}),
    "busy": Case("origin_busy", "try again later", status(429, Retry_After="0")),
    "broken": Case("origin_broken", "try again later", status(500)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_failure_has_its_own_name_and_says_what_to_do(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    case: Case,
) -> None:
    serve_repository(origin, REPOSITORY, {"model.bin": BODY})
    url = origin.serve("/a", BODY)
    entry = {"download_url": url, **case.entry}
    if entry["download_url"].startswith("/"):
        entry["download_url"] = origin.url + entry["download_url"]
    fleet.add("a", entry.pop("download_url"), BODY, **entry)
    if case.fault is not None:
        origin.always["/a"] = case.fault
    case.arrange(origin)
    settings = {name: origin.url if value is True else value for name, value in case.settings.items()}

    if case.code == "not_found":
        del fleet.entries["a"]

    run = provision("a", **settings)

    assert run.code("a") == case.code, run.message("a")
    assert case.advice in run.message("a")
    assert not run.file("a.bin").exists()


def test_a_server_that_speaks_plain_http_is_told_from_one_whose_certificate_is_not_trusted() -> None:
    said, heard = ssl.MemoryBIO(), ssl.MemoryBIO()
    said.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as failure:
        ssl.create_default_context().wrap_bio(said, heard, server_hostname="fleet.example").do_handshake()

    told = str(named(failure.value, "https://fleet.example/a?token=secret"))

    assert told.startswith("https://fleet.example/a does not speak TLS; is it http:// there"), told


def test_what_an_unknown_host_refuses_never_asks_for_a_token_that_would_not_be_sent(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    fleet.add("mirror", f"{origin.url}/a", BODY, auth_provider="huggingface")
    origin.always["/a"] = status(403)

    run = provision("a", "mirror", hf_token="hf_mine")

    assert "set HF_TOKEN" not in run.message("a") + run.message("mirror")
    assert "point HF_ENDPOINT at it" in run.message("mirror")


def test_a_gated_repository_without_a_token_names_the_page_too(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("gated", origin.serve(FILE, BODY), BODY)
    fleet.add("unknown", origin.serve("/owner/nothing/resolve/main/x.bin", BODY), BODY)
    origin.always[FILE] = status(401, X_Error_Code="GatedRepo")
    origin.always["/owner/nothing/resolve/main/x.bin"] = status(401, X_Error_Code="RepoNotFound")

    run = provision("gated", "unknown", hf_endpoint=origin.url)

    assert f"accepted the licence at {origin.url}/{REPOSITORY}" in run.message("gated")
    assert "there is no such repository" in run.message("unknown")
    assert run.code("gated") == run.code("unknown") == "needs_token"
