"""The machine's Celery app, and everything it is joined from."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down
from celery.worker import state

from app import logs, tracing
from app.broker import make_celery
from app.core.dispatch import ENGINES, GENERATE, machine_queue
from app.live import NoLive, RedisLive
from app.processes import GAVE_UP
from app.settings import Settings
from provisioning import status
from tasks.machine import computer
from tasks.machine.affinity import Affinity, AffinityOrder
from tasks.machine.boot import Boot, NotingClient, start_of
from tasks.machine.courier import Courier
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import Driver, DriverSettings
from tasks.machine.engines import EngineKeeper
from tasks.machine.health import Pulse, pulse_path
from tasks.machine.pictures import Pictures
from tasks.machine.readiness import QueueGate, gate_step
from tasks.machine.smoke import SmokeTest
from tasks.machine.sources import make_source, warn
from tasks.machine.spool import Spool
from tasks.machine.watch import Watch
from tasks.machine.widths import USUAL_MOST, Widths
from tasks.machine.work import Worker

log = logging.getLogger(__name__)

JOBS_AHEAD = 1
"""So many jobs may be on their way to the API while the next one is drawn: one hides encoding and uploading, and no
more pictures than those of two jobs are in memory."""

GOODBYE_SECONDS = 8.0
"""What a machine that stops waits for its last pictures to be delivered, of the 15 s that its host allows."""


def register(celery: Celery, worker: Worker, look_at_engines: Callable[[], None] = lambda: None) -> None:
    """Teach this Celery app to generate, and to look which engines it should hold."""

    @celery.task(
        name=GENERATE, shared=False, bind=True
    )  # a shared task leaks into every other Celery app of the process
    def generate(task: Any, job_id: str) -> None:
        with logs.about(bell=job_id), tracing.span(GENERATE, "consumer", task.request.get(tracing.TRACEPARENT) or ""):
            worker.run(UUID(job_id))

    @celery.task(name=ENGINES, shared=False)  # as above
    def engines(_engine_id: str) -> None:
        look_at_engines()


class LazyDriver:
    """Makes the driver in the background: importing torch and diffusers takes longer than joining a queue."""

    def __init__(self, make: Callable[[], Driver]) -> None:
        self._make = make
        self._driver: Driver | None = None
        self._error: Exception | None = None
        self._made = threading.Event()

    def start(self) -> None:
        """Begin making it."""
        threading.Thread(target=self._run, name="driver", daemon=True).start()

    def _run(self) -> None:
        try:
            self._driver = self._make()
        except Exception as exc:  # it is raised where the driver is asked for
            log.exception("the driver could not be made")
            self._error = exc
        self._made.set()

    def __call__(self) -> Driver:
        """Wait for the driver."""
        self._made.wait()
        if self._driver is None:
            raise RuntimeError(f"the driver could not be made: {self._error}")
        return self._driver

    def device(self) -> dict[str, Any]:
        """Describe what draws, as soon as that is known."""
        return {**self._driver.device(), "loaded": self._driver.loaded()} if self._driver else {}


def run(settings: Settings, began: float) -> None:
    """Work until told to stop: the body of a machine's worker process, whose start began in seconds since 1970."""
    provisioned = partial(status.read, settings.models_dir)
    boot = Boot(began, provisioned if settings.driver != "automatic1111" else status.Status)
    boot.note("booting")
    client = NotingClient(settings.fleet_url, settings.machine_token, settings.machine_id, uuid4().hex, boot)
    learnt = settings.data_dir / "learnt" / settings.machine_id
    told = DriverSettings(
        device=settings.device,
        gpu_memory=settings.gpu_memory_mb * 10**6,
        cpu_cache=settings.cpu_cache_mb * 10**6,
        allow_pickles=settings.allow_pickles,
        folder=learnt,
        together=settings.batch_most,
        compile=settings.torch_compile,
        attention=settings.attention,
        step_seconds=settings.fake_step_seconds,
        load_seconds=settings.fake_load_seconds,
        server_url=settings.a1111_base_url,
        server_auth=settings.a1111_auth,
        server_seconds=settings.a1111_timeout_seconds,
        server_away_seconds=settings.a1111_away_seconds,
    )
    gate = QueueGate(on_joined=boot.joined)
    source = make_source(settings, client, leave_queues=lambda: gate.follow(frozenset()))
    driver = LazyDriver(partial(make_driver, settings.driver, told))
    affinity = Affinity(settings.affinity_seconds)
    worker = Worker(
        client=client,
        live=RedisLive(settings.live_url) if settings.live_url.startswith("redis") else NoLive(),
        spool=Spool(settings.data_dir / "spool" / settings.machine_id, settings.spool_mb * 10**6),
        driver=driver,
        files_of=source.files_of,
        companions_of=source.companions_of,
        pictures_of=Pictures(client.picture),
        lease=source.lease,
        grace=settings.drain_seconds,
        preview_seconds=settings.preview_seconds,
        on_model=affinity.stay_with,
        courier=Courier(JOBS_AHEAD),
        widths=Widths(settings.batch_most or USUAL_MOST, settings.batch_delay_seconds, learnt / "widths.json"),
    )
    smoke = SmokeTest(
        driver=driver,
        files_of=lambda model_id: source.files_of(model_id, None),
        is_drawable=lambda model_id: client.kind_of(model_id) == "checkpoint",
        folder=settings.data_dir / "smoke",
        device_lock=worker.device_lock,
    )
    keeper = EngineKeeper(
        driver=driver,
        files_of=source.files_of,
        companions_of=source.companions_of,
        lease=source.lease,
        device_lock=worker.device_lock,
        advertised=lambda: gate.joined,
    )
    watch = Watch(
        proofs=source.proofs,
        client=client,
        worker=worker,
        gate=gate,
        version=version("imagefleet"),
        device=lambda: {**driver.device(), **source.about(), "computer": computer.about()},
        smoke=smoke if settings.smoke_test else None,
        engines=keeper,
        boot=boot.report,
        pulse=Pulse(pulse_path(settings.data_dir, settings.machine_id), gate).beat
        if settings.machine_health_port
        else lambda: None,
    )
    worker.on_turned_away = watch.turned_away

    def give_up() -> None:
        """End this process with its own status, also where Celery has not yet begun to listen to signals."""
        worker.stop()
        worker.stop()  # at once: what it draws is not wanted any more
        state.should_stop = GAVE_UP

    watch.on_too_old = give_up
    celery = make_celery(settings, f"imagefleet-machine-{settings.machine_id}", AffinityOrder(affinity))
    register(celery, worker, watch.hurry)
    celery.steps["consumer"].add(gate_step(gate))

    @worker_ready.connect(weak=False)
    def on_ready(**_: object) -> None:
        boot.note("connecting")
        # Celery's own answer to a second SIGINT waits in the handler for the job that it should end.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))

    @worker_shutting_down.connect(weak=False)
    def on_shutdown(**_: object) -> None:
        watch.leave()
        worker.stop()

    @worker_shutdown.connect(weak=False)
    def on_end(**_: object) -> None:
        worker.courier.wait(timeout=GOODBYE_SECONDS)  # what is not home by then waits in the spool
        watch.say_goodbye()

    @setup_logging.connect(weak=False)
    def log_as_we_do(**_: object) -> None:
        logs.configure(settings.log_level, settings.log_format, machine_id=settings.machine_id)

    logs.configure(settings.log_level, settings.log_format, machine_id=settings.machine_id)
    warn(settings)
    driver.start()
    keeper.start()
    watch.start()
    celery.worker_main(
        [
            "--quiet",
            "worker",
            f"--hostname=machine@{settings.machine_id}",
            f"--queues={machine_queue(settings.machine_id)}",
            "--pool=threads",
            "--concurrency=1",
            "--without-gossip",  # each worker listening to every other one is O(n²): 100 of them cost two cores
            "--without-mingle",
            f"--loglevel={settings.log_level}",
        ],
    )
    if state.should_stop == GAVE_UP:  # Celery keeps to itself with what its worker ended
        sys.exit(GAVE_UP)


def quiet_libraries(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment a worker must have before torch and the Hugging Face libraries are imported.

    Models come from provisioning alone: nothing may be fetched, or run, from a hub at drawing time.
    """
    wanted = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    chosen = {name: value for name, value in environ.items() if name != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    # Others' code too, such as an annotator's, reads weights and runs nothing, whatever it asks torch for.
    return {**wanted, **chosen, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}


def main() -> None:
    """Run one worker, as its environment says."""
    began = start_of(os.environ)
    os.environ.update(quiet_libraries(os.environ))
    settings = Settings.load(os.environ).require_broker().require_driver()
    tracing.start("machine", os.environ, **{"service.instance.id": settings.machine_id})
    # What torch compiles outlives the process; it reads this when it is imported.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.data_dir / "compiled"))
    run(settings, began)
