"""What a picture costs on its whole way: against a bare diffusers loop, and against LitServe, in one run.

    make bench-pictures            (on a GPU: make bench-pictures DEVICE=cuda)

The demo model, one torch thread, the same prompts, steps and seeds everywhere. On a computer that does other things as
well only the ratios mean something: every way is measured in turns with the bare loop.
"""

import argparse
import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import requests
from PIL import Image

from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tests.bench.provision import machine
from tests.support.processes import ROOT, Process, free_port, wait_until
from tests.support.servers import Up, environ_of

MODEL = "demo-shapes"
DEMO = ROOT / "app" / "artifacts" / f"{MODEL}.dduf"
PROMPT = "a large red circle on a blue background in the center"
STEPS = 20
PICTURES = 24
"""Of each way and concurrency, unless said otherwise; a multiple of TOGETHER."""

CONCURRENCIES = (1, 4, 8)
LEARNING = 12
"""Clients at once while a machine learns how wide a pass is fast."""
TOGETHER = 4

Draw = Callable[[int], None]
"""Draws the picture of a seed, and returns when it is there."""


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--only", choices=("batching",), help="this part alone")
    parser.add_argument("--tiny", action="store_true", help="run the GPU part with tiny pipelines, on either device")
    options = parser.parse_args()
    if options.device == "cuda" or options.tiny:
        from tests.bench import pictures_cuda  # noqa: PLC0415  # imports the zoo

        pictures_cuda.main(options.device, tiny=options.tiny)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}\n{MODEL}, 128 x 128, {STEPS} steps, one thread\n")
    with tempfile.TemporaryDirectory(prefix="bench-pictures-") as name:
        folder = Path(name)
        if options.only == "batching":
            _batching(folder, options.pictures)
            return
        bare = _bare(_unpacked(folder / "model"))
        _one_after_another(bare, options.pictures)
        _swaps(folder)
        print("\n| over HTTP | at once | pictures/min | p50 of one | CPU s a picture | against the bare loop |")
        print("|---|---:|---:|---:|---:|---:|")
        with _litserve(folder) as (drawn, pid):
            _at_once("LitServe", drawn, pid, bare, options.pictures)
        with _fleet(folder / "fleet", BATCH_DELAY_SECONDS="0") as up:
            _at_once("Imagefleet", lambda seed: _ask(up, seed), up.process.pid, bare, options.pictures)
            print(f"\nphases of a job of one picture, ms, p50: {_phases(up, options.pictures)}")
        with _fleet(folder / "batches", BATCH_MOST=str(TOGETHER)) as up:
            _orders_of_several(up, bare, options.pictures)
        _batching(folder, options.pictures)
    print("\naquiles-image: skipped, it draws on CUDA only")


def _unpacked(folder: Path) -> Path:
    from tasks.machine.drivers.loading import _unpacked as unpacked  # noqa: PLC0415  # imports torch

    with unpacked(DEMO) as found:
        shutil.copytree(found, folder)
    return folder


def _bare(folder: Path) -> Draw:
    """Make what a user would write first."""
    import torch  # noqa: PLC0415  # after OMP_NUM_THREADS is set
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

    torch.set_num_threads(1)
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int) -> None:
        pipeline(PROMPT, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed))

    draw(0)
    return draw


def _ours(together: int = 1, n: int = 1) -> Draw:
    driver = make_driver("diffusers", DriverSettings(device="cpu", together=together))
    model = ModelFiles(MODEL, DEMO, "demo")

    def draw(seed: int) -> None:
        spec = GenerationSpec(model_id=MODEL, prompt=PROMPT, steps=STEPS, seed=seed, n=n)
        for _ in driver.draw(Order(spec, model), lambda _: None):
            pass

    draw(0)
    return draw


