"""What Civitai knows of the catalogue: asked by the control worker over real HTTP, kept in real databases."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.api.application import make_application
from app.broker import make_celery
from app.core import enrichments
from app.core.dispatch import CONTROL_QUEUE, ENRICH, SWEEP
from app.core.enrichments import (
    FOUND_SECONDS,
    GIVEN_UP_SECONDS,
    HOLD_SECONDS,
    LONGEST_WAIT,
    MOST_TRIES,
    NOT_FOUND_SECONDS,
    Finding,
    wait_before_next,
)
from app.core.fleet import Fleet
from app.core.tables import Enrichment
from app.settings import Settings
from provisioning.settings import Settings as Downloads
from tasks.control import civitai
from tasks.control.civitai import Civitai
from tasks.control.civitai_answer import LONGEST, LONGEST_DESCRIPTION, MOST_PICTURES, MOST_WORDS, Unreadable, read
from tasks.control.enrich import MOST_AT_ONCE, Enricher
from tasks.control.schedule import register_enrichment
from tests.builders import MODEL, a_model
from tests.support.civitai import (
    Behaviour,
    CivitaiServer,
    a_civitai,
    a_version,
    drip,
    flood,
    hang,
    hang_up,
    status,
)
from tests.support.fakes import Clock
from tests.support.processes import WAIT_SECONDS, Process, wait_until
from tests.support.servers import environ_of
from tests.support.web import Client, client_of

SHA = "ab" * 32
AUTO_V2 = "0123456789"
TOKEN = "civitai-token-that-nobody-may-see"

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is about HTTP, not about SQL."""


@pytest.fixture
def site() -> Iterator[CivitaiServer]:
    with a_civitai() as site:
        yield site


@pytest.fixture
def downloads(site: CivitaiServer) -> Downloads:
    """Return what the control worker's downloads are told: where Civitai is, and that it may be on loopback."""
    return asking(site)


def asking(site: CivitaiServer, stall_seconds: float = WAIT_SECONDS) -> Downloads:
    known = {"civitai_endpoint": site.url, "civitai_token": TOKEN, "allow_private_addresses": True}
    return Downloads(**known, stall_seconds=stall_seconds)  # type: ignore[arg-type]  # of several types


@pytest.fixture
def enricher(fleet: Fleet, downloads: Downloads) -> Enricher:
    return Enricher(fleet, Civitai(downloads, total_seconds=WAIT_SECONDS))


def the_row(fleet: Fleet, wanted: str = SHA) -> Enrichment:
    with fleet.reading() as session:
        return session.get_one(Enrichment, wanted)


def owe(fleet: Fleet, *hashes: str) -> None:
    with fleet.transaction() as tx:
        enrichments.owe(tx, hashes or [SHA])


def listed(client: Client, kind: str = "models") -> dict[str, Any]:
    (found,) = client.get(f"/sdapi/v1/{kind}").json
    shown: dict[str, Any] = found
    return shown


def test_who_lists_a_model_waits_for_nothing_and_finds_later_what_civitai_knows(
    client: Client, fleet: Fleet, enricher: Enricher, site: CivitaiServer
) -> None:
    a_model(fleet, hash=f"sha256:{SHA.upper()}")
    site.known[SHA.upper()] = a_version()

    first = listed(client)
    asked_by_the_request = list(site.asked)
    enricher.run()
    second = listed(client)
    whole = client.get(f"/sdapi/v1/models/{MODEL}").json["civitai"]

    assert (first["civitai_status"], first["civitai"], asked_by_the_request) == ("pending", None, [])
    assert (second["civitai_status"], site.hashes) == ("found", [SHA.upper()])
    assert second["civitai"] == {
        "model_id": 112902,
        "version_id": 128713,
        "name": "DreamShaper",
        "version": "8",
        "type": "Checkpoint",
        "base_model": "SD 1.5",
        "trained_words": ["dreamy", "dream shaper"],
        "nsfw": False,
        "url": f"{site.url}/models/112902?modelVersionId=128713",
    }
    assert {name: whole[name] for name in whole if name not in second["civitai"]} == {
        "description": "Better eyes.\nAnd hands & feet.",
        "air": "urn:air:sd1:checkpoint:civitai:112902@128713",
        "published_at": "2023-07-29T05:58:30.116Z",
        "updated_at": "2024-01-02T03:04:05.678Z",
        "stats": {"downloads": 123456, "thumbs_up": 789},
        "images": [{"url": "https://image.civitai.com/a.jpeg", "width": 512, "height": 768, "nsfw_level": 1}],
    }


