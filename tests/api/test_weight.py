"""What a first load weighs: what is the same for everybody is squeezed and kept, and nothing else is."""

import gzip
import re
from collections.abc import Mapping

import pytest

from app.api.pages.assets import FOLDER
from app.core.fleet import Fleet
from tests.builders import a_completed_job
from tests.support.web import Client

PUBLIC = ["/", "/static/style.css", "/static/js/main.js", "/doc", "/doc/swagger-ui.css", "/openapi.json"]
SQUEEZED: Mapping[str, str] = {"Accept-Encoding": "br, gzip;q=0.8"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_public_is_squeezed_for_who_can_take_it(client: Client, path: str) -> None:
    plain = client.get(path)
    small = client.get(path, headers=SQUEEZED)

    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == plain.data
    assert len(small.data) < len(plain.data) / 2
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert "Accept-Encoding" in small.headers["Vary"]
    assert small.headers["ETag"] != plain.headers["ETag"]


@pytest.mark.parametrize("encodings", ["identity", "gzip;q=0", "br"])
def test_who_cannot_take_it_gets_it_as_it_is(client: Client, encodings: str) -> None:
    answer = client.get("/static/style.css", headers={"Accept-Encoding": encodings})

    assert answer.data == (FOLDER / "style.css").read_bytes()


@pytest.mark.parametrize("path", PUBLIC)
def test_who_has_it_already_is_told_so(client: Client, path: str) -> None:
    tag = client.get(path, headers=SQUEEZED).headers["ETag"]

    again = client.get(path, headers={**SQUEEZED, "If-None-Match": tag})
    otherwise = client.get(path, headers={"If-None-Match": tag})

    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == tag
    assert otherwise.status_code == 200


@pytest.mark.parametrize("path", ["/v1/images", "/v1/jobs", "/v1/models", "/metrics", "/health"])
def test_what_is_not_the_same_for_everybody_is_never_squeezed(client: Client, fleet: Fleet, path: str) -> None:
    for _ in range(5):
        a_completed_job(fleet, prompt="the same words again and again " * 20)

    answer = client.get(path, headers=SQUEEZED)

    assert answer.status_code == 200
    assert "Content-Encoding" not in answer.headers


def test_files_of_this_version_are_kept_for_ever_and_others_asked_for_again(client: Client) -> None:
    page = client.get("/").text
    (style,) = re.findall(r'href="(/static/v-[0-9a-f]{16}/style.css)"', page)

    ours = client.get(style)
    other = client.get("/static/v-0123456789abcdef/style.css")
    bare = client.get("/static/style.css")

    assert ours.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert other.headers["Cache-Control"] == bare.headers["Cache-Control"] == "no-cache"
    assert ours.data == other.data == bare.data


def test_every_module_of_the_first_load_is_asked_for_at_once_in_one_version(client: Client) -> None:
    named = re.findall(r'(?:href|src)="(/static/[^"]+\.js)"', client.get("/").text)
    folder = named[0].rpartition("/")[0]

    assert {address.rpartition("/")[0] for address in named} == {folder}
    assert {address.rpartition("/")[2] for address in named} == needed_by("main.js")
    for address in named:
        answer = client.get(address)
        assert (answer.status_code, answer.mimetype) == (200, "text/javascript")


def needed_by(name: str) -> set[str]:
    """Return the modules that one needs before it can begin, itself among them."""
    found, open_ends = set(), [name]
    while open_ends:
        each = open_ends.pop()
        if each not in found:
            found.add(each)
            text = (FOLDER / "js" / each).read_text(encoding="utf-8")
            open_ends += re.findall(r'^import [^;]*?from "\./(.+?)";', text, re.MULTILINE)
    return found
