"""Lines read large pieces whole, keep time, and end when they are severed."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from provisioning.pools import WHOLE_BYTES, Line
from tests.support.processes import WAIT_SECONDS

SIZE = 4 * WHOLE_BYTES


@pytest.fixture
def pair() -> Iterator[tuple[Line, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(WAIT_SECONDS)
    line = Line.over(near)
    with line, far:
        yield line, far


def dribble(far: socket.socket, count: int) -> threading.Thread:
    def send() -> None:
        for start in range(0, count, 10_000):
            far.sendall(bytes(min(10_000, count - start)))
            time.sleep(0.001)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_large_read_returns_when_it_is_full(pair: tuple[Line, socket.socket]) -> None:
    line, far = pair
    sender = dribble(far, SIZE)

    count = line.recv_into(bytearray(SIZE))
    sender.join()

    assert count == SIZE


def test_a_small_read_takes_what_is_there(pair: tuple[Line, socket.socket]) -> None:
    line, far = pair
    far.sendall(b"head")

    assert line.recv_into(bytearray(8192)) == 4


def test_the_end_of_the_bytes_ends_a_large_read(pair: tuple[Line, socket.socket]) -> None:
    line, far = pair
    far.sendall(b"all")
    far.close()

    assert line.recv_into(bytearray(SIZE)) == 3
    assert line.recv_into(bytearray(SIZE)) == 0


@pytest.mark.parametrize("size", [10, SIZE])
def test_silence_is_a_timeout(pair: tuple[Line, socket.socket], size: int) -> None:
    line, _ = pair
    line.settimeout(0.05)

    with pytest.raises(TimeoutError):
        line.recv_into(bytearray(size))


def test_what_came_before_the_silence_is_not_lost(pair: tuple[Line, socket.socket]) -> None:
    line, far = pair
    line.settimeout(0.05)
    far.sendall(b"some")
    buffer = bytearray(SIZE)

    count = line.recv_into(buffer)

    assert buffer[:count] == b"some"


def test_another_thread_can_end_a_read(pair: tuple[Line, socket.socket]) -> None:
    line, _ = pair
    line.settimeout(WAIT_SECONDS)
    threading.Timer(0.05, line.shutdown, [socket.SHUT_RDWR]).start()

    assert line.recv_into(bytearray(SIZE)) == 0  # or it would be a timeout