def test_a_lora_is_looked_up_by_its_autov2(
    client: Client, fleet: Fleet, enricher: Enricher, site: CivitaiServer
) -> None:
    a_model(fleet, "styled", kind="lora", hash=AUTO_V2)
    site.known[AUTO_V2] = a_version(model={"name": "Styled", "type": "LORA"})

    listed(client, "loras")
    enricher.run()

    shown = client.get("/sdapi/v1/loras/styled").json
    assert (shown["name"], shown["civitai"]["name"], shown["civitai"]["type"]) == ("styled", "Styled", "LORA")


def test_what_is_found_is_asked_once_a_month(
    fleet: Fleet, client: Client, enricher: Enricher, site: CivitaiServer, clock: Clock
) -> None:
    a_model(fleet, hash=SHA)
    site.known[SHA.upper()] = a_version()
    listed(client)
    enricher.run()

    clock.advance(FOUND_SECONDS - 1)
    listed(client)
    enricher.run()
    fresh = len(site.asked)
    clock.advance(2)
    enricher.run()
    nobody_looked = len(site.asked)
    shown = listed(client)
    enricher.run()

    assert (fresh, nobody_looked, len(site.asked)) == (1, 1, 2)
    assert shown["civitai_status"] == "found"


def test_what_civitai_does_not_know_is_asked_once_a_week(
    fleet: Fleet, client: Client, enricher: Enricher, site: CivitaiServer, clock: Clock
) -> None:
    a_model(fleet, hash=SHA)
    listed(client)
    enricher.run()

    shown = listed(client)
    enricher.run()
    clock.advance(NOT_FOUND_SECONDS - 1)
    listed(client)
    enricher.run()
    within_a_week = len(site.asked)
    clock.advance(2)
    listed(client)
    enricher.run()

    assert (shown["civitai_status"], shown["civitai"]) == ("not_found", None)
    assert (within_a_week, len(site.asked)) == (1, 2)


@on_one_database
@pytest.mark.parametrize(
    ("behaviour", "trouble"),
    [
        (status(500), "Civitai answered 500"),
        (status(503, Retry_After="7"), "Civitai answered 503"),
        (status(401), "CIVITAI_TOKEN"),
        (status(418), "Civitai answered 418"),
        (hang, "sent nothing for a while"),
        (drip, "more than 1 s to answer"),
        (hang_up, "broke the connection"),
        (flood, f"more than {civitai.MOST_BYTES} bytes"),
        (status(200, b"<html>log in</html>"), "cannot be read"),
        (status(200, b"[" * 200_000), "cannot be read"),
        (status(200, [1, 2]), "cannot be read"),
        (status(200, {"id": "x", "modelId": None}), "cannot be read"),
        (status(200, b'"\xff\xfe"'), "cannot be read"),
        (status(302, Location="file:///etc/passwd"), "redirects to"),
    ],
)
def test_whatever_civitai_does_the_question_is_asked_again_later(
    fleet: Fleet,
    enricher: Enricher,
    site: CivitaiServer,
    clock: Clock,
    behaviour: Behaviour,
    trouble: str,
) -> None:
    hurried = Civitai(
        asking(site, 0.5 if behaviour is hang else WAIT_SECONDS), 1.0 if behaviour is drip else WAIT_SECONDS
    )
    site.plan = [behaviour]
    site.known[SHA.upper()] = a_version()
    owe(fleet)

    Enricher(fleet, hurried).run()
    wait_until(lambda: site.asked, "who was not waited for has come to it")
    row = the_row(fleet)
    enricher.run()
    at_once = len(site.asked)
    clock.advance(LONGEST_WAIT)
    enricher.run()

    assert trouble in str(row.error)
    assert (at_once, len(site.asked)) == (1, 2)
    assert (the_row(fleet).error, the_row(fleet).found is None) == (None, False)


def test_who_asks_for_rest_gets_it_for_all_questions(
    fleet: Fleet, enricher: Enricher, site: CivitaiServer, clock: Clock
) -> None:
    site.plan = [status(429, Retry_After="1800")]
    owe(fleet, *(f"{number:064x}" for number in range(3)))

    enricher.run()
    clock.advance(1799)
    enricher.run()
    resting = len(site.asked)
    clock.advance(2)
    enricher.run()

    assert (resting, len(site.asked)) == (1, 4)


def test_one_answer_that_cannot_be_read_holds_up_no_other_question(
    fleet: Fleet, enricher: Enricher, site: CivitaiServer
) -> None:
    site.plan = [status(200, b"garbage")]
    owe(fleet, *(f"{number:064x}" for number in range(3)))

    enricher.run()

    assert len(site.asked) == 3


