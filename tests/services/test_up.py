"""`imagefleet up`: everything on one computer, side by side with another one, and nothing left when it stops."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.processes import wait_until
from tests.support.servers import Up


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Up]]:
    """Start two servers side by side, without machines."""
    started = [Up(tmp_path_factory.mktemp(name) / "data", "--no-machine") for name in ("one", "other")]
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
    assert requests.get(f"{pair[0].url}/health", timeout=5).ok


def test_a_port_in_use_is_refused_in_a_sentence(pair: tuple[Up, Up], tmp_path: Path) -> None:
    second = Up(tmp_path / "data", "--no-machine", "--port", str(pair[0].port))

    assert second.process.wait() == 2
    assert f"port {pair[0].port}" in second.process.said()
    assert "Traceback" not in second.process.said()


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; a dead one may wait to be buried by an init that is in no hurry."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


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
    assert [child for child in children if is_alive(child)] == []
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
        lines = [(child, child.cmdline()) for child in children if is_alive(child)]
        return [child for child, line in lines if "--app=tasks.control.app" in line and word in line]

    try:
        (part,) = found()
        part.kill()
        up.process.wait_for_line(f"{name:<10} ended with status -9; starting it anew")
        wait_until(lambda: [child for child in found() if child.pid != part.pid], f"{name} runs again")
    finally:
        up.process.stop(signal.SIGINT)
