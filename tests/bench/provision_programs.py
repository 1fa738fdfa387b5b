"""The programs that the provisioning bench compares, each as the command that runs it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import hub

WIDTH = 16
OURS = "ours, verified"
CURL = "curl"
WIDE = "16 curls, a sixteenth each"
ARIA2 = "aria2c -x16, sha256sum"

REQUESTS = """
import sys, requests
with requests.get(sys.argv[1], stream=True, timeout=60) as reply, open(sys.argv[2], "wb") as file:
    for block in reply.iter_content(1 << 20):
        file.write(block)
"""


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


def curl_and_sync(task: Task) -> Sequence[str]:
    """Download, and wait until the file is on the disk, as ours does."""
    return ["sh", "-c", f"curl -sf -o {task.target} {task.url} && sync {task.target}"]


def curls(task: Task) -> Sequence[str]:
    """Download over sixteen connections at once, each its part into a file of its own; nothing puts them together."""
    part = -(-task.size // WIDTH)
    ranges = [f"{start}-{min(start + part, task.size) - 1}" for start in range(0, task.size, part)]
    gets = [f"curl -sf -r {each} -o {task.target}.{number} {task.url} &" for number, each in enumerate(ranges)]
    return ["sh", "-c", " ".join([*gets, "wait"])]


def wget(task: Task) -> Sequence[str]:
    """Download only."""
    return ["wget", "-q", "-O", str(task.target), task.url]


def aria2(task: Task, hashing: str = "sha256sum") -> Sequence[str]:
    """Download over sixteen connections, then hash."""
    get = f"aria2c -q -x16 -s16 -k1M --file-allocation=falloc -d {task.target.parent} -o {task.target.name} {task.url}"
    return ["sh", "-c", f"{get} && {hashing} {task.target} | grep -q {task.digest}"]


def requests_and_hash(task: Task) -> Sequence[str]:
    """Download over one connection with the library most programs use, then hash."""
    script = task.target.parent / "get.py"
    script.write_text(REQUESTS)
    return ["sh", "-c", f"{sys.executable} {script} {task.url} {task.target} && sha256sum {task.target} >/dev/null"]


PROGRAMS: Mapping[str, Program] = {
    OURS: ours,
    CURL: curl,
    WIDE: curls,
    "curl, sync": curl_and_sync,
    "wget": wget,
    ARIA2: aria2,
    "aria2c -x16, openssl sha256": lambda task: aria2(task, "openssl sha256"),
    "requests, sha256sum": requests_and_hash,
    "huggingface_hub, sha256sum": lambda task: hub.download_and_hash(task.url, task.target),
}
"""Every one after ours leaves something out: the hash, or the fsync, or both."""