def test_after_many_failures_it_rests_for_a_day(
    fleet: Fleet, client: Client, enricher: Enricher, site: CivitaiServer, clock: Clock
) -> None:
    a_model(fleet, hash=SHA)
    listed(client)
    site.plan = [status(500)] * (MOST_TRIES + 1)
    for _ in range(MOST_TRIES + 3):
        enricher.run()
        clock.advance(LONGEST_WAIT)

    shown, tried = listed(client), len(site.asked)
    clock.advance(GIVEN_UP_SECONDS)
    listed(client)
    enricher.run()

    assert (shown["civitai_status"], tried, len(site.asked)) == ("unavailable", MOST_TRIES, MOST_TRIES + 1)


def test_an_old_answer_is_shown_while_a_new_one_cannot_be_had(
    fleet: Fleet, client: Client, enricher: Enricher, site: CivitaiServer, clock: Clock
) -> None:
    a_model(fleet, hash=SHA)
    site.known[SHA.upper()] = a_version()
    listed(client)
    enricher.run()
    clock.advance(FOUND_SECONDS + 1)
    listed(client)

    site.plan = [status(500)]
    enricher.run()

    assert (listed(client)["civitai_status"], len(site.asked)) == ("found", 2)


def test_a_round_asks_some_and_no_more(fleet: Fleet, enricher: Enricher, site: CivitaiServer) -> None:
    owe(fleet, *(f"{number:064x}" for number in range(MOST_AT_ONCE + 2)))

    rounds = [enricher.run() for _ in range(3)]

    assert rounds == [MOST_AT_ONCE, 2, 0]
    assert len(set(site.hashes)) == len(site.asked) == MOST_AT_ONCE + 2


def test_a_question_whose_asker_died_is_asked_by_another(fleet: Fleet, clock: Clock) -> None:
    owe(fleet)

    def take() -> str | None:
        with fleet.transaction() as tx:
            return enrichments.take(tx)

    first, second = take(), take()
    clock.advance(HOLD_SECONDS)

    assert (first, second, take()) == (SHA, None, SHA)


def test_owing_what_is_owed_or_known_already_changes_nothing(fleet: Fleet, clock: Clock) -> None:
    owe(fleet)
    clock.advance(5)
    owe(fleet, SHA, SHA, AUTO_V2)
    with fleet.transaction() as tx:
        enrichments.record(tx, AUTO_V2, Finding())
    owe(fleet, AUTO_V2)

    with fleet.reading() as session:
        due = {row.hash: row.due_at for row in session.scalars(select(Enrichment))}
    assert due == {SHA: clock.now - timedelta(seconds=5), AUTO_V2: None}


@pytest.mark.parametrize("failures", range(1, 10))
def test_waits_grow_up_to_six_hours_and_are_never_short(failures: int) -> None:
    shortest, longest = wait_before_next(failures, 0.0), wait_before_next(failures, 1.0)

    assert 30 <= shortest < longest <= LONGEST_WAIT
    assert longest == min(60 * 3 ** (failures - 1), LONGEST_WAIT)


@on_one_database
@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"hash": SHA, "tags": ["private"]}, "private"),
        ({"hash": SHA, "origin": "built-in"}, "private"),
        ({"hash": SHA, "model_id": "in-house-1"}, "private"),
        ({"hash": None}, "no_hash"),
        ({"hash": "0a1b2c3d"}, "no_hash"),
        ({"hash": "ab" * 16}, "no_hash"),
    ],
)
def test_models_that_are_private_or_have_no_such_hash_are_never_asked_for(
    fleet: Fleet, settings: Settings, enricher: Enricher, site: CivitaiServer, about: dict[str, Any], said: str
) -> None:
    client = client_of(make_application(fleet, replace(settings, private_models=("other", "in-house-*"))))
    a_model(fleet, **about)

    shown = listed(client)

    assert (shown["civitai_status"], enricher.run(), site.asked) == (said, 0, [])


@on_one_database
def test_switched_off_nobody_is_asked_and_nothing_is_owed(
    fleet: Fleet, settings: Settings, enricher: Enricher, site: CivitaiServer
) -> None:
    a_model(fleet, hash=SHA)

    shown = listed(client_of(make_application(fleet, replace(settings, civitai_metadata=False))))

    assert (shown["civitai_status"], shown["civitai"]) == ("off", None)
    assert (enricher.run(), site.asked) == (0, [])