def _one_after_another(bare: Draw, pictures: int) -> None:
    """Compare in one process, picture by picture in turns, so that both see the same load."""
    ours, together = _ours(), _ours(TOGETHER, TOGETHER)
    rows: dict[str, list[tuple[float, float]]] = {
        "bare diffusers loop": [],
        "our driver": [],
        f"in batches of {TOGETHER}": [],
    }
    for seed in range(pictures):
        for name, draw in zip(rows, (bare, ours, together), strict=True):
            if name.startswith("in batches") and seed % TOGETHER:
                continue
            rows[name].append(_timed(draw, seed))
    rows[f"in batches of {TOGETHER}"] = [(a / TOGETHER, b / TOGETHER) for a, b in rows[f"in batches of {TOGETHER}"]]
    first = median(cpu for _, cpu in rows["bare diffusers loop"])
    print("| in one process | s a picture, p50 | CPU s a picture, p50 | against the bare loop |")
    print("|---|---:|---:|---:|")
    for name, found in rows.items():
        cpu = median(cpu for _, cpu in found)
        print(f"| {name} | {median(wall for wall, _ in found):.3f} | {cpu:.3f} | {100 * cpu / first:.1f} % |")


def _timed(draw: Draw, seed: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    draw(seed)
    return time.perf_counter() - began, time.process_time() - cpu


def _swaps(folder: Path) -> None:
    """Measure how long the first step of another model takes to come."""
    driver = make_driver("diffusers", DriverSettings(device="cpu"))
    models = {}
    for name in ("A", "B"):
        path = folder / f"{name}.dduf"
        shutil.copy(DEMO, path)
        models[name] = ModelFiles(name, path, name)

    def first_step(name: str) -> float:
        began = time.perf_counter()
        order = Order(GenerationSpec(model_id=name, prompt=PROMPT, steps=1, seed=1), models[name])
        moments = list[float]()
        list(
            driver.draw(order, lambda step: moments.append(time.perf_counter()) if step.phase == "denoising" else None)
        )
        return moments[0] - began

    first_step("A")
    from_memory = [first_step(name) for _ in range(5) if first_step("B") for name in "AB"]
    from_disk = list[float]()
    for _ in range(5):
        for name in "AB":
            driver.free()
            from_disk.append(first_step(name))
    size = DEMO.stat().st_size / 1e6
    print(
        f"\nA→B→A ({size:.0f} MB each), to the first step, p50: {1000 * median(from_disk):.0f} ms from disk, "
        f"{1000 * median(from_memory):.1f} ms from memory"
    )


@contextmanager
def _litserve(folder: Path) -> Iterator[tuple[Draw, int]]:
    """Run LitServe beside, from a folder of its own: this project does not depend on it."""
    packages, port = folder / "packages", free_port()
    install = [sys.executable, "-m", "pip", "install", "-qqq", "--target", str(packages), "litserve"]
    subprocess.run([*install, "--constraint", str(ROOT / "constraints.txt")], check=True)
    environ = environ_of(folder, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    environ["PYTHONPATH"] += f"{os.pathsep}{packages}"
    command = [sys.executable, "-m", "tests.bench.pictures_litserve", str(folder / "model"), str(port)]
    process = Process(command, folder / "litserve.log", environ=environ)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def draw(seed: int) -> None:
        body = {"prompt": PROMPT, "steps": STEPS, "seed": seed}
        answer = requests.post(f"{url}/predict", json=body, timeout=600)
        answer.raise_for_status()
        _check(answer.json()["image"])

    try:
        wait_until(answers, "LitServe answers", seconds=180)
        draw(0)
        yield draw, process.pid
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.stop()
        for child in children:
            if child.is_running():
                child.kill()


@contextmanager
def _fleet(folder: Path, **more: str) -> Iterator[Up]:
    """Run everything on this computer."""
    environ = {
        "DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "MACHINE_ID": "bench",
        "PREVIEW_SECONDS": "1",
        "WEB_THREADS": "32",
        **more,
    }
    up = Up(folder, environ=environ)
    try:
        up.wait_until_serving()
        wait_until(lambda: up.holding(MODEL)["state"] == "ready", "the model is ready", seconds=120)
        _ask(up, 0)
        yield up
    finally:
        up.process.stop()


def _ask(up: Up, seed: int) -> None:
    """Order a picture and wait for its file, in one request, as Automatic1111's clients do."""
    body = {"prompt": PROMPT, "steps": STEPS, "seed": seed, "width": 128, "height": 128}
    answer = requests.post(f"{up.url}/a1111/sdapi/v1/txt2img", json=body, timeout=600)
    answer.raise_for_status()
    _check(answer.json()["images"][0])


def _check(image: str) -> None:
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        assert (picture.format, picture.size) == ("PNG", (128, 128))


def _at_once(name: str, draw: Draw, pid: int, bare: Draw, pictures: int) -> None:
    for count in CONCURRENCIES:
        alone = median(_timed(bare, seed)[1] for seed in range(pictures))
        seconds, cpu, walls = _round(draw, pid, count, pictures)
        print(
            f"| {name} | {count} | {60 * pictures / seconds:.0f} | {median(walls):.2f} s | {cpu:.3f} | "
            f"{100 * cpu / alone:.0f} % |",
            flush=True,
        )


def _round(draw: Draw, pid: int, count: int, pictures: int) -> tuple[float, float, list[float]]:
    """Let so many clients ask at once; returns the seconds of all, the CPU's for each picture, and those of each."""
    with ThreadPoolExecutor(count) as pool:
        began, cpu = time.perf_counter(), _cpu_of(pid)
        walls = [wall for wall, _ in pool.map(lambda seed: _timed(draw, seed), range(pictures))]
        return time.perf_counter() - began, (_cpu_of(pid) - cpu) / pictures, walls


def _batching(folder: Path, pictures: int) -> None:
    """Compare two fleets in turns: in one of them jobs that wait share passes where its machine finds that faster."""
    print("\n| jobs that wait | at once | pictures/min | p50 of one | CPU s a picture | jobs a pass |")
    print("|---|---:|---:|---:|---:|---:|")
    # In turns, so that both see the same load.
    with _fleet(folder / "alone", BATCH_DELAY_SECONDS="0") as alone, _fleet(folder / "together") as together:
        ups = {"each alone": alone, "in one pass": together}
        for up in ups.values():  # the second one learns meanwhile how wide is fast
            _round(partial(_ask, up), up.process.pid, LEARNING, 3 * LEARNING)
        for count in CONCURRENCIES[1:]:
            for name, up in ups.items():
                before = _taken_along(up)
                seconds, cpu, walls = _round(partial(_ask, up), up.process.pid, count, pictures)
                share = pictures / (pictures - _taken_along(up) + before)
                print(
                    f"| {name} | {count} | {60 * pictures / seconds:.0f} | {median(walls):.2f} s | {cpu:.3f} | "
                    f"{share:.1f} |",
                    flush=True,
                )


def _taken_along(up: Up) -> float:
    """Return how many jobs were drawn in the pass of another one so far."""
    text = requests.get(f"{up.url}/metrics", timeout=30).text
    return float(text.partition("\nimagefleet_batched_jobs_total ")[2].partition("\n")[0])


def _cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and all below it: of a busy computer they say more than the clock."""
    top = psutil.Process(pid)
    times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _orders_of_several(up: Up, bare: Draw, pictures: int) -> None:
    alone = median(_timed(bare, seed)[1] for seed in range(pictures))
    began, cpu = time.perf_counter(), _cpu_of(up.process.pid)
    for seed in range(0, pictures, TOGETHER):
        order = {"model_id": MODEL, "prompt": PROMPT, "steps": STEPS, "seed": seed, "n": TOGETHER}
        assert up.ended(up.post("v1/jobs", order)["job_id"], 600)["status"] == "completed"
    rate, cpu = pictures / (time.perf_counter() - began), (_cpu_of(up.process.pid) - cpu) / pictures
    print(
        f"orders of {TOGETHER} pictures in one batch: {60 * rate:.0f}/min, {cpu:.3f} CPU s a picture in all processes, "
        f"{100 * cpu / alone:.0f} % of the bare loop's"
    )


def _phases(up: Up, pictures: int) -> str:
    jobs: list[dict[str, Any]] = up.get(f"v1/jobs?limit={pictures}")["jobs"]
    timings = [up.get(f"v1/jobs/{job['job_id']}")["attempts"][-1]["timings"] for job in jobs]
    names = dict.fromkeys(name for each in timings for name in each if name != "queued")
    return ", ".join(f"{name} {1000 * median(each.get(name, 0.0) for each in timings):.1f}" for name in names)


if __name__ == "__main__":
    main()
