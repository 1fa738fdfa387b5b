"""One table of questions, put to every dialect: what is good, and what is wrong in any way."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import create_engine

from app import database
from app.api import waiting
from app.api.application import DIALECTS, make_application
from app.api.door import OF_CLIENTS, Auth
from app.core.fleet import Fleet, prepare_engine
from app.settings import Settings
from app.vault import FernetVault
from tests.api.questions import DOORS, WORDS, Door
from tests.builders import MODEL, a_machine, a_model
from tests.support.fakes import Clock, MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.postgres import PostgresServer
from tests.support.web import Client, client_of

WRONG = {400, 413, 415, 422}

REFUSALS = range(400, 500)
GOLDEN = Path(__file__).parent / "golden" / "problems.json"

HEADERS = {
    "Idempotency-Key": ("", "\xff\xfe", "a" * 8_000, "a b"),
    "Prefer": ("\xff\xfe", ";;;,,,===", "wait=" + "9" * 400, "respond-async;=,wait=-1"),
    "Accept": ("", "\xff\xfe", "image/*;q=nan,,/;;"),
    "X-Request-Id": ("\xff\xfe", "a" * 8_000, "\t"),
    "If-None-Match": ("\xff", '"' * 99),
    "Authorization": ("\xff\xfe", "Bearer", "Basic !!!!", "a" * 8_000),
    "Content-Encoding": ("gzip", "\xff"),
}

on_both = pytest.mark.parametrize("served", ["sqlite", "postgresql"], indirect=True, scope="module")
"""For what may reach the database."""


def those(which: Callable[[Door], bool]) -> pytest.MarkDecorator:
    """Put a question to some of the doors."""
    return pytest.mark.parametrize(
        "door", [door for door in DOORS if which(door)], ids=lambda door: f"{door.dialect}:{door.path}"
    )


def auth_of(door: Door) -> Auth:
    """Return who may ask at a door."""
    return next(dialect.auth for dialect in DIALECTS if dialect.name == door.dialect)


each_door = those(lambda _: True)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Have a fleet with a model and a machine that is ready for it; once for all questions, which harm nothing."""
    url = new_database(request, tmp_path_factory.mktemp("questions"))
    engine = prepare_engine(create_engine(url))
    vault = FernetVault(["a secret key for tests"], Path("never-made"))
    fleet = Fleet(engine, RecordingDispatcher(), MemoryImages(), MemoryLive(), clock=Clock(), vault=vault)
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])
    yield fleet
    engine.dispose()


def new_database(request: pytest.FixtureRequest, folder: Path) -> str:
    """Make a migrated, empty database of the kind that is asked for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), folder / 'fleet.db')}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    url = postgres.create("questions")
    engine = create_engine(url)
    database.upgrade(engine)
    engine.dispose()
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return small limits, so that what is too much is quickly made."""
    folder = tmp_path_factory.mktemp("limits")
    return Settings(
        data_dir=folder,
        max_upload_mb=1,
        wait_seconds=0,
        a1111_wait_seconds=0,
        openai_wait_seconds=0,
        max_queued_per_token=10**6,
    ).completed()


@pytest.fixture(scope="module")
def application(served: Fleet, limits: Settings) -> Flask:
    """Return the application of an open server."""
    return make_application(served, limits)


@pytest.fixture
def client(application: Flask) -> Client:
    """Return a client of the open server."""
    return client_of(application)


def guarded(limits: Settings) -> Settings:
    """Return the settings of a server that asks for tokens."""
    return replace(limits, api_tokens=("a-client",), machine_token="a-machine", auth_failures_per_minute=0)


def send(client: Client, door: Door, body: Any = None, **more: Any) -> Any:
    """Put JSON to a door, its good body unless another is given."""
    data = json.dumps(dict(door.good) if body is None else body)
    return send_bytes(client, door, data.encode(), **more)


