"""/doc: the page over the API's descriptions, and its files."""

import json
import re
from html import unescape

import pytest

from app.api.pages.doc import FILES
from tests.support.web import Client


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def test_the_page_lists_every_description_there_is(guarded: Client) -> None:
    page = guarded.get("/doc")

    documents = json.loads(unescape(re.findall(r'data-documents="([^"]*)"', page.text)[0]))
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert documents[0]["url"] == "/openapi.json"
    assert "/openapi/sdapi.json" in {each["url"] for each in documents}
    assert {guarded.get(each["url"]).status_code for each in documents} == {200}


def test_the_page_has_no_script_or_style_within_it_and_its_policy_allows_none(client: Client) -> None:
    page = client.get("/doc")

    assert not re.findall(r"<style|<script>|\son\w+=|\sstyle=", page.text)
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert "unsafe" not in page.headers["Content-Security-Policy"]


def test_everything_that_the_page_needs_is_served_by_us(client: Client) -> None:
    needed = re.findall(r'(?:src|href)="([^"]+)"', client.get("/doc").text)

    assert not [address for address in needed if "//" in address]
    for address in needed:
        with client.get(f"/{address.lstrip('/')}") as answer:
            assert answer.status_code == 200, address


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_once_and_then_known(client: Client, name: str) -> None:
    with client.get(f"/doc/{name}") as first:
        tag = first.headers["ETag"]

    assert first.status_code == 200
    with client.get(f"/doc/{name}", headers={"If-None-Match": tag}) as again:
        assert again.status_code == 304


@pytest.mark.parametrize(
    "name", ["index.html", "swagger-ui.js", "oauth2-redirect.html", "..%2f__init__.py", "%2fetc%2fpasswd"]
)
def test_nothing_else_of_the_package_is_handed_out(client: Client, name: str) -> None:
    assert client.get(f"/doc/{name}").status_code == 404
