"""The doctor: each thing is broken for real, and what is found says what to do."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import redis
from flask import Flask
from sqlalchemy import create_engine, text

from app import database, embedded
from app.api.application import make_application
from app.core.fleet import Fleet, prepare_engine
from app.doctor import broker, clocks, computer, machine, store
from app.doctor.clocks import judged as judged_clock
from app.doctor.examine import LOOKS, examine, worst
from app.doctor.findings import Finding, Level, Part
from app.doctor.machine import Gpu
from app.doctor.machine import judged as judged_gpu
from app.settings import Settings
from tests.builders import a_completed_job, a_model
from tests.support.broker import BrokerServer
from tests.support.processes import WAIT_SECONDS, free_port
from tests.support.system import ARTIFACT
from tests.support.web import serving

GOOD = "JmZ0c8Qw1Xo7Tn4Rb6Ly2Vd9Ke3Hs5Pu"
SERVER, MACHINE = frozenset({Part.SERVER}), frozenset({Part.MACHINE})


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings that lie about on this computer out of it, and wait for whoever is there, however busy it is."""
    monkeypatch.chdir(tmp_path)
    for module in (broker, clocks, machine):
        monkeypatch.setattr(module, "ANSWER_SECONDS", WAIT_SECONDS)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Use SQLite unless a test says otherwise."""
    return sqlite_url


def looked(name: str, parts: frozenset[Part] = SERVER, /, **environ: str) -> list[Finding]:
    """Take one look, as it is taken among all others."""
    told = {"DATA_DIR": str(Path.cwd() / "data"), "DRIVER": "fake", **environ}
    return [finding for where, finding in examine(told, parts, {name: LOOKS[name]}) if where == name]


def only(findings: list[Finding], level: Level) -> Finding:
    """Return the one finding of a level; it says what to do."""
    (found,) = [finding for finding in findings if finding.level is level]
    assert found.remedy
    return found


def test_settings_that_cannot_be_read_are_a_finding() -> None:
    found = [finding for _, finding in examine({"PORT": "a lot"})]

    assert "PORT is 'a lot'" in only(found, Level.BROKEN).told


def test_settings_that_would_let_everybody_in_are_a_finding() -> None:
    found = [finding for _, finding in examine({"HOST": "0.0.0.0"})]  # that is the point

    assert "set API_TOKENS" in only(found, Level.BROKEN).told


def test_packages_that_are_missing_old_or_untested_are_told_apart() -> None:
    needs = ["click>=8", "flask>=99; extra == 'server'", "no-such-package-at-all; extra == 'server'", "PyYAML"]
    ours = ["imagefleet[server]; extra == 'embedded'"]

    found = list(computer.held_against([*needs, *ours], {"embedded"}, {"click": "1.0"}))

    told = {finding.told.partition(":")[0]: finding for finding in found}
    assert "no-such-package-at-all" in told["not installed"].told
    assert "flask" in told["of a version that does not fit"].told
    assert "click" in told["never tested together"].told
    assert all("pip install 'imagefleet[embedded]' -c constraints.txt" in str(each.remedy) for each in found)


def test_what_is_installed_here_fits() -> None:
    (found,) = looked("packages", OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")

    assert found.level is Level.OK
    assert "otel" in found.told  # traces are asked for, and need packages of their own


def test_a_data_folder_that_takes_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in its place")

    found = only(looked("data folder", MODELS_DIR=str(tmp_path / "models")), Level.BROKEN)

    assert "cannot be written to" in found.told
    assert "DATA_DIR" in str(found.remedy)


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "LEAST_FREE", 10**18)  # more than this one has

    assert "KEEP_JOBS_DAYS" in str(only(looked("data folder"), Level.BROKEN).remedy)


def test_a_broker_that_does_not_answer_is_found() -> None:
    found = only(looked("broker", BROKER_URL=f"redis://127.0.0.1:{free_port()}/0"), Level.BROKEN)

    assert "does not answer" in found.told
    assert "correct BROKER_URL" in str(found.remedy)


def test_a_broker_of_another_kind_that_does_not_answer_is_found_too() -> None:
    found = only(looked("broker", BROKER_URL=f"amqp://127.0.0.1:{free_port()}//"), Level.BROKEN)

    assert "does not answer" in found.told


def test_a_wrong_password_is_told_from_a_broker_that_is_away(broker_url: str) -> None:
    found = only(looked("broker", BROKER_URL=broker_url.replace("redis://:", "redis://:not-")), Level.BROKEN)

    assert "does not let us in" in found.told
    assert broker_url.partition("://:")[2].partition("@")[0] not in found.told


def test_a_broker_that_forgets_or_is_crowded_is_found(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker")
    server.start()
    try:
        healthy = looked("broker", BROKER_URL=server.url)
        with redis.Redis.from_url(server.url) as connection:
            connection.config_set("maxclients", 1)
        crowded = looked("broker", BROKER_URL=server.url)
        with redis.Redis.from_url(server.url) as connection:
            connection.config_set("maxclients", 1000)
            connection.config_set("maxmemory-policy", "allkeys-lru")
            connection.config_set("appendonly", "no")
        forgetful = looked("broker", BROKER_URL=server.url)
    finally:
        server.stop()

    assert {finding.level for finding in healthy} == {Level.OK}
    assert "1 of the broker's 1 connections" in only(crowded, Level.WARNING).told
    assert "allkeys-lru" in only(forgetful, Level.BROKEN).told
    assert "appendonly yes" in str(only(forgetful, Level.WARNING).remedy)


def test_a_machine_without_a_broker_would_never_hear_of_a_job() -> None:
    assert "BROKER_URL is not set" in only(looked("broker", MACHINE), Level.BROKEN).told
    assert {finding.level for finding in looked("broker")} == {Level.SKIPPED}


def test_a_broker_to_which_no_control_worker_listens_is_found(broker_url: str) -> None:
    found = only(looked("control worker", BROKER_URL=broker_url), Level.BROKEN)

    assert "no control worker listens" in found.told
    assert "celery" in str(found.remedy)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = only(looked("database"), Level.WARNING)

    assert "imagefleet db upgrade" in str(found.remedy)
    assert not (tmp_path / "data" / "db").exists()


def test_a_database_of_an_older_or_newer_version_is_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    engine = prepare_engine(create_engine(url))
    database.upgrade(engine, database.revisions()[0])
    old = looked("database", DATABASE_URL=url)
    database.upgrade(engine)
    healthy = looked("database", DATABASE_URL=url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()

    assert "run `imagefleet db upgrade`" in str(only(old, Level.BROKEN).remedy)
    assert {finding.level for finding in healthy} == {Level.OK}
    assert "update imagefleet" in str(only(looked("database", DATABASE_URL=url), Level.WARNING).remedy)


def test_a_damaged_database_is_found(tmp_path: Path, sqlite_url: str) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * len(whole) // 3 :])

    found = [each for each in looked("database", DATABASE_URL=sqlite_url) if each.level is Level.BROKEN]

    assert found
    assert any("restore" in str(each.remedy) or "backup" in str(each.remedy) for each in found)


def test_a_database_server_that_is_away_is_found() -> None:
    url = f"postgresql+psycopg://fleet@127.0.0.1:{free_port()}/fleet"
    found = only(looked("database", DATABASE_URL=url), Level.BROKEN)

    assert "correct DATABASE_URL" in str(found.remedy)


def test_a_database_server_that_is_well_is_fine(postgresql_url: str) -> None:
    assert {finding.level for finding in looked("database", DATABASE_URL=postgresql_url)} == {Level.OK}
    assert any("the database agree" in each.told for each in looked("clocks", DATABASE_URL=postgresql_url))


def test_a_store_that_takes_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").write_text("a file is in its place")

    assert "cannot be written to" in only(looked("pictures"), Level.BROKEN).told


def test_a_store_without_the_newest_picture_is_the_wrong_one(fleet: Fleet, sqlite_url: str) -> None:
    job = a_completed_job(fleet)
    lost = looked("pictures", DATABASE_URL=sqlite_url)
    file = Path.cwd() / "data" / "images" / job.images[0].key
    file.parent.mkdir()
    file.write_bytes(b"a picture")

    assert "point DATA_DIR at the folder" in str(only(lost, Level.BROKEN).remedy)
    assert {finding.level for finding in looked("pictures", DATABASE_URL=sqlite_url)} == {Level.OK}
    assert [path for path in (Path.cwd() / "data" / "images").iterdir() if path != file.parent] == []


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("API_TOKENS", f"ops:operator:{GOOD}", Level.OK),
        ("API_TOKENS", f"sha256:{'a1' * 32}", Level.OK),
        ("API_TOKENS", "ops:operator:long-random-text", Level.BROKEN),
        ("API_TOKENS", "abc7", Level.WARNING),
        ("API_TOKENS", "a" * 40, Level.WARNING),
        ("MACHINE_TOKEN", "change-me", Level.BROKEN),
        ("METRICS_TOKEN", "short-1", Level.WARNING),
        ("SECRET_KEY", "secret", Level.BROKEN),
    ],
)
def test_tokens_that_could_be_guessed_are_found_and_never_shown(name: str, value: str, level: Level) -> None:
    found = looked("tokens", SERVER, **{"API_TOKENS": GOOD, "MACHINE_TOKEN": GOOD[::-1], name: value})

    assert worst(found) is level
    assert all(value.rpartition(":")[2] not in finding.told for finding in found)


def test_a_server_that_others_reach_is_looked_at_more_closely() -> None:
    known = {"API_TOKENS": GOOD, "MACHINE_TOKEN": GOOD, "HOST": "0.0.0.0"}  # that is the point
    elsewhere = "postgresql+psycopg://fleet@db/fleet"

    told = " ".join(finding.told for finding in looked("tokens", SERVER, **known, DATABASE_URL=elsewhere))
    safe = {"METRICS_TOKEN": GOOD, "PUBLIC_URL": "https://fleet.example.org", "SECRET_KEY": GOOD}

    assert all(word in told for word in ("/metrics is open", "in the clear", "SECRET_KEY is not set"))
    assert {each.level for each in looked("tokens", SERVER, **known, **safe, DATABASE_URL=elsewhere)} == {Level.OK}


def test_a_machine_without_its_token_is_found() -> None:
    assert "MACHINE_TOKEN is not set" in only(looked("tokens", MACHINE), Level.BROKEN).told


@contextmanager
def another_program(ahead: float = 0.0) -> Iterator[int]:
    """Run a web server that is none of ours, with a clock that is some seconds ahead; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + ahead)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_port_that_another_program_has_is_found() -> None:
    with another_program() as port, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        taken = looked("ports", PORT=str(port), A1111_PORT=str(silent.getsockname()[1]))

    assert [finding.level for finding in taken] == [Level.BROKEN, Level.BROKEN]
    assert "another program has PORT" in taken[0].told
    assert {each.level for each in looked("ports", PORT=str(free_port()), A1111_PORT="0")} == {Level.OK, Level.SKIPPED}


