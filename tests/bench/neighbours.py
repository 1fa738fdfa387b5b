"""Machines that boot together: what one throttled origin has to give, and when the last machine is ready.

    make bench-neighbours          # or: python -m tests.bench.neighbours --machines 8 --megabytes 256

A real server (`imagefleet up --no-machine`) introduces the machines to each other; each machine is a real
`python -m provisioning` process with a models folder of its own. The origin is ours: it gives RATE bytes a second to
all connections together, as a shared line does, and counts what it gives. Once with neighbours, once without.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.bench.provision import machine
from tests.bench.provision_origin import free_port

RATE = 40_000_000
CHUNK = 64 << 10
RANGE = re.compile(r"bytes=(\d+)-(\d+)")
PATIENCE = 300.0


class Line:
    """A line that many connections share: so many bytes a second for all of them together."""

    def __init__(self, rate: int) -> None:
        self._rate, self._lock, self._free_at = rate, threading.Lock(), 0.0
        self.given = 0

    def pass_on(self, amount: int) -> None:
        """Wait for this many bytes' turn."""
        with self._lock:
            self.given += amount
            self._free_at = max(self._free_at, time.monotonic()) + amount / self._rate
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


@contextmanager
def origin(content: bytes, line: Line) -> Iterator[str]:
    """Serve one file by ranges over a shared line."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = RANGE.fullmatch(self.headers.get("Range", ""))
            start, end = (int(found[1]), min(int(found[2]) + 1, len(content))) if found else (0, len(content))
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            if found:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.end_headers()
            with suppress(OSError):
                for position in range(start, end, CHUNK):
                    block = content[position : min(position + CHUNK, end)]
                    line.pass_on(len(block))
                    self.wfile.write(block)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/model.bin"
    finally:
        server.shutdown()


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """Run the fleet's server; yields its address and the machines' token."""
    port, token = free_port(), "bench-token"
    environ = {**os.environ, "MACHINE_TOKEN": token, "A1111_PORT": "0"}
    command = [sys.executable, "-m", "app.cli", "up", "--no-machine", f"--port={port}", f"--data-dir={folder}"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(requests.RequestException):
                if requests.get(f"{url}/ready", timeout=2).ok:
                    break
            time.sleep(0.1)
        yield url, token
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def boot(count: int, folder: Path, fleet: tuple[str, str], *, neighbours: bool) -> float:
    """Start so many machines at once; returns the seconds until the last one is ready."""
    url, token = fleet
    began = time.monotonic()
    processes = []
    for number in range(count):
        environ = {
            **os.environ,
            "FLEET_URL": url,
            "MACHINE_TOKEN": token,
            "MODELS_DIR": str(folder / f"machine-{number}"),
            "MACHINE_MODELS_NEEDED": "bench",
            "ALLOW_PRIVATE_ADDRESSES": "1",
            "SHARE_URL": f"http://127.0.0.1:{free_port()}" if neighbours else "",
        }
        command = [sys.executable, "-m", "provisioning", "--watch", "--json"]
        processes.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True))
    ready = threading.Barrier(count + 1)
    for process in processes:
        threading.Thread(target=_until_ready, args=(process, ready), daemon=True).start()
    try:
        ready.wait(PATIENCE)
        return time.monotonic() - began
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _until_ready(process: "subprocess.Popen[str]", ready: threading.Barrier) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "state" and event.get("state") == "ready":
            ready.wait()
            break
    for _ in process.stdout:
        """Let it write on."""


def main() -> None:
    """Boot the machines with and without neighbours, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=256)
    given = parser.parse_args()
    content = os.urandom(given.megabytes * 1_000_000)
    print(f"{given.machines} machines, {given.megabytes} MB, origin {RATE / 1e6:.0f} MB/s for all; {machine()}\n")
    print("| | last machine ready after | copies the origin gave |")
    print("| --- | --- | --- |")
    for name, neighbours in (("origin only", False), ("with neighbours", True)):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            line = Line(RATE)
            with origin(content, line) as url, server(Path(folder) / "server") as fleet:
                entry = {
                    "id": "bench",
                    "name": "model.bin",
                    "download_url": url,
                    "hash": sha256(content).hexdigest(),
                    "size_bytes": len(content),
                }
                requests.post(f"{fleet[0]}/v1/models", json=entry, timeout=30).raise_for_status()
                seconds = boot(given.machines, Path(folder), fleet, neighbours=neighbours)
            print(f"| {name} | {seconds:.1f} s | {line.given / len(content):.2f} |")


if __name__ == "__main__":
    main()