def test_a_control_worker_that_may_not_ask_does_not_know_how(tmp_path: Path) -> None:
    environ = environ_of(tmp_path, BROKER_URL="redis://127.0.0.1:1/0", CIVITAI_METADATA="0")
    code = "from tasks.control.app import app; print(sorted(app.tasks), sorted(app.conf.beat_schedule))"

    said = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    ).stdout

    assert SWEEP in said
    assert ENRICH not in said


@on_one_database
def test_the_control_worker_asks_by_schedule(fleet: Fleet, settings: Settings, enricher: Enricher) -> None:
    control = make_celery(settings)
    control.conf.beat_schedule = {}

    register_enrichment(control, enricher)

    (entry,) = control.conf.beat_schedule.values()
    assert (entry["task"], entry["options"]["queue"]) == (ENRICH, CONTROL_QUEUE)
    assert entry["options"]["expires"] <= entry["schedule"]


@on_one_database
def test_the_token_travels_in_a_header_and_stands_in_no_log(
    fleet: Fleet, enricher: Enricher, site: CivitaiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.plan = [status(500)]
    owe(fleet)

    enricher.run()

    ((path, headers),) = site.asked
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert "Civitai answered 500" in caplog.text
    assert not [text for text in (path, caplog.text, str(the_row(fleet).error)) if TOKEN in text]


@on_one_database
def test_the_token_does_not_follow_to_another_site(fleet: Fleet, enricher: Enricher, site: CivitaiServer) -> None:
    with a_civitai() as other:
        site.plan = [status(302, Location=f"{other.url}/elsewhere")]
        owe(fleet)

        enricher.run()

    ((path, headers),) = other.asked
    assert (path, "authorization" in headers) == ("/elsewhere", False)


@on_one_database
def test_an_address_of_our_own_network_is_not_asked_unless_that_is_allowed(
    fleet: Fleet, downloads: Downloads, site: CivitaiServer
) -> None:
    owe(fleet)

    Enricher(fleet, Civitai(replace(downloads, allow_private_addresses=False))).run()

    assert "ALLOW_PRIVATE_ADDRESSES=1" in str(the_row(fleet).error)
    assert site.asked == []


def test_texts_of_strangers_are_cut_and_what_has_a_wrong_type_is_left_out() -> None:
    wild = a_version(
        name=7,
        baseModel="x" * 1000,
        description="<style>p {}</style>" + "<p>long</p>" * 3000,
        trainedWords=["w"] * 1000,
        stats="many",
        publishedAt="nul\x00",
        images=[{"url": f"https://x.example/{n}"} for n in range(50)] + ["x", {"url": "http://[bad"}, {"url": "//x"}],
    )

    found = read(wild, "https://civitai.test")

    assert (found["version"], found["published_at"], found["stats"]["downloads"]) == (None, None, None)
    assert len(found["base_model"]) == LONGEST
    assert len(found["description"]) <= LONGEST_DESCRIPTION
    assert "p {}" not in found["description"]
    assert (len(found["trained_words"]), len(found["images"])) == (MOST_WORDS, MOST_PICTURES)
    assert len(json.dumps(found)) < 20_000


@pytest.mark.parametrize("answer", [None, 7, "x", [], {}, {"id": True, "modelId": 1}, {"id": -1, "modelId": 1}])
def test_what_is_no_version_is_unreadable(answer: Any) -> None:
    with pytest.raises(Unreadable):
        read(answer, "https://civitai.test")


@on_one_database
def test_a_real_control_worker_asks_what_a_reader_is_owed(
    client: Client, fleet: Fleet, site: CivitaiServer, tmp_path: Path, database_url: str, broker_url: str
) -> None:
    a_model(fleet, hash=SHA)
    site.known[SHA.upper()] = a_version()
    environ = environ_of(
        tmp_path,
        DATABASE_URL=database_url,
        BROKER_URL=broker_url,
        CIVITAI_ENDPOINT=site.url,
        CIVITAI_TOKEN=TOKEN,
        ALLOW_PRIVATE_ADDRESSES="1",
        LOG_LEVEL="DEBUG",
    )
    words = "--quiet --app=tasks.control.app worker --queues=control --beat --scheduler=celery.beat:Scheduler"
    command = [sys.executable, "-m", "celery", *words.split(), f"--schedule={tmp_path}/beat"]
    listed(client)

    process = Process(command, tmp_path / "control.log", environ=environ, dies_with_us=True)
    try:
        wait_until(lambda: listed(client)["civitai_status"] == "found", "it is found")
    finally:
        process.cut_off()

    assert site.hashes == [SHA.upper()]
    assert TOKEN not in process.said()