@pytest.mark.parametrize(("ahead", "level"), [(0, Level.OK), (7, Level.WARNING), (-600, Level.BROKEN)])
def test_a_clock_that_is_off_is_found(ahead: float, level: Level) -> None:
    with another_program(ahead) as port:
        found = looked("clocks", FLEET_URL=f"http://127.0.0.1:{port}")

    assert [finding.level for finding in found] == [level]
    assert level is Level.OK or "timedatectl" in str(found[0].remedy)


def test_what_asking_took_is_no_difference_of_clocks() -> None:
    assert judged_clock("the API", 9.0, 8.0).level is Level.OK


def test_an_api_that_is_away_or_none_is_found() -> None:
    away = only(looked("API", FLEET_URL=f"http://127.0.0.1:{free_port()}"), Level.BROKEN)
    with another_program() as port:
        other = only(looked("API", FLEET_URL=f"http://127.0.0.1:{port}"), Level.BROKEN)

    assert "does not answer" in away.told
    assert "is no imagefleet" in other.told


@pytest.mark.parametrize("token", ["", "wrong", "a-machine"])
def test_a_machine_that_the_api_does_not_let_in_is_found(fleet: Fleet, guarded_app: Flask, token: str) -> None:
    assert fleet
    with serving(guarded_app) as url:
        found = looked("API", MACHINE, FLEET_URL=url, MACHINE_TOKEN=token)

    (last,) = [each for each in found if "MACHINE_TOKEN" in each.told or "lets this machine in" in each.told]
    assert last.level is (Level.OK if token == "a-machine" else Level.BROKEN)


