"""What serves pictures beside the bare loop in `make bench-pictures`, and how both are measured."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from tests.support.processes import ROOT, Process, free_port, wait_until
from tests.support.servers import Up, environ_of

MACHINE = "bench"

Draw = Callable[[int], None]
"""Draws the picture of a seed, and returns when it is there."""


def timed(draw: Draw, seed: int) -> tuple[float, float]:
    """Draw a picture; returns its seconds, and the CPU's of this process."""
    began, cpu = time.perf_counter(), time.process_time()
    draw(seed)
    return time.perf_counter() - began, time.process_time() - cpu


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and all below it: of a busy computer they say more than the clock."""
    top = psutil.Process(pid)
    times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def fleet(folder: Path, model_id: str, **more: str) -> Iterator[Up]:
    """Run everything on this computer, with a machine that is ready for a model."""
    environ = {
        "DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "MACHINE_ID": MACHINE,
        "MACHINE_MODELS_NEEDED": model_id,
        "PREVIEW_SECONDS": "1",
        "WEB_THREADS": "32",
        **more,
    }
    up = Up(folder, environ=environ)
    try:
        up.wait_until_serving()
        wait_until(lambda: up.holding(model_id)["state"] == "ready", "the model is ready", seconds=120)
        yield up
    finally:
        up.process.stop()


def taken_along(up: Up) -> float:
    """Return how many jobs were drawn in the pass of another one so far."""
    text = requests.get(f"{up.url}/metrics", timeout=30).text
    return float(text.partition("\nimagefleet_batched_jobs_total ")[2].partition("\n")[0])


@contextmanager
def litserve(folder: Path, model: Path) -> Iterator[tuple[str, int]]:
    """Run LitServe beside, from a folder of its own: this project does not depend on it; yields its address and pid."""
    packages, port = folder / "packages", free_port()
    install = [sys.executable, "-m", "pip", "install", "-qqq", "--target", str(packages), "litserve"]
    subprocess.run([*install, "--constraint", str(ROOT / "constraints.txt")], check=True)
    environ = environ_of(folder, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    environ["PYTHONPATH"] += f"{os.pathsep}{packages}"
    command = [sys.executable, "-m", "tests.bench.pictures_litserve", str(model), str(port)]
    process = Process(command, folder / "litserve.log", environ=environ)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers, "LitServe answers", seconds=180)
        yield url, process.pid
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.stop()
        for child in children:
            if child.is_running():
                child.kill()
