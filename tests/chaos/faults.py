"""What can be done to the system: killing, pausing and restarting its parts."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
import redis
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.lifecycle import AttemptState
from app.core.tables import Attempt
from tests.support.system import Part, System

SILENT = 10.0
"""A machine that is paused for longer is taken for lost."""

AT_BUSY_ONES = 0.8
"""How often a machine is chosen because it draws: idle ones have little to lose."""

Undo = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Struck:
    """What a fault has done, and how it is taken back."""

    what: str
    seconds: float = 0.0
    """After so long it is taken back."""
    undo: Undo | None = None


def _machine(system: System, dice: random.Random) -> Part | None:
    """Choose a machine that runs, and leave one alone: somebody must draw."""
    running = [part for part in system.machines if not part.rests and part.tree()]
    busy = _drawing(system) if dice.random() < AT_BUSY_ONES else set()
    return dice.choice([part for part in running if part.name in busy] or running) if len(running) > 1 else None


def _drawing(system: System) -> set[str]:
    """Name the machines that draw at this moment; none while the database cannot be asked."""
    if not _can_be_stopped(system):
        return set()  # a paused one would never answer: who wakes it up is waiting here
    try:
        with Session(system.engine) as session:
            return set(session.scalars(select(Attempt.machine_id).where(Attempt.state == AttemptState.RUNNING)))
    except SQLAlchemyError:
        return set()


def _pause(processes: Sequence[psutil.Process]) -> Undo:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()

    def resume() -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    return resume


def kill_worker(system: System, dice: random.Random) -> Struck | None:
    machine = _machine(system, dice)
    worker = machine.child("tasks.machine") if machine else None
    if machine is None or worker is None:
        return None
    worker.kill()
    return Struck(machine.name)


def kill_machine(system: System, dice: random.Random) -> Struck | None:
    machine = _machine(system, dice)
    if machine is None:
        return None
    machine.kill()
    return Struck(machine.name, dice.uniform(0, 15), machine.start)


def pause_worker(system: System, dice: random.Random) -> Struck | None:
    machine = _machine(system, dice)
    worker = machine.child("tasks.machine") if machine else None
    if machine is None or worker is None:
        return None
    seconds = dice.uniform(1, 8)
    return Struck(f"{machine.name} for {seconds:.1f} s", seconds, _pause([worker]))


def pause_machine_for_long(system: System, dice: random.Random) -> Struck | None:
    machine = _machine(system, dice)
    if machine is None:
        return None
    seconds = dice.uniform(SILENT + 2, SILENT + 10)
    return Struck(f"{machine.name} for {seconds:.1f} s", seconds, _pause(machine.tree()))


def pause_worker_that_delivers(system: System, dice: random.Random) -> Struck | None:
    """Pause a worker between its picture and the API for longer than it may be silent: its result comes late."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        for machine in system.machines:
            if machine.rests or not list(system.spool_of(machine.name).glob("*/outcome.json")):
                continue
            if (worker := machine.child("tasks.machine")) is not None:
                seconds = dice.uniform(SILENT + 3, SILENT + 8)
                return Struck(f"{machine.name} for {seconds:.1f} s", seconds, _pause([worker]))
        time.sleep(0.001)
    return None


def stop_machine(system: System, dice: random.Random) -> Struck | None:
    machine = _machine(system, dice)
    if machine is None or machine.process is None:
        return None
    machine.process.send(signal.SIGTERM)  # it drains, ends, and is started anew
    return Struck(machine.name)


def kill_web_process(system: System, dice: random.Random) -> Struck | None:
    children = system.parts["web"].tree()[1:]
    if not children:
        return None
    dice.choice(children).kill()
    return Struck("one of its processes")


def kill_web_master(system: System, dice: random.Random) -> Struck | None:
    web = system.parts["web"]
    if web.rests or not web.tree():
        return None
    web.rests = True
    web.tree()[0].kill()
    return Struck("its processes end by themselves", dice.uniform(0.5, 4), web.start)


def pause_web_process(system: System, dice: random.Random) -> Struck | None:
    children = system.parts["web"].tree()[1:]
    if not children:
        return None
    seconds = dice.uniform(1, 6)
    return Struck(f"for {seconds:.1f} s", seconds, _pause([dice.choice(children)]))