@pytest.fixture
def guarded_app(fleet: Fleet, tmp_path: Path, sqlite_url: str) -> Flask:
    """Return a server that asks for tokens."""
    known = Settings(data_dir=tmp_path / "s", database_url=sqlite_url, api_tokens=(GOOD,), machine_token="a-machine")
    return make_application(fleet, known.completed())


def test_models_that_would_not_come_are_found_with_the_reason(fleet: Fleet, application: Flask) -> None:
    a_model(fleet, "gone", download_url="/artifacts/nothing-such.dduf", size_bytes=10)
    with serving(application) as url:
        known = {"FLEET_URL": url, "MODELS_DIR": str(Path.cwd() / "models"), "ALLOW_PRIVATE_ADDRESSES": "1"}
        found = looked("models", MACHINE, MACHINE_MODELS_NEEDED="gone,nobody", **known)
    away = looked("models", MACHINE, MACHINE_MODELS_NEEDED="gone", **known)

    told = {finding.told.partition(" ")[0]: finding for finding in found}
    assert {name: each.level for name, each in told.items()} == {"gone": Level.BROKEN, "nobody": Level.BROKEN}
    assert "check MACHINE_MODELS_NEEDED" in told["nobody"].told
    assert "catalogue cannot be asked" in only(away, Level.BROKEN).told


