"""`imagefleet up`: everything on one computer, side by side with another one, and nothing left when it stops."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests

from app import processes, runfile
from app.doctor import broker, store
from app.doctor.findings import Level, Part, Patient
from app.settings import Settings
from tests.support.processes import WAIT_SECONDS, command_of, free_port, is_alive, wait_until
from tests.support.servers import ANSWER_SECONDS, Up, environ_of

TRIES = 5
"""How often the doctor, who waits for nobody for long, may ask in vain on a busy computer."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Up]]:
    """Start two servers side by side, without machines."""
    flower = {"FLOWER_PORT": str(free_port())}
    started = [
        Up(tmp_path_factory.mktemp("one") / "data", "--no-machine", "--flower", environ=flower),
        Up(tmp_path_factory.mktemp("other") / "data", "--no-machine"),
    ]
    try:
        one, other = [up.wait_until_serving() for up in started]
        yield one, other
    finally:
        for up in started:
            up.process.kill()


def test_every_part_says_that_it_is_ready(pair: tuple[Up, Up]) -> None:
    lines = pair[0].process.said().splitlines()

    ready = [line.split()[0] for line in lines if " ready " in line]

    assert [name for name in ready if name in {"broker", "database", "web", "control"}] == [
        "broker",
        "database",
        "web",
        "control",
    ]


def test_two_servers_do_not_know_each_others_jobs(pair: tuple[Up, Up]) -> None:
    one, other = pair

    job = one.post("v1/jobs", {"model_id": "demo-shapes", "prompt": "a red circle"})

    assert one.get(f"v1/jobs/{job['job_id']}")["status"] == "queued"
    assert other.get("v1/jobs")["jobs"] == []
    assert one.running()["broker_url"] != other.running()["broker_url"]


def test_flower_comes_along_where_it_is_asked_for(pair: tuple[Up, Up]) -> None:
    one, other = pair
    (url,) = re.findall(r"^flower +ready +(\S+)", one.process.said(), re.MULTILINE)

    workers = wait_until(
        lambda: requests.get(f"{url}/api/workers?refresh=1", timeout=ANSWER_SECONDS).json(),
        "Flower has asked the workers",
    )

    assert url.endswith("/flower")
    assert [name.partition("@")[0] for name in workers] == ["control"]
    assert "flower" not in other.process.said()
    assert f'href="{url}"' in requests.get(one.url, timeout=ANSWER_SECONDS).text
    assert "flower-link" not in requests.get(other.url, timeout=ANSWER_SECONDS).text


def test_a_server_without_a_machine_says_so(pair: tuple[Up, Up]) -> None:
    answer = pair[0].get("ready")

    assert answer["status"] == "degraded"
    assert (answer["parts"]["database"], answer["parts"]["broker"]) == ("ok", "ok")


def test_what_other_programs_need_to_know_is_readable_by_its_owner_only(pair: tuple[Up, Up]) -> None:
    assert (pair[0].folder / "run.json").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_printed(pair: tuple[Up, Up]) -> None:
    running = pair[0].running()
    password = running["broker_url"].partition("://:")[2].partition("@")[0]

    said = pair[0].process.said()

    assert password
    assert password not in said
    assert running["machine_token"] not in said


def test_a_second_server_on_the_same_folder_is_refused_in_a_sentence(pair: tuple[Up, Up]) -> None:
    second = Up(pair[0].folder, "--no-machine")

    assert second.process.wait() == 2
    assert "a server already runs on" in second.process.said()
    assert "Traceback" not in second.process.said()
    assert requests.get(f"{pair[0].url}/health", timeout=ANSWER_SECONDS).ok


def test_a_port_in_use_is_refused_in_a_sentence(pair: tuple[Up, Up], tmp_path: Path) -> None:
    second = Up(tmp_path / "data", "--no-machine", "--port", str(pair[0].port))

    assert second.process.wait() == 2
    assert f"port {pair[0].port}" in second.process.said()
    assert "Traceback" not in second.process.said()


