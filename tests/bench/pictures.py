"""What a picture costs on its whole way: against a bare diffusers loop, and against LitServe, in one run.

    make bench-pictures            (on a GPU: make bench-pictures DEVICE=cuda)

First a picture that takes as long as one usually does (`pictures_typical`), then the demo model's. One torch thread,
the same prompts, steps and seeds everywhere. On a computer that does other things as well only the ratios mean
something: every way is measured in turns with the bare loop. `--only` runs one part; all take some five minutes.
"""

import argparse
import base64
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import requests
from PIL import Image

from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tests.bench.pictures_serving import Draw, cpu_of, fleet, litserve, taken_along, timed
from tests.bench.provision import machine
from tests.support.processes import ROOT
from tests.support.servers import Up

MODEL = "demo-shapes"
DEMO = ROOT / "app" / "artifacts" / f"{MODEL}.dduf"
PROMPT = "a large red circle on a blue background in the center"
STEPS = 20
PICTURES = 12
"""Of each way and concurrency, unless said otherwise; a multiple of TOGETHER."""

CONCURRENCIES = (1, 4, 8)
LEARNING = 12
"""Clients at once while a machine learns how wide a pass is fast."""
TOGETHER = 4


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    parser.add_argument("--tiny", action="store_true", help="run the GPU part with tiny pipelines, on either device")
    options = parser.parse_args()
    if options.device == "cuda" or options.tiny:
        from tests.bench import pictures_cuda  # noqa: PLC0415  # imports the zoo

        pictures_cuda.main(options.device, tiny=options.tiny)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    parts = [options.only] if options.only else list(PARTS)
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="bench-pictures-") as name:
            PARTS[part](Path(name), options.pictures)


def _typical(folder: Path, _: int) -> None:
    from tests.bench import pictures_typical  # noqa: PLC0415  # imports torch, which reads OMP_NUM_THREADS

    pictures_typical.main(folder)


def _small(folder: Path, pictures: int) -> None:
    """Draw pictures that take a fraction of a second: what is the same for each weighs heaviest there."""
    print(f"\n{MODEL}, 128 x 128, {STEPS} steps, one thread\n")
    bare = _bare(_unpacked(folder / "model"))
    _one_after_another(bare, pictures)
    _swaps(folder)
    print("\n| over HTTP | at once | pictures/min | p50 of one | CPU s a picture | against the bare loop |")
    print("|---|---:|---:|---:|---:|---:|")
    with litserve(folder, folder / "model") as (url, pid):
        ask = partial(_ask_litserve, url)
        ask(0)
        _at_once("LitServe", ask, pid, bare, pictures)
    print("| aquiles-image | | skipped: it draws on CUDA only | | | |")
    with _demo(folder / "fleet", BATCH_DELAY_SECONDS="0") as up:
        _at_once("Imagefleet", partial(_ask, up), up.process.pid, bare, pictures)
        print(f"\nphases of a job of one picture, ms, p50: {_phases(up, pictures)}")
    with _demo(folder / "batches", BATCH_MOST=str(TOGETHER)) as up:
        _orders_of_several(up, bare, pictures)


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
            rows[name].append(timed(draw, seed))
    rows[f"in batches of {TOGETHER}"] = [(a / TOGETHER, b / TOGETHER) for a, b in rows[f"in batches of {TOGETHER}"]]
    first = median(cpu for _, cpu in rows["bare diffusers loop"])
    print("| in one process | s a picture, p50 | CPU s a picture, p50 | against the bare loop |")
    print("|---|---:|---:|---:|")
    for name, found in rows.items():
        cpu = median(cpu for _, cpu in found)
        print(f"| {name} | {median(wall for wall, _ in found):.3f} | {cpu:.3f} | {100 * cpu / first:.1f} % |")


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


