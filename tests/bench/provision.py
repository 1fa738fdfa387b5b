"""Time to a verified file, against other download programs, on the same local nginx in the same run.

    make bench-provision          # or: python -m tests.bench.provision --gigabytes 1 --rounds 5

Two origins: one that gives each connection 40 MB/s, as content delivery networks do, and one without a limit. Every
program runs as a whole process; wall time, CPU seconds and peak memory are what the operating system accounts to it
and its children. `ours` includes starting Python, looking the model up, hashing, fsync and the receipt; `curl` and
`wget` only download; `aria2c` and `requests` are followed by `sha256sum`.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

NEEDED = ("nginx", "curl", "wget", "aria2c", "sha256sum")
CAP = "40m"
BLOCK = 16 << 20
SAMPLE_SECONDS = 0.02

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
    fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{ listen 127.0.0.1:{free}; root {folder}/www; }}
    server {{ listen 127.0.0.1:{capped}; root {folder}/www; limit_rate {cap}; }}
}}
"""

REQUESTS = """
import sys, requests
with requests.get(sys.argv[1], stream=True, timeout=60) as reply, open(sys.argv[2], "wb") as file:
    for block in reply.iter_content(1 << 20):
        file.write(block)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one program took."""

    seconds: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Task:
    """What every program has to bring."""

    url: str
    target: Path
    digest: str
    size: int
    lookup_url: str


Program = Callable[[Task], Sequence[str]]


def ours(task: Task) -> Sequence[str]:
    """Run provisioning as a machine does, from the lookup to the receipt."""
    return [
        "env",
        f"FLEET_URL={task.lookup_url}",
        f"MODELS_DIR={task.target.parent}/models",
        "ALLOW_PRIVATE_ADDRESSES=1",
        sys.executable,
        "-m",
        "provisioning",
        "--json",
        "bench",
    ]


def curl(task: Task) -> Sequence[str]:
    """Download only."""
    return ["curl", "-sf", "-o", str(task.target), task.url]


def wget(task: Task) -> Sequence[str]:
    """Download only."""
    return ["wget", "-q", "-O", str(task.target), task.url]


def aria2(task: Task) -> Sequence[str]:
    """Download over sixteen connections, then hash."""
    get = f"aria2c -q -x16 -s16 -k1M --file-allocation=falloc -d {task.target.parent} -o {task.target.name} {task.url}"
    return ["sh", "-c", f"{get} && sha256sum {task.target} | grep -q {task.digest}"]


def requests_and_hash(task: Task) -> Sequence[str]:
    """Download over one connection with the library most programs use, then hash."""
    script = task.target.parent / "get.py"
    script.write_text(REQUESTS)
    return ["sh", "-c", f"{sys.executable} {script} {task.url} {task.target} && sha256sum {task.target} >/dev/null"]


PROGRAMS: Mapping[str, Program] = {
    "ours, verified": ours,
    "curl, unverified": curl,
    "wget, unverified": wget,
    "aria2c -x16 + sha256sum": aria2,
    "requests + sha256sum": requests_and_hash,
}


def main() -> None:
    """Run all programs in turn, round after round, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        sys.exit(f"not installed: {', '.join(missing)}; on Debian: apt-get install nginx-light aria2 curl wget")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        digest, size = make_file(folder / "www" / "model.bin", int(given.gigabytes * 1e9))
        with nginx(folder) as (free, capped):
            print(f"{size / 1e9:.2f} GB, {given.rounds} rounds, medians; {machine()}\n")
            for title, port in ((f"each connection limited to {CAP}B/s", capped), ("no limit", free)):
                url = f"http://127.0.0.1:{port}/model.bin"
                with catalogue(url, digest, size) as lookup_url:
                    task = Task(url, folder / "out" / "model.bin", digest, size, lookup_url)
                    tell(title, task, rounds(task, given.rounds))


def rounds(task: Task, count: int) -> dict[str, list[Run]]:
    """Run the programs in turn: what disturbs this computer disturbs them all."""
    results: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    for _ in range(count):
        for name, program in PROGRAMS.items():
            shutil.rmtree(task.target.parent, ignore_errors=True)
            task.target.parent.mkdir()
            results[name].append(measured(program(task)))
    return results


def measured(command: Sequence[str]) -> Run:
    """Run a command to its end and account for it and all its children."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = _Peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with status {process.returncode}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak.end() / 1e6)


class _Peak:
    """Samples the memory of a process and its children: what wait4 tells begins with the memory of its parent."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            with suppress(psutil.Error):
                top = psutil.Process(self._pid)
                family = [top, *top.children(recursive=True)]
                self._most = max([self._most, *(each.memory_info().rss for each in family)])

    def end(self) -> int:
        """Return the most that any one process of them held, bytes."""
        self._over.set()
        self._thread.join()
        return self._most


def tell(title: str, task: Task, results: Mapping[str, Sequence[Run]]) -> None:
    """Print one origin's table."""
    hashing = hash_seconds(task.size)
    reference = statistics.median(run.seconds for run in results["ours, verified"])
    print(f"origin: {title}; one core hashes this much in {hashing:.1f} s\n")
    print("| program | seconds | ours is faster by | CPU s per GB | peak MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, runs in results.items():
        seconds = statistics.median(run.seconds for run in runs)
        cpu = statistics.median(run.cpu for run in runs) / (task.size / 1e9)
        peak = max(run.peak_mb for run in runs)
        print(f"| {name} | {seconds:.2f} | {seconds / reference:.2f} | {cpu:.2f} | {peak:.0f} |")
    print()


def hash_seconds(size: int) -> float:
    """Measure how long one core needs to hash this much."""
    block, hasher, began = bytes(BLOCK), sha256(), time.monotonic()
    for _ in range(8):
        hasher.update(block)
    return (time.monotonic() - began) / (8 * BLOCK) * size


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
    configuration.write_text(NGINX.format(folder=folder, free=free, capped=capped, cap=CAP))
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


def machine() -> str:
    """Describe this computer."""
    day = time.strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {day}"


if __name__ == "__main__":
    main()