def send_bytes(
    client: Client, door: Door, data: bytes, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Any:
    """Put bytes to a door, as JSON unless it is said otherwise."""
    known = {"method": door.method, "content_type": "application/json", **more}
    return client.open(door.path, data=data, headers={**door.headers, **(headers or {})}, **known)


def assert_refused(answer: Any, door: Door, *statuses: int) -> None:
    """Assert that a door says no with one of these statuses, in its own shape, and with a sentence."""
    assert answer.status_code in statuses, answer.text
    assert answer.content_type == "application/json"
    assert door.shape <= set(answer.json), answer.text
    assert any(len(text) > len("an error") for text in texts_of(answer.json)), answer.text


def texts_of(value: Any) -> list[str]:
    """Return every text in an answer."""
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in texts_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_of(each)]
    return [value] if isinstance(value, str) else []


def test_every_dialect_that_takes_json_is_asked(application: Flask) -> None:
    posts = {rule.rule for rule in application.url_map.iter_rules() if (rule.methods or set()) & {"POST", "PUT"}}
    asked = {door.dialect for door in DOORS}

    taking = {
        d.name
        for d in DIALECTS
        if any(path.startswith(p.rstrip("/")) for p in d.prefixes if p != "/" for path in posts)
    }
    assert taking == asked


@on_both
@each_door
def test_what_is_good_is_accepted(client: Client, door: Door) -> None:
    answer = send(client, door)

    assert answer.status_code == door.accepted, answer.text


@those(lambda door: door.waits)
def test_an_order_that_is_not_waited_for_says_where_to_ask_for_it(client: Client, door: Door) -> None:
    answer = send(client, door)

    assert answer.status_code == 202
    found = client.get(answer.headers["Location"])
    assert found.status_code == 200, answer.headers["Location"]


@on_both
@each_door
def test_words_in_any_script_are_taken_as_they_are(client: Client, door: Door) -> None:
    words = "кот 猫 🐈‍⬛ ـقطة  naïve\u0301 \u202ertl\u202c \U0010ffff"

    for data in (json.dumps(door.with_text(words)), json.dumps(door.with_text(words), ensure_ascii=False)):
        answer = send_bytes(client, door, data.encode())
        assert answer.status_code == door.accepted, answer.text
        if location := answer.headers.get("Location"):
            told = texts_of(client.get(location).json)
            assert door.dialect == "openai" or any(words in text for text in told) or door.dialect in {"sdapi", "v1"}


@those(lambda door: door.model is not None)
def test_a_model_that_is_unknown_is_named(client: Client, door: Door) -> None:
    unknown: Any = "no-such-model"
    if door.model == "override_settings":
        unknown = {"sd_model_checkpoint": unknown}

    answer = send(client, door, {**door.good, door.model: unknown})

    assert_refused(answer, door, door.unknown)
    assert "no-such-model" in answer.text


@each_door
@pytest.mark.parametrize("value", [{"a": "dictionary"}, [["a list"]], "words", -(10**30), True])
def test_a_number_of_another_kind_is_refused(client: Client, door: Door, value: Any) -> None:
    answer = send(client, door, {**door.good, door.number: value})

    if value is True and door.dialect in {"sdapi", "a1111", "openai"}:
        assert answer.status_code < 500  # true is 1 where real clients' numbers are read leniently
    else:
        assert_refused(answer, door, door.invalid, 400, 404)


@each_door
@pytest.mark.parametrize("value", [{"a": "dictionary"}, 7, False])
def test_words_of_another_kind_are_refused(client: Client, door: Door, value: Any) -> None:
    assert_refused(send(client, door, {**door.good, door.text: value}), door, door.invalid)


@each_door
def test_every_field_may_be_missing_or_null_without_a_failure(client: Client, door: Door) -> None:
    for name in door.good:
        rest = {key: value for key, value in door.good.items() if key != name}
        for body in (rest, {**rest, name: None}):
            answer = send(client, door, body)
            if answer.status_code != door.accepted:
                assert_refused(answer, door, door.invalid, 404)
                assert name in answer.text or door.dialect in {"catalog", "v1"}, answer.text


@each_door
@pytest.mark.parametrize("body", [[], "words", 7, None, True, [1, 2]], ids=repr)
def test_a_body_that_is_no_object_is_refused(client: Client, door: Door, body: Any) -> None:
    answer = send_bytes(client, door, json.dumps(body).encode())

    assert_refused(answer, door, 400, 422)


