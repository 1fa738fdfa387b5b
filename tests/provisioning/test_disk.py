"""Writing: everything in its place, and on its way to the disk before the end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import disk
from tests.provisioning.conftest import some_bytes

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
