"""What galleries do with pictures: look for them, see them in small, keep them in mind, delete them."""

import io
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from app import thumbnails
from app.api.application import make_application
from app.core.fleet import Fleet
from app.core.tables import Job
from app.settings import Settings
from tests.builders import a_completed_job
from tests.support.fakes import Clock
from tests.support.web import Client, client_of


def listed(client: Client, **query: Any) -> list[str]:
    answer = client.get("/v1/images", query_string=query)
    assert answer.status_code == 200, answer.text
    return [each["image_id"] for each in answer.json["images"]]


def a_picture(fleet: Fleet, **order: Any) -> str:
    return str(a_completed_job(fleet, **order).images[0].id)


def test_pictures_are_found_by_a_part_of_their_prompt_in_any_case(client: Client, fleet: Fleet) -> None:
    fox = a_picture(fleet, prompt="A red Fox, 100% wool")
    a_picture(fleet, prompt="a grey heron")

    assert listed(client, search="red FOX") == [fox]
    assert listed(client, search="100%") == [fox]
    assert listed(client, search="1_0") == []
    assert listed(client, search="\x00") == []


def test_pictures_are_found_by_when_they_were_drawn(client: Client, fleet: Fleet, clock: Clock) -> None:
    first = a_picture(fleet)
    clock.advance(60)
    between = (clock.now - timedelta(seconds=30)).isoformat()
    second = a_picture(fleet)

    assert listed(client, since=between) == [second]
    assert listed(client, before=between) == [first]


def test_a_favourite_is_kept_in_mind_and_can_be_looked_for(client: Client, fleet: Fleet) -> None:
    one, other = a_picture(fleet), a_picture(fleet)

    told = client.patch(f"/v1/images/{one}", json={"favourite": True})

    assert told.status_code == 200
    assert told.json["favourite"] is True
    assert listed(client, favourite="true") == [one]
    assert listed(client, favourite="false") == [other]
    client.patch(f"/v1/images/{one}", json={"favourite": False})
    assert listed(client, favourite="true") == []


def test_a_deleted_picture_is_gone_with_its_bytes_and_its_job_stays(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)
    (image,) = job.images
    client.get(f"/v1/images/{image.id}/thumbnail")

    assert client.delete(f"/v1/images/{image.id}").status_code == 204

    assert client.get(f"/v1/images/{image.id}").status_code == 404
    assert client.delete(f"/v1/images/{image.id}").status_code == 404
    with pytest.raises(KeyError):
        fleet.images.get(image.key)
    shown = client.get(f"/v1/jobs/{job.id}").json
    assert (shown["status"], shown["images"]) == ("completed", [])


def test_a_client_changes_its_own_pictures_only(fleet: Fleet, settings: Settings) -> None:
    tokens = ("alice:client:of-alice", "ops:operator:of-ops")
    client = client_of(make_application(fleet, replace(settings, api_tokens=tokens)))
    job = a_completed_job(fleet)
    with fleet.transaction() as tx:
        tx.session.get_one(Job, job.id).owner = "bob"
    path = f"/v1/images/{job.images[0].id}"

    as_alice, as_operator = ({"Authorization": f"Bearer {secret}"} for secret in ("of-alice", "of-ops"))

    assert client.patch(path, json={"favourite": True}, headers=as_alice).status_code == 403
    assert client.delete(path, headers=as_alice).status_code == 403
    assert client.delete(path, headers=as_operator).status_code == 204


def test_a_large_picture_is_shown_in_small_and_the_small_one_is_kept(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)
    (image,) = job.images
    file = io.BytesIO()
    Image.new("RGB", (1600, 800), "teal").save(file, "PNG")
    fleet.images.put(image.key, file.getvalue())
    with fleet.transaction() as tx:
        kept = tx.session.get_one(type(image), image.id)
        kept.width, kept.height = 1600, 800

    answers = [client.get(f"/v1/images/{image.id}/thumbnail") for _ in range(2)]

    assert answers[0].data == answers[1].data
    with Image.open(io.BytesIO(answers[0].data)) as small:
        assert (small.format, small.size) == ("WEBP", (thumbnails.SIDE, thumbnails.SIDE // 2))
    again = client.get(f"/v1/images/{image.id}/thumbnail", headers={"If-None-Match": answers[0].headers["ETag"]})
    assert again.status_code == 304
    fleet.images.delete(image.key)
    assert client.get(f"/v1/images/{image.id}/thumbnail").status_code == 200
    client.delete(f"/v1/images/{image.id}")
    assert client.get(f"/v1/images/{image.id}/thumbnail").status_code == 404


def test_a_small_picture_is_its_own_thumbnail(client: Client, fleet: Fleet) -> None:
    image = a_picture(fleet)

    assert client.get(f"/v1/images/{image}/thumbnail").data == client.get(f"/v1/images/{image}").data


@pytest.mark.parametrize("body", [{}, {"favourite": "very"}, {"favourite": True, "colour": "red"}])
def test_a_change_that_is_none_is_refused(client: Client, fleet: Fleet, body: dict[str, Any]) -> None:
    assert client.patch(f"/v1/images/{a_picture(fleet)}", json=body).status_code == 422


def test_a_picture_that_nobody_has_is_not_found(client: Client) -> None:
    for method, path in (("PATCH", ""), ("DELETE", ""), ("GET", "/thumbnail")):
        answer = client.open(f"/v1/images/{uuid4()}{path}", method=method, json={"favourite": True})
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "image_not_found")
