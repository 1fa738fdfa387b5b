"""Writing: everything in its place, and on its way to the disk before the end."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from provisioning import disk, stream, transfer
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import Fleet, some_bytes
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

MIB = 1 << 20


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("size", [0, 1, disk.WRITE_BYTES, disk.WRITE_BYTES + 1, 3 * MIB + 7])
def test_every_byte_is_written_where_it_belongs(descriptor: int, size: int) -> None:
    data = some_bytes(size)

    disk.write_all(descriptor, data, 5)

    assert os.pread(descriptor, size + 10, 0) == (bytes(5) + data if size else b"")


def test_each_stretch_is_handed_to_the_disk_once_and_none_is_left_out(descriptor: int) -> None:
    handed: list[tuple[int, int]] = []
    outflow = disk.Outflow(descriptor)
    outflow._call = lambda _descriptor, start, count, _flags: handed.append((start, count))

    for written in (0, 3 * MIB, 9 * MIB, 10 * MIB, 10 * MIB, 30 * MIB):
        outflow.push(written)

    assert handed == [(0, 9 * MIB), (9 * MIB, 21 * MIB)]


def test_a_filesystem_that_cannot_begin_early_loses_nothing(descriptor: int) -> None:
    outflow = disk.Outflow(descriptor)
    outflow._call = None

    outflow.push(100 * MIB)

    os.fsync(descriptor)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "stream"])
def test_a_write_that_the_disk_holds_up_ends_before_its_file_is_closed(
    origin: Origin, fleet: Fleet, settings: Settings, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    body = some_bytes(2 * MIB)
    fleet.add("a", origin.serve("/a", body, ranges=ranges), body)
    is_writing, may_write = threading.Event(), threading.Event()
    write, written_to = disk.write_all, []

    def write_late(descriptor: int, data: bytes, position: int) -> None:
        is_writing.set()
        may_write.wait(WAIT_SECONDS)
        name = "nothing that is open"
        with suppress(OSError):
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        written_to.append(name)
        write(descriptor, data, position)

    monkeypatch.setattr(disk, "write_all", write_late)
    for module in (transfer, stream):
        monkeypatch.setattr(module, "PARTING_SECONDS", 0.0)
    provisioner = Provisioner(settings, lambda event: None)
    running = threading.Thread(target=provisioner.run, args=(["a"],))
    running.start()
    assert is_writing.wait(WAIT_SECONDS)

    provisioner.stop.set()
    running.join(WAIT_SECONDS)  # nobody waits for such a disk for ever
    may_write.set()
    for thread in provisioner._threads:
        thread.join(WAIT_SECONDS)

    assert written_to == ["a.bin.part"]