def test_the_doctor_finds_a_server_well_that_is(pair: tuple[Up, Up]) -> None:
    up = pair[0]
    (flower,) = re.findall(r"^flower +ready +(\S+)", up.process.said(), re.MULTILINE)
    for _ in range(TRIES):
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", "doctor", "--json", "--part", "server"],
            env=environ_of(up.folder, FLOWER_URL=flower, A1111_PORT="0", PORT=str(up.port)),
            cwd=up.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode == 0:
            break
    told = json.loads(ran.stdout)
    levels = {(each["name"], each["level"]) for each in told["findings"]}

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert told["level"] == "warning"  # there is no machine
    assert {level for name, level in levels if name != "API"} == {"ok", "skipped"}
    assert {(name, "ok") for name in ("control worker", "heartbeats", "Flower", "broker", "database")} <= levels


def test_the_doctor_tells_a_beat_that_stands_still_from_a_worker_that_does(
    pair: tuple[Up, Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    up = pair[0]
    monkeypatch.chdir(up.folder)
    (beat,) = [each for each in psutil.Process(up.process.pid).children(recursive=True) if "beat" in command_of(each)]
    patient = Patient(Settings.load({"DATA_DIR": str(up.folder)}), {}, frozenset({Part.SERVER}), None)
    patient = replace(patient, running=runfile.find(patient.settings))
    beat.send_signal(signal.SIGSTOP)
    try:
        missed = wait_until(
            lambda: [each for each in store.beats(patient) if each.level is Level.BROKEN], "beat is missed"
        )
        wait_until(lambda: [each for each in broker.workers(patient) if each.level is Level.OK], "the worker answers")
    finally:
        beat.send_signal(signal.SIGCONT)

    assert "beat is missing" in str(missed[0].remedy)


@pytest.fixture
def sleeper() -> Iterator[tuple[processes.Household, list[str]]]:
    """Return a household with a part that starts for ever, and what it says."""
    said = list[str]()
    household = processes.Household(lambda name, line: said.append(f"{name}: {line}"))
    household.start(processes.Part("sleeper", ["sleep", "infinity"], dict(os.environ)))
    yield household, said
    household.stop()


def test_a_part_that_takes_long_to_start_is_waited_for_and_told_of(
    sleeper: tuple[processes.Household, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "NEWS_SECONDS", 0.0)
    household, said = sleeper

    took = household.wait_until("sleeper", lambda: len(said) > 1, WAIT_SECONDS)

    assert took > 0
    assert [line.partition(" for ")[0] for line in said] == ["sleeper: starting"] * len(said)
    with pytest.raises(processes.PartFailed, match=r"not ready after 0\.1 s"):
        household.wait_until("sleeper", lambda: False, 0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_no_process_and_no_file_and_going_on_keeps_the_jobs(
    tmp_path: Path, number: signal.Signals
) -> None:
    up = Up(tmp_path / "data", "--no-machine").wait_until_serving()
    try:
        children = psutil.Process(up.process.pid).children(recursive=True)
        job = up.post("v1/jobs", {"model_id": "demo-shapes", "prompt": "a red circle"})
        up.process.send(number)
        status = up.process.wait()
    finally:
        up.process.kill()

    assert status == 0
    assert len(children) >= 4
    wait_until(lambda: not any(map(is_alive, children)), "the last of its processes has ended as well")
    assert not (up.folder / "run.json").exists()
    assert "Traceback" not in up.process.said()
    if number is signal.SIGTERM:
        return
    again = Up(up.folder, "--no-machine").wait_until_serving()
    try:
        assert again.get(f"v1/jobs/{job['job_id']}")["status"] == "queued"
    finally:
        again.process.stop(signal.SIGINT)


@pytest.mark.parametrize(("name", "word"), [("control", "worker"), ("beat", "beat")])
def test_a_part_that_dies_is_started_anew(tmp_path: Path, name: str, word: str) -> None:
    up = Up(tmp_path / "data", "--no-machine").wait_until_serving()

    def found() -> list[psutil.Process]:
        children = psutil.Process(up.process.pid).children()
        lines = [(child, command_of(child)) for child in children if is_alive(child)]
        return [child for child, line in lines if "--app=tasks.control.app" in line and word in line]

    try:
        (part,) = found()
        part.kill()
        up.process.wait_for_line(f"{name:<10} ended with status -9; starting it anew")
        wait_until(lambda: [child for child in found() if child.pid != part.pid], f"{name} runs again")
    finally:
        up.process.stop(signal.SIGINT)
