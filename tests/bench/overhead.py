"""What watching costs a picture: each step, the whole, and how soon a wish to cancel is noticed.

    make bench-overhead

On a real Redis, near and behind a line of 50 milliseconds; once as it was (a round trip in each step's callback) and
once as it is (a note in the callback, a thread beside the drawing). The steps themselves sleep, so that the process's
own CPU seconds are those of the watching alone.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np

from app.core.live import LiveStore, Progress
from app.live import RedisLive
from tasks.machine.drivers.contract import Step
from tasks.machine.drivers.previews import LatentColours
from tasks.machine.encode import encode_preview
from tasks.machine.reporter import Reporter
from tests.bench.provision import machine
from tests.support.broker import running_broker
from tests.support.delay import delayed

STEPS = 100
STEP_SECONDS = 0.05
"""Denoising of SDXL on a large GPU."""

PREVIEW_SECONDS = 1.0
LINE_SECONDS = 0.05
CANCELS = 20

Note = Callable[[Step], None]


def main() -> None:
    """Measure, and print tables."""
    print(f"{machine()}\n")
    print(
        f"{STEPS} steps of {1000 * STEP_SECONDS:g} ms, previews of 4 x 128 x 128 latents every {PREVIEW_SECONDS:g} s\n"
    )
    print("| store | way | a step waits, p50 | p99 | CPU of the watching | picture takes longer by |")
    print("|---|---|---:|---:|---:|---:|")
    with running_broker() as broker:
        near = urlsplit(broker.url)
        with delayed(str(near.hostname), int(near.port or 0), LINE_SECONDS / 2) as port:
            far = near._replace(netloc=near.netloc.replace(f":{near.port}", f":{port}"))
            stores = {"on this computer": broker.url, f"{1000 * LINE_SECONDS:g} ms away": far.geturl()}
            print(f"| none | not watched | {_drawn(RedisLive(broker.url), _not_at_all).row()} |")
            for name, url in stores.items():
                for way, watched in (("before", _in_the_callback), ("now", _beside)):
                    print(f"| {name} | {way} | {_drawn(RedisLive(url), watched).row()} |")
            print("\n| store | wish to cancel noticed after, p50 | most |\n|---|---:|---:|")
            for name, url in stores.items():
                seconds = [_notice(RedisLive(url)) for _ in range(CANCELS)]
                print(f"| {name} | {1000 * median(seconds):.0f} ms | {1000 * max(seconds):.0f} ms |")
    print(f"\none preview: {1000 * _preview_seconds():.1f} ms of CPU, beside the drawing")


@dataclass(slots=True)
class Cost:
    """What one picture paid."""

    waits: list[float] = field(default_factory=list)
    cpu: float = 0.0
    seconds: float = 0.0

    def row(self) -> str:
        """Return the cells of a table."""
        whole = STEPS * STEP_SECONDS
        slowest = quantiles(self.waits, n=100)[-1]
        return (
            f"{1e6 * median(self.waits):.0f} µs | {1e6 * slowest:.0f} µs | {100 * self.cpu / self.seconds:.2f} % | "
            f"{100 * sum(self.waits) / whole:.3f} %"
        )


@contextmanager
def _not_at_all(_live: LiveStore) -> Iterator[Note]:
    yield lambda _step: None


@contextmanager
def _in_the_callback(live: LiveStore) -> Iterator[Note]:
    job_id = uuid4()

    def note(step: Step) -> None:
        live.report(job_id, Progress(1, step.phase, step.step, step.steps, step.image, 1))

    yield note


@contextmanager
def _beside(live: LiveStore) -> Iterator[Note]:
    with Reporter(live, (uuid4(), 1), 1, PREVIEW_SECONDS) as reporter:
        yield reporter.note


def _drawn(live: LiveStore, watched: Callable[[LiveStore], AbstractContextManager[Note]]) -> Cost:
    latents, colours, cost = np.random.default_rng(1).normal(size=(4, 128, 128)), LatentColours(0.13025), Cost()
    live.is_unwanted(uuid4())  # the connection is made before a picture begins
    with watched(live) as note:
        began, cpu = time.monotonic(), time.process_time()
        for number in range(1, STEPS + 1):
            time.sleep(STEP_SECONDS)
            before = time.perf_counter()
            note(Step("denoising", number, STEPS, 0, lambda: colours.picture(latents)))
            cost.waits.append(time.perf_counter() - before)
        cost.seconds, cost.cpu = time.monotonic() - began, time.process_time() - cpu
    return cost


def _notice(live: LiveStore) -> float:
    """Return the seconds between a client's wish and the moment from which the next step stops the drawing."""
    job_id, noticed = uuid4(), threading.Event()
    with Reporter(live, (job_id, 1), 1, 0) as reporter:
        time.sleep(0.25 + np.random.default_rng().uniform(0, 0.1))
        live.ask_to_cancel(job_id)
        asked = time.monotonic()
        while not reporter.unwanted:
            noticed.wait(0.001)
        return time.monotonic() - asked


def _preview_seconds() -> float:
    latents, colours = np.random.default_rng(1).normal(size=(4, 128, 128)), LatentColours(0.13025)
    began = time.process_time()
    for _ in range(20):
        encode_preview(colours.picture(latents))
    return (time.process_time() - began) / 20


if __name__ == "__main__":
    main()
