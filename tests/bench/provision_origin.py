"""What the provisioning bench downloads from: nginx on loopback with one file, and a catalogue that names it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.bench import hub

CAP = "40m"
BLOCK = 16 << 20

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
    fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{ listen 127.0.0.1:{free}; root {folder}/www; {hub} }}
    server {{ listen 127.0.0.1:{capped}; root {folder}/www; limit_rate {cap}; {hub} }}
}}
"""


def make_file(path: Path, size: int) -> tuple[str, int]:
    """Write random bytes, so that nothing on the way can compress them."""
    path.parent.mkdir(parents=True)
    hasher, left = sha256(), size
    with path.open("wb") as file:
        while left:
            block = os.urandom(min(BLOCK, left))
            file.write(block)
            hasher.update(block)
            left -= len(block)
    return hasher.hexdigest(), size


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[int, int]]:
    """Serve the folder's `www` twice; yields the ports without and with a limit."""
    free, capped = free_port(), free_port()
    folder.chmod(0o755)  # started by root, nginx reads as another user
    configuration = folder / "nginx.conf"
    configuration.write_text(
        NGINX.format(folder=folder, free=free, capped=capped, cap=CAP, hub=hub.LOCATION.format(folder=folder))
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(configuration)])
    try:
        for port in (free, capped):
            wait_for(port)
        yield free, capped
    finally:
        process.terminate()
        process.wait()


@contextmanager
def catalogue(url: str, digest: str, size: int) -> Iterator[str]:
    """Answer a machine's lookup."""
    entry = {
        "id": "bench",
        "name": "model.bin",
        "download_url": url,
        "file_size_gb": size / 1e9,
        "size_bytes": size,
        "hash": digest,
        "auth_required": False,
        "auth_provider": None,
        "save_path": "checkpoints/model.bin",
        "dependencies": [],
        "description": None,
    }
    body = json.dumps({"models": [entry], "not_found": []}).encode()

    class Lookup(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Lookup)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody listens there."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("nginx did not start")