@each_door
@pytest.mark.parametrize(
    "data", [b"{not json", b"{", b'{"a": }', b"\xff\xfe", b'{"a": 1}}', b"\x00", b"%PDF-1.7"], ids=repr
)
def test_what_is_no_json_is_refused(client: Client, door: Door, data: bytes) -> None:
    assert_refused(send_bytes(client, door, data), door, 400, 422)


@each_door
def test_bytes_that_are_no_utf_8_are_refused(client: Client, door: Door) -> None:
    data = json.dumps(door.with_text("~")).encode().replace(b"~", b"\xc3\x28")

    assert_refused(send_bytes(client, door, data), door, 400, 422)


@each_door
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "", "no/such;;"]
)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["", "chunked"])
def test_another_kind_of_body_is_refused_with_what_to_send(
    client: Client, door: Door, kind: str, is_chunked: bool
) -> None:
    data = json.dumps(dict(door.good)).encode()
    length = {"environ_overrides": {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}} if is_chunked else {}
    headers = {"Transfer-Encoding": "chunked"} if is_chunked else {}

    answer = send_bytes(client, door, data, content_type=kind, headers=headers, **length)

    assert_refused(answer, door, door.other_kind)
    assert "Content-Type: application/json" in answer.text


@each_door
def test_a_body_that_is_too_large_is_refused(client: Client, door: Door) -> None:
    data = json.dumps(door.with_text("a" * 1_100_000)).encode()

    answer = send_bytes(client, door, data)

    assert_refused(answer, door, 413)
    assert "MAX_UPLOAD_MB" in answer.text


@each_door
@pytest.mark.parametrize("start", [b"[", b'{"a":'])
def test_a_body_nested_without_end_is_refused(client: Client, door: Door, start: bytes) -> None:
    assert_refused(send_bytes(client, door, start * 100_000), door, 400, 422)


@each_door
def test_a_field_nested_deeply_is_refused_or_let_be(client: Client, door: Door) -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"a": [deep]}

    answer = send(client, door, {**door.good, "alwayson_scripts": deep, "webhook": deep, "device": deep})

    assert answer.status_code in {door.accepted, *WRONG}, answer.text


@each_door
def test_of_a_field_that_comes_twice_the_last_one_counts(client: Client, door: Door) -> None:
    good = json.dumps(door.with_text(WORDS))

    answer = send_bytes(client, door, (f'{{"{door.text}": {{}}, ' + good[1:]).encode())

    assert answer.status_code == door.accepted, answer.text


@on_both
@each_door
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", str(2**63), str(-(2**70)), "9" * 4000, "1e-400"]
)
def test_numbers_that_no_database_holds_are_refused_or_let_be(client: Client, door: Door, number: str) -> None:
    """Each number of an order, and a few that only some have."""
    for name in (door.number, "seed", "guidance_scale", "width", "wait", "priority"):
        body = json.dumps({**{k: v for k, v in door.good.items() if k != name}, name: "NUMBER"})
        answer = send_bytes(client, door, body.replace('"NUMBER"', number).encode())
        if answer.status_code != door.accepted:
            assert_refused(answer, door, door.invalid, 400, 404)


@on_both
@each_door
@pytest.mark.parametrize(
    "words", ["\x00", "a\x00b", "\ud800", "a\udfffb", "\ufffe\uffff", "\x1b[31m", "\r\nX: y"], ids=ascii
)
def test_text_that_no_database_holds_is_refused_or_let_be(client: Client, door: Door, words: str) -> None:
    """PostgreSQL takes no NUL in a text, and nobody can write half of a character in UTF-8."""
    for name in {**door.good, door.text: ""}:
        before = door.good.get(name)
        if not isinstance(before, str | list | None):
            continue
        answer = send(client, door, {**door.good, name: [words] if isinstance(before, list) else words})
        if answer.status_code != door.accepted:
            assert_refused(answer, door, door.invalid, 400, 404)


