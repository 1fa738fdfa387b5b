"""A picture of each model from Civitai: fetched by the control worker over real HTTP, kept small, shown by us."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from app import thumbnails
from app.core import enrichments
from app.core.fleet import Fleet
from provisioning.settings import Settings as Downloads
from tasks.control import civitai_pictures
from tasks.control.civitai import Civitai
from tasks.control.civitai_pictures import keeper_of
from tasks.control.enrich import Enricher
from tests.builders import MODEL, a_model
from tests.support.civitai import Behaviour, CivitaiServer, a_civitai, a_version, drip, flood, hang_up, status
from tests.support.processes import WAIT_SECONDS
from tests.support.web import Client

SHA = "ab" * 32
TOKEN = "civitai-token-that-nobody-may-see"
PICTURE = f"/v1/models/{MODEL}/picture"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """All of this is about HTTP and pictures, not about SQL."""
    return sqlite_url


@pytest.fixture
def site() -> Iterator[CivitaiServer]:
    with a_civitai() as site:
        yield site


def downloads(site: CivitaiServer, **more: Any) -> Downloads:
    given: dict[str, Any] = {
        "allow_private_addresses": True,
        "civitai_token": TOKEN,
        "stall_seconds": WAIT_SECONDS,
    } | more
    return Downloads(civitai_endpoint=site.url, **given)


def a_photo(size: tuple[int, int] = (800, 600), kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    photo = Image.effect_mandelbrot(size, (-2.0, -1.2, 1.0, 1.2), 30).convert("RGB")
    photo.save(file, kind, **({"exif": b"Exif\x00\x00secret place"} if kind == "JPEG" else {}))
    return file.getvalue()


def shows(site: CivitaiServer, *levels: int | None) -> dict[str, Any]:
    """Make an answer with a picture of each of these ratings."""
    pictures = [{"url": f"{site.url}/{place}.jpeg", "nsfwLevel": level} for place, level in enumerate(levels)]
    return a_version(images=pictures)


def enrich(fleet: Fleet, site: CivitaiServer, known: dict[str, Any], *answers: Behaviour) -> list[str]:
    """Let the control worker ask, and then fetch; returns what it fetched."""
    a_model(fleet, hash=f"sha256:{SHA}")
    with fleet.transaction() as tx:
        enrichments.owe(tx, [SHA])
    site.plan = [status(200, known), *answers]
    keeper = keeper_of(downloads(site), fleet.images)
    Enricher(fleet, Civitai(downloads(site)), keeper).run()
    return [path for path, _ in site.asked[1:]]


def test_a_picture_is_fetched_once_made_small_and_served_by_us(
    client: Client, fleet: Fleet, site: CivitaiServer
) -> None:
    fetched = enrich(fleet, site, shows(site, 1), status(200, a_photo()))

    (model,) = client.get("/v1/models").json["models"]
    answer = client.get(PICTURE)
    again = client.get(PICTURE, headers={"If-None-Match": answer.headers["ETag"]})
    assert fetched == ["/0.jpeg"]
    assert model["civitai"]["picture_url"].endswith(PICTURE)
    assert model["civitai"]["trained_words"] == ["dreamy", "dream shaper"]
    assert (answer.status_code, answer.mimetype, again.status_code) == (200, "image/webp", 304)
    with Image.open(io.BytesIO(answer.data)) as small:
        assert small.size == (thumbnails.SIDE, thumbnails.SIDE * 600 // 800)
    assert b"secret place" not in answer.data


def test_only_pictures_that_are_rated_for_everybody_are_fetched(
    client: Client, fleet: Fleet, site: CivitaiServer
) -> None:
    fetched = enrich(fleet, site, shows(site, 2, 4, None, 1), status(200, a_photo()))

    assert fetched == ["/3.jpeg"]
    assert client.get(PICTURE).status_code == 200


def test_a_model_whose_pictures_are_not_for_everybody_has_none(
    client: Client, fleet: Fleet, site: CivitaiServer
) -> None:
    fetched = enrich(fleet, site, shows(site, 2, 8, 16))

    assert fetched == []
    assert client.get("/v1/models").json["models"][0]["civitai"]["picture_url"] is None
    assert client.get(PICTURE).status_code == 404


@pytest.mark.parametrize(
    "bad", [status(404), status(200, b"<svg/>"), status(200, a_photo()[:900]), hang_up, flood, drip]
)
def test_the_next_picture_is_taken_where_one_cannot_be_had(
    client: Client, fleet: Fleet, site: CivitaiServer, bad: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(civitai_pictures, "MOST_BYTES", 1 << 20)
    if bad is drip:  # the bound is on all that is fetched: long enough for the good one where the computer is busy
        monkeypatch.setattr(civitai_pictures.PictureKeeper.__init__, "__defaults__", (4.0,))

    fetched = enrich(fleet, site, shows(site, 1, 1), bad, status(200, a_photo(kind="PNG")))

    assert fetched == ["/0.jpeg", "/1.jpeg"]
    assert client.get(PICTURE).status_code == 200


def test_a_picture_of_too_many_pixels_is_never_decoded(fleet: Fleet, site: CivitaiServer) -> None:
    bomb = a_photo((64, 64), "PNG").replace((64).to_bytes(4) * 2, (60_000).to_bytes(4) * 2, 1)

    enrich(fleet, site, shows(site, 1), status(200, bomb))

    with pytest.raises(KeyError):
        fleet.images.get(enrichments.picture_key(SHA))


def test_no_picture_is_fetched_from_a_private_address(fleet: Fleet, site: CivitaiServer) -> None:
    keeper = keeper_of(downloads(site, allow_private_addresses=False), fleet.images)
    found = {"images": [{"url": f"{site.url}/0.jpeg", "nsfw_level": 1}]}

    completed = keeper.completed(SHA, enrichments.Finding(found))

    assert completed.found == found
    assert site.asked == []


def test_the_token_is_shown_to_no_host_of_pictures(fleet: Fleet, site: CivitaiServer) -> None:
    enrich(fleet, site, shows(site, 1), status(200, a_photo()))

    asked, fetched = (headers for _, headers in site.asked)
    assert TOKEN in asked["authorization"]
    assert "authorization" not in fetched