def _ask_litserve(url: str, seed: int) -> None:
    answer = requests.post(f"{url}/predict", json={"prompt": PROMPT, "steps": STEPS, "seed": seed}, timeout=600)
    answer.raise_for_status()
    _check(answer.json()["image"])


@contextmanager
def _demo(folder: Path, **more: str) -> Iterator[Up]:
    with fleet(folder, MODEL, **more) as up:
        _ask(up, 0)
        yield up


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
        alone = median(timed(bare, seed)[1] for seed in range(pictures))
        seconds, cpu, walls = _round(draw, pid, count, pictures)
        print(
            f"| {name} | {count} | {60 * pictures / seconds:.0f} | {median(walls):.2f} s | {cpu:.3f} | "
            f"{100 * cpu / alone:.0f} % |",
            flush=True,
        )


def _round(draw: Draw, pid: int, count: int, pictures: int) -> tuple[float, float, list[float]]:
    """Let so many clients ask at once; returns the seconds of all, the CPU's for each picture, and those of each."""
    with ThreadPoolExecutor(count) as pool:
        began, cpu = time.perf_counter(), cpu_of(pid)
        walls = [wall for wall, _ in pool.map(lambda seed: timed(draw, seed), range(pictures))]
        return time.perf_counter() - began, (cpu_of(pid) - cpu) / pictures, walls


def _batching(folder: Path, pictures: int) -> None:
    """Compare two fleets in turns: in one of them jobs that wait share passes where its machine finds that faster."""
    print("\n| jobs that wait | at once | pictures/min | p50 of one | CPU s a picture | jobs a pass |")
    print("|---|---:|---:|---:|---:|---:|")
    # In turns, so that both see the same load.
    with _demo(folder / "alone", BATCH_DELAY_SECONDS="0") as alone, _demo(folder / "together") as together:
        ups = {"each alone": alone, "in one pass": together}
        for up in ups.values():  # the second one learns meanwhile how wide is fast
            _round(partial(_ask, up), up.process.pid, LEARNING, 3 * LEARNING)
        for count in CONCURRENCIES[1:]:
            for name, up in ups.items():
                before = taken_along(up)
                seconds, cpu, walls = _round(partial(_ask, up), up.process.pid, count, pictures)
                share = pictures / (pictures - taken_along(up) + before)
                print(
                    f"| {name} | {count} | {60 * pictures / seconds:.0f} | {median(walls):.2f} s | {cpu:.3f} | "
                    f"{share:.1f} |",
                    flush=True,
                )


def _orders_of_several(up: Up, bare: Draw, pictures: int) -> None:
    alone = median(timed(bare, seed)[1] for seed in range(pictures))
    began, cpu = time.perf_counter(), cpu_of(up.process.pid)
    for seed in range(0, pictures, TOGETHER):
        order = {"model_id": MODEL, "prompt": PROMPT, "steps": STEPS, "seed": seed, "n": TOGETHER}
        assert up.ended(up.post("v1/jobs", order)["job_id"], 600)["status"] == "completed"
    rate, cpu = pictures / (time.perf_counter() - began), (cpu_of(up.process.pid) - cpu) / pictures
    print(
        f"orders of {TOGETHER} pictures in one batch: {60 * rate:.0f}/min, {cpu:.3f} CPU s a picture in all processes, "
        f"{100 * cpu / alone:.0f} % of the bare loop's"
    )


def _phases(up: Up, pictures: int) -> str:
    jobs: list[dict[str, Any]] = up.get(f"v1/jobs?limit={pictures}")["jobs"]
    timings = [up.get(f"v1/jobs/{job['job_id']}")["attempts"][-1]["timings"] for job in jobs]
    names = dict.fromkeys(name for each in timings for name in each if name != "queued")
    return ", ".join(f"{name} {1000 * median(each.get(name, 0.0) for each in timings):.1f}" for name in names)


PARTS: Mapping[str, Callable[[Path, int], None]] = {"typical": _typical, "small": _small, "batching": _batching}


if __name__ == "__main__":
    main()