def restart_web(system: System, _dice: random.Random) -> Struck | None:
    web = system.parts["web"]
    if web.rests or web.process is None:
        return None
    web.process.send(signal.SIGTERM)
    return Struck("told to stop, started anew")


def kill_control(system: System, dice: random.Random) -> Struck | None:
    control = system.parts["control"]
    if control.rests:
        return None
    control.kill()
    return Struck("", dice.uniform(0, 6), control.start)


def pause_control(system: System, dice: random.Random) -> Struck | None:
    seconds = dice.uniform(2, 12)
    tree = system.parts["control"].tree()
    return Struck(f"for {seconds:.1f} s", seconds, _pause(tree)) if tree else None


def restart_control(system: System, _dice: random.Random) -> Struck | None:
    control = system.parts["control"]
    if control.rests or control.process is None:
        return None
    control.process.send(signal.SIGTERM)
    return Struck("told to stop, started anew")


def kill_beat(system: System, dice: random.Random) -> Struck | None:
    beat = system.parts["beat"]
    if beat.rests:
        return None
    beat.kill()
    return Struck("", dice.uniform(0, 6), beat.start)


def kill_redis(system: System, dice: random.Random) -> Struck | None:
    if system.broker.process is None:
        return None
    system.broker.kill(lose_everything=True)
    return Struck("comes back empty", dice.uniform(0, 4), system.broker.start)


def flush_redis(system: System, _dice: random.Random) -> Struck | None:
    if system.broker.process is None:
        return None
    with suppress(redis.RedisError):  # it may be paused at this moment
        system.broker.clear()
        return Struck("forgets everything")
    return None


def pause_redis(system: System, dice: random.Random) -> Struck | None:
    if system.broker.process is None:
        return None
    seconds = dice.uniform(1, 5)
    return Struck(f"for {seconds:.1f} s", seconds, _pause([psutil.Process(system.broker.process.pid)]))


def _can_be_stopped(system: System) -> bool:
    """Say whether PostgreSQL runs and is not paused: then it could not end, and its memory would stay taken."""
    process = system.postgres.process
    return process is not None and psutil.Process(process.pid).status() != psutil.STATUS_STOPPED


def restart_postgresql(system: System, dice: random.Random) -> Struck | None:
    if not _can_be_stopped(system):
        return None
    system.postgres.stop()
    return Struck("", dice.uniform(0, 3), system.postgres.start)


def crash_postgresql(system: System, dice: random.Random) -> Struck | None:
    if not _can_be_stopped(system):
        return None
    system.postgres.stop(signal.SIGQUIT)
    return Struck("recovers from its write-ahead log", dice.uniform(0, 2), system.postgres.start)


def pause_postgresql(system: System, dice: random.Random) -> Struck | None:
    if system.postgres.process is None or not _can_be_stopped(system):
        return None
    seconds = dice.uniform(1, 4)
    top = psutil.Process(system.postgres.process.pid)
    return Struck(f"for {seconds:.1f} s", seconds, _pause([top, *top.children(recursive=True)]))


FAULTS: dict[str, tuple[int, Callable[[System, random.Random], Struck | None]]] = {
    "machine's worker killed": (5, kill_worker),
    "machine killed whole": (4, kill_machine),
    "machine's worker paused": (3, pause_worker),
    "machine paused until lost": (3, pause_machine_for_long),
    "worker paused while it delivers": (3, pause_worker_that_delivers),
    "machine told to stop": (3, stop_machine),
    "web process killed": (3, kill_web_process),
    "web server killed": (2, kill_web_master),
    "web process paused": (2, pause_web_process),
    "web server restarted": (1, restart_web),
    "control worker killed": (2, kill_control),
    "control worker paused": (2, pause_control),
    "control worker restarted": (1, restart_control),
    "beat killed": (2, kill_beat),
    "Redis killed, back empty": (2, kill_redis),
    "Redis flushed": (2, flush_redis),
    "Redis paused": (1, pause_redis),
    "PostgreSQL restarted": (1, restart_postgresql),
    "PostgreSQL crashed": (1, crash_postgresql),
    "PostgreSQL paused": (1, pause_postgresql),
}
"""How often each comes, compared with the others, and what it does."""
