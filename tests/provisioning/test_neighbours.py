"""Machines that boot together: each fetches its share from the origin, and the rest from the others."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioning import layout, receipts, share, sharing, status
from provisioning.errors import SettingsError
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, digest_of, some_bytes
from tests.provisioning.origin import Origin
from tests.provisioning.test_watching import until
from tests.support.processes import WAIT_SECONDS, free_port

SIZE = 24 * MIB
BODY = some_bytes(SIZE)
KEY = digest_of(BODY)
MACHINES = 8


class Introductions:
    """The fleet's part: it notes who has what, and names the others."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, bool]] = {}
        self.expected = 1
        """Who fetches something is answered when so many have told of it."""

    def answer(self, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        self.known[body["url"]] = {row["key"]: row["complete"] for row in body["files"]}
        wanted = [row["key"] for row in body["files"] if not row["complete"]]
        until(lambda: all(sum(key in held for held in list(self.known.values())) >= self.expected for key in wanted))
        peers = {
            key: [
                {"url": url, "complete": held[key]}
                for url, held in sorted(self.known.items())
                if key in held and url != body["url"]
            ]
            for key in wanted
        }
        return 200, {"peers": peers}


@pytest.fixture
def introductions(fleet: Fleet) -> Introductions:
    found = Introductions()
    fleet.origin.posts["/machines/v1/peers"] = found.answer
    return found


class Machines:
    """Machines with a folder and a share of their own, watching."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.running: list[tuple[Provisioner, threading.Thread]] = []

    def __call__(self, name: str) -> Provisioner:
        """Boot one."""
        share = f"http://127.0.0.1:{free_port()}"
        mine = replace(self.settings, models_dir=self.folder / name, share_url=share, machine_token="m")
        provisioner = Provisioner(mine, lambda event: None)
        thread = threading.Thread(target=provisioner.run, args=(["a"],), kwargs={"watch": True}, daemon=True)
        thread.start()
        self.running.append((provisioner, thread))
        return provisioner

    def halt(self) -> None:
        """Stop all of them, and wait until they have."""
        for provisioner, _ in self.running:
            provisioner.stop.set()
        for _, thread in self.running:
            thread.join(WAIT_SECONDS)


@pytest.fixture
def machine(
    settings: Settings, tmp_path: Path, introductions: Introductions, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machines]:
    """Boot machines that take nobody for dead because the computer of the tests is slow."""
    for name in ("ANNOUNCE_SECONDS", "CONNECT_SECONDS", "PATIENCE_SECONDS"):
        monkeypatch.setattr(sharing, name, WAIT_SECONDS)
    machines = Machines(settings, tmp_path)
    yield machines
    machines.halt()


def is_ready(machine: Provisioner) -> bool:
    return receipts.ready_models(machine.models_dir) == {"a"}


def content(machine: Provisioner) -> bytes:
    return (machine.models_dir / "checkpoints" / "a.bin").read_bytes()


def test_machines_that_boot_together_take_one_copy_from_the_origin(
    origin: Origin,
    fleet: Fleet,
    machine: Machines,
    introductions: Introductions,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    introductions.expected = MACHINES

    machines = [machine(f"m{number}") for number in range(MACHINES)]
    until(lambda: all(is_ready(each) for each in machines))

    assert all(content(each) == BODY for each in machines)
    assert origin.sent == SIZE + MACHINES, "each range once, and everybody's question for the first byte"


def test_a_machine_that_comes_later_takes_everything_from_who_has_it(
    origin: Origin,
    fleet: Fleet,
    machine: Machines,
    introductions: Introductions,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    first = machine("first")
    until(lambda: is_ready(first))
    until(lambda: introductions.known[str(first.settings.share_url)] == {KEY: True})
    sent = origin.sent

    second = machine("second")
    until(lambda: is_ready(second))

    assert content(second) == BODY
    assert origin.sent - sent == 1, "the question for the first byte"


def test_a_neighbour_that_hands_out_wrong_bytes_costs_time_and_nothing_else(
    origin: Origin,
    fleet: Fleet,
    machine: Machines,
    introductions: Introductions,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    liar = machine("liar")
    until(lambda: is_ready(liar))
    file = liar.models_dir / "checkpoints" / "a.bin"
    machine.halt()
    introductions.known.clear()
    receipt = receipts.load(liar.models_dir, "a")
    assert receipt is not None
    file.write_bytes(some_bytes(SIZE, seed=1))
    lie = receipts.ProvenFile.of(liar.models_dir, Path("checkpoints/a.bin"), receipt.files[0].hash)
    receipts.save(liar.models_dir, replace(receipt, files=(lie,)))
    liar_again = machine("liar")
    until(lambda: introductions.known.get(str(liar_again.settings.share_url)) == {KEY: True})

    honest = machine("honest")
    until(lambda: is_ready(honest))

    assert content(honest) == BODY
    assert status.read(honest.models_dir).totals.verification_failures == 1, "the lie was believed until it was hashed"


def test_a_neighbour_that_is_gone_leaves_its_ranges_to_the_origin(
    origin: Origin,
    fleet: Fleet,
    machine: Machines,
    introductions: Introductions,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    introductions.known = {
        f"http://127.0.0.1:{free_port()}": {KEY: True},
        f"http://127.0.0.2:{free_port()}": {KEY: False},
    }

    alone = machine("alone")
    until(lambda: is_ready(alone))

    assert content(alone) == BODY


def test_sharing_needs_the_token_that_neighbours_know_each_other_by() -> None:
    with pytest.raises(SettingsError, match="MACHINE_TOKEN"):
        Settings.from_environ({"SHARE_URL": "http://10.0.0.7:8200"})


def test_nothing_but_files_is_handed_out(origin: Origin, fleet: Fleet, machine: Machines) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    first = machine("first")
    until(lambda: is_ready(first))

    assert first.sharing is not None
    assert first.sharing.shelf.find("../../etc/passwd") is None
    assert os.path.commonpath([layout.status_path(first.models_dir), first.models_dir]) == str(first.models_dir)


def test_a_second_run_beside_a_watching_one_goes_on_without_neighbours(
    origin: Origin,
    fleet: Fleet,
    machine: Machines,
    settings: Settings,
    tmp_path: Path,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    first = machine("first")
    until(lambda: is_ready(first))
    beside = replace(first.settings, models_dir=tmp_path / "beside")

    outcome = Provisioner(beside, lambda event: None).run(["a"])

    assert outcome.ready == ("a",)


def test_a_neighbour_that_reads_slowly_gets_its_range_whole(origin: Origin, fleet: Fleet, machine: Machines) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    first = machine("first")
    until(lambda: is_ready(first))
    assert first.sharing is not None
    until(lambda: first.sharing is not None and first.sharing.shelf.contents().get(KEY) is True)
    received = bytearray()

    with socket.create_connection(("127.0.0.1", first.sharing.server.port)) as sock:
        asked = f"GET {share.address('', KEY)} HTTP/1.1\r\nAuthorization: Bearer m\r\nRange: bytes=0-{SIZE - 1}\r\n\r\n"
        sock.sendall(asked.encode())
        time.sleep(0.5)
        sock.settimeout(WAIT_SECONDS)
        while not received.endswith(BODY[-100:]) and (data := sock.recv(1 << 20)):
            received += data

    assert received.endswith(BODY)