def test_models_that_do_not_fit_on_the_disk_are_found(
    fleet: Fleet, application: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_model(fleet, "demo", save_path="checkpoints/d.dduf", **ARTIFACT)
    known = {"MACHINE_MODELS_NEEDED": "demo", "MODELS_DIR": str(Path.cwd() / "models")}
    with serving(application) as url:
        fits = looked("models", MACHINE, FLEET_URL=url, **known)
        monkeypatch.setattr("provisioning.disk.free_bytes", lambda _: 1000)  # a disk that is nearly full
        full = looked("models", MACHINE, FLEET_URL=url, **known)

    assert {finding.level for finding in fits} == {Level.OK}, fits
    assert "disk" in only(full, Level.BROKEN).told


def a_program(folder: Path, name: str, says: str, status: int) -> Mapping[str, str]:
    """Put a program on the PATH that says something and ends."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_a_gpu_that_torch_does_not_reach_is_found(tmp_path: Path) -> None:
    smi = a_program(tmp_path / "bin", "nvidia-smi", "NVIDIA H200, 570.10, 143771 MiB, 1 MiB", 0)

    found = only(looked("GPU", MACHINE, DRIVER="diffusers", CUDA_VISIBLE_DEVICES="", **smi), Level.BROKEN)

    assert "NVIDIA H200" in found.told


MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"


@pytest.mark.parametrize(
    ("found", "device", "level", "word"),
    [
        (Gpu(None, "2.13.0+cpu|-|False"), "auto", Level.OK, "no GPU"),
        (Gpu(None, "2.13.0+cpu|-|False"), "cuda", Level.BROKEN, "DEVICE is cuda"),
        (Gpu(None, None), "auto", Level.BROKEN, "torch cannot be imported"),
        (Gpu((0, "H200"), "2.13.0|12.8|True"), "auto", Level.OK, "reaches the GPU: H200"),
        (Gpu((0, "H200"), "2.13.0+cpu|-|False"), "auto", Level.BROKEN, "built without CUDA"),
        (Gpu((0, "H200"), "2.13.0+cpu|-|False"), "cpu", Level.WARNING, "built without CUDA"),
        (Gpu((0, "H200"), "2.13.0|12.8|False"), "auto", Level.BROKEN, "does not reach"),
        (Gpu((18, MISMATCH), "2.13.0|12.8|False"), "auto", Level.BROKEN, "mismatch"),
        (Gpu((9, ""), "2.13.0|12.8|False"), "auto", Level.BROKEN, "status 9"),
    ],
)
def test_driver_torch_and_settings_are_held_against_each_other(
    found: Gpu, device: str, level: Level, word: str
) -> None:
    (judged,) = judged_gpu(found, device)

    assert judged.level is level
    assert word in judged.told


def test_a_look_that_fails_keeps_no_other_from_being_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(_: object) -> Iterator[Finding]:
        raise RuntimeError("oh")
        yield

    monkeypatch.setattr(store, "db", fall)
    found = dict(examine({"DATA_DIR": str(Path.cwd() / "data")}, SERVER))

    assert "looking at it failed: RuntimeError: oh" in found["database"].told
    assert found["Flower"].level is Level.SKIPPED


def test_a_computer_that_names_an_api_elsewhere_is_a_machine() -> None:
    told = {"FLEET_URL": f"http://127.0.0.2.example.invalid:{free_port()}", "DRIVER": "fake", "MACHINE_TOKEN": GOOD}
    names = [name for name, _ in examine({**told, "DATA_DIR": str(Path.cwd() / "data")})]

    assert "database" not in names
    assert {"GPU", "models", "API"} <= set(names)


def test_a_machine_that_reaches_its_api_through_a_tunnel_is_not_taken_for_a_server() -> None:
    told = {
        "FLEET_URL": f"http://127.0.0.1:{free_port()}",
        "BROKER_URL": f"redis://:secret@127.0.0.1:{free_port()}/0",
        "MACHINE_TOKEN": GOOD,
        "MACHINE_MODELS_NEEDED": "a-model",
        "DRIVER": "fake",
        "DATA_DIR": str(Path.cwd() / "data"),
    }

    machine_alone = {name for name, _ in examine(told)}
    both = {name for name, _ in examine({**told, "API_TOKENS": f"ops:operator:{GOOD[::-1]}"})}

    assert "models" in machine_alone & both
    assert both - machine_alone >= {"database", "pictures", "ports", "control worker"}


def test_flower_that_is_away_is_found() -> None:
    assert "start it" in str(only(looked("Flower", FLOWER_URL=f"http://127.0.0.1:{free_port()}"), Level.BROKEN).remedy)


def test_the_embedded_broker_is_what_the_doctor_wants(tmp_path: Path) -> None:
    assert b"noeviction" in embedded.plan_broker(tmp_path / "b").part.stdin  # type: ignore[operator]  # it has one