@on_both
@each_door
@pytest.mark.parametrize("name", ["\x00", "\ud800", "a" * 10_000, ""], ids=["nul", "half", "long", "empty"])
def test_a_field_of_any_name_is_refused_or_let_be(client: Client, door: Door, name: str) -> None:
    answer = send(client, door, {**door.good, name: {name: [name]}})

    if answer.status_code != door.accepted:
        assert_refused(answer, door, door.invalid)


@each_door
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_with_anything_in_it_breaks_nothing(client: Client, door: Door, header: str) -> None:
    for value in HEADERS[header]:
        answer = send(client, door, headers={header: value})
        if answer.status_code not in {door.accepted, 200}:  # what is preferred may be nothing at all
            assert_refused(answer, door, 400, 413, 422)


@each_door
@pytest.mark.parametrize(
    "query", ["a=" + "b" * 20_000, "%00=%00", "%ff%fe", "&&&==", "model_id=%00&limit=9999999999999999999"]
)
def test_a_query_with_anything_in_it_breaks_nothing(client: Client, door: Door, query: str) -> None:
    for path in (door.path, f"{door.path}/{'x' * 20_000}", f"{door.path}/%00", f"{door.path}/%ff%fe%2e%2e%2f"):
        assert client.get(f"{path}?{query}").status_code < 500, path


@each_door
def test_a_slash_behind_its_path_leads_nowhere(client: Client, door: Door) -> None:
    answer = client.open(door.path + "/", method=door.method, json=dict(door.good))

    assert_refused(answer, door, 404)


@each_door
def test_a_path_that_is_nowhere_is_404_in_its_shape(client: Client, door: Door) -> None:
    for path in (f"{door.path}/no/such/path", f"{door.path}/{uuid4()}/no"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert door.shape <= set(answer.json)


@each_door
@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "PROPFIND", "PURGE", "X" * 300])
def test_a_method_that_is_not_possible_is_405_and_names_those_that_are(client: Client, door: Door, method: str) -> None:
    answer = client.open(door.path, method=method)

    assert_refused(answer, door, 405)
    assert door.method in answer.headers["Allow"]


@each_door
def test_head_is_get_without_a_body_and_options_needs_no_token(
    client: Client, served: Fleet, limits: Settings, door: Door
) -> None:
    allowed = client_of(make_application(served, guarded(limits))).options(door.path)

    assert allowed.status_code == 200
    assert door.method in allowed.headers["Allow"]
    seen, head = client.get(door.path), client.head(door.path)
    assert (head.status_code, head.data) == (seen.status_code, b"")


@each_door
@pytest.mark.parametrize("token", [None, "wrong", "", "a-client\x00", "ключ"])
def test_nobody_comes_in_without_a_right_token(served: Fleet, limits: Settings, door: Door, token: str | None) -> None:
    client = client_of(make_application(served, guarded(limits)))
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode().decode("latin-1")}

    answer = send(client, door, headers=headers)

    if auth_of(door) is Auth.OPEN:
        assert answer.status_code == door.accepted
    else:
        assert_refused(answer, door, 401)
        assert answer.headers["WWW-Authenticate"].endswith('realm="imagefleet"')


@those(lambda door: auth_of(door) in OF_CLIENTS)
def test_too_many_requests_are_told_when_to_come_again(served: Fleet, limits: Settings, door: Door) -> None:
    client = client_of(make_application(served, replace(limits, requests_per_minute=1)))

    first, second = send(client, door), send(client, door)

    assert first.status_code == door.accepted
    assert_refused(second, door, 429)
    assert 0 < int(second.headers["Retry-After"]) <= 60


@those(lambda door: door.dialect in {"simple", "a1111", "openai", "sdapi"})
def test_who_finds_no_seat_to_wait_on_is_told_when_to_come_again(served: Fleet, limits: Settings, door: Door) -> None:
    application = make_application(
        served, replace(limits, wait_seconds=60, openai_wait_seconds=60, a1111_wait_seconds=60)
    )
    waiting.open_room(application, 1)
    client = client_of(application)
    body = {name: value for name, value in door.good.items() if name != "wait"}

    with application.app_context(), waiting.waiting_room().seat():
        answer = send(client, door, body, headers={"Prefer": "wait=1"})

    assert_refused(answer, door, 503)
    assert int(answer.headers["Retry-After"]) > 0


