"""A long line: a TCP proxy on loopback that lets every byte take its time."""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 65536


@contextmanager
def delayed(host: str, port: int, seconds: float) -> Iterator[int]:
    """Forward to an address with `seconds` of delay each way as long as the block lasts; yields the port."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(server, (host, port), seconds), daemon=True).start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.close()


def _accept(server: socket.socket, target: tuple[str, int], seconds: float) -> None:
    with contextlib.suppress(OSError):  # the block has ended
        while True:
            near, _ = server.accept()
            far = socket.create_connection(target)
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _forward(source, sink, seconds)


def _forward(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    """Carry one direction with two threads: one that takes bytes as they come, one that hands them on in time."""
    waiting: deque[tuple[float, bytes]] = deque()
    came = threading.Semaphore(0)

    def take() -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                waiting.append((time.monotonic() + seconds, data))
                came.release()
        waiting.append((0.0, b""))
        came.release()

    def hand_on() -> None:
        with contextlib.suppress(OSError):
            while came.acquire():
                due, data = waiting.popleft()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)

    threading.Thread(target=take, daemon=True).start()
    threading.Thread(target=hand_on, daemon=True).start()