@on_both
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/{}",
        "/v1/machines/{}",
        "/v1/inputs/{}",
        "/api/models/{}",
        "/artifacts/{}",
        "/static/{}",
        "/openapi/{}.json",
    ],
)
@pytest.mark.parametrize(
    "name", ["%00", "a%00b", "%ED%A0%80", "%ff", "..%2f..%2fetc%2fpasswd", "x" * 9_000, "%20", "a%0Ab"]
)
def test_a_name_in_a_path_may_be_anything(client: Client, path: str, name: str) -> None:
    answer = client.get(path.format(name))

    assert answer.status_code in {404, 422}, answer.text
    assert answer.content_type == "application/json"


@on_both
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/jobs", "/v1/models", "/v1/engines", "/v1/images", "/v1/machines"),
        *("/sdapi/v1/jobs", "/sdapi/v1/models", "/sdapi/v1/loras"),
    ],
)
@pytest.mark.parametrize("value", ["%00", "%ED%A0%80", "%ff", "9" * 400, "-1", "NaN", "", "a,b,,c", "x" * 9_000])
def test_a_filter_may_be_anything(client: Client, path: str, value: str) -> None:
    rule = next(
        rule for rule in client.application.url_map.iter_rules() if rule.rule == path and "GET" in (rule.methods or ())
    )
    document = client.get("/openapi.json").json["paths"][rule.rule]["get"]

    for parameter in document["parameters"]:
        answer = client.get(f"{path}?{parameter['name']}={value}")
        assert answer.status_code in {200, 404, 422}, (parameter["name"], answer.text)


@on_both
@pytest.mark.parametrize("words", ["\x00", "\ud800"], ids=ascii)
def test_what_a_machine_tells_of_itself_may_be_anything(client: Client, words: str) -> None:
    told = {"device": {words: [words]}, "needed": [words], "holdings": [{"model_id": words, "state": "ready"}]}

    for name, value in told.items():
        answer = client.post("/machines/v1/check-in", json={"machine_id": "odd", "boot_id": "b", name: value})
        assert answer.status_code in {200, 422}, answer.text
        assert client.get("/v1/machines").status_code == 200


def test_problems_are_told_in_the_words_that_were_agreed(client: Client, served: Fleet, limits: Settings) -> None:
    """Whole bodies, in tests/api/golden/problems.json; after a change that is meant: `GOLDEN=write pytest ...`."""
    told = {f"{door.dialect}: {door.method} {door.path}": problems_of(client, door) for door in DOORS}
    closed = client_of(make_application(served, guarded(limits)))
    for door in DOORS:
        missing, wrong = send(closed, door), send(closed, door, headers={"Authorization": "Bearer wrong"})
        if missing.status_code == 401:
            more = {"no token": [401, missing.json], "a wrong token": [401, wrong.json]}
            told[f"{door.dialect}: {door.method} {door.path}"] |= more
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    assert told == json.loads(GOLDEN.read_text(encoding="utf-8"))


def problems_of(client: Client, door: Door) -> dict[str, Any]:
    """Do everything wrong that can be done wrong at a door, once; returns statuses and bodies."""
    answers = {
        "no JSON": send_bytes(client, door, b"{not json"),
        "no object": send(client, door, []),
        "another kind of body": send_bytes(client, door, b"words", content_type="text/plain"),
        "words of another kind": send(client, door, {**door.good, door.text: {}}),
        "an unknown field": send(client, door, {**door.good, "no_such_field": 1}),
        "nothing at that path": client.get(f"{door.path}/no/such/path"),
        "no such method": client.delete(door.path),
    }
    if door.model is not None:
        unknown = {"sd_model_checkpoint": "no-such-model"} if door.model == "override_settings" else "no-such-model"
        answers["an unknown model"] = send(client, door, {**door.good, door.model: unknown})
    return {name: [each.status_code, each.json] for name, each in answers.items() if each.status_code in REFUSALS}
