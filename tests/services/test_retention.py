"""Keeping: what is older than somebody said is deleted, rows and files together, and nothing else is."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import func, select

from app.core import callers, counters, deliveries, images, inputs, jobs, machines, picture_files, retention
from app.core.deliveries import Answer
from app.core.errors import InputNotFound
from app.core.fleet import Fleet
from app.core.inputs import Given
from app.core.jobs import Terms
from app.core.keeping import Keeping
from app.core.lifecycle import DeliveryState, JobState
from app.core.tables import (
    Attempt,
    Caller,
    Delivery,
    DeliveryTry,
    DoomedFile,
    Holding,
    Hook,
    Image,
    Input,
    Job,
)
from app.core.webhooks import HookRequest
from app.storage import FolderStore
from tasks.control.tidy import Tidier
from tests.builders import (
    MACHINE,
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_running_job,
    an_upload,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock, MemoryImages
from tests.support.web import Client

MONTH = 30
RECEIVER = "client.example.org:443"
EVERYTHING = Keeping(*[MONTH] * 7)


@pytest.fixture(autouse=True)
def look_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a round look into all folders of the store, not into some."""
    monkeypatch.setattr("tasks.control.tidy.FOLDERS_PER_ROUND", len(picture_files.folders()))


@pytest.fixture
def store(fleet: Fleet) -> MemoryImages:
    """Return where the fleet's pictures lie."""
    assert isinstance(fleet.images, MemoryImages)
    return fleet.images


def tidy(fleet: Fleet, keeping: Keeping = EVERYTHING) -> None:
    """Let one round pass."""
    Tidier(fleet, keeping).run()


def count(fleet: Fleet, *tables: type[Any]) -> list[int]:
    with fleet.reading() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def days(clock: Clock, number: float) -> None:
    clock.advance(timedelta(days=number).total_seconds())


def a_given(colour: bytes = b"red") -> Given:
    return Given(sha256=colour.hex().ljust(64, "0"), media_type="image/png", width=8, height=8, data=colour)


def hooked(fleet: Fleet) -> Job:
    terms = Terms(hook=HookRequest(url="https://client.example.org/hook", host=RECEIVER))
    job = a_job(fleet, terms=terms)
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, job.id)
    images.receive(fleet, an_upload(job))
    return finish(fleet, job)


def deliver(fleet: Fleet, job: Job) -> None:
    with fleet.transaction() as tx:
        parcel = deliveries.take(tx, RECEIVER)
        assert parcel is not None
        assert parcel.job_id == job.id
        deliveries.record(tx, parcel, Answer(tx.now, 0.1, status=200))


def test_nothing_is_deleted_that_nobody_asked_to_be_deleted(fleet: Fleet, store: MemoryImages, clock: Clock) -> None:
    a_completed_job(fleet)
    inputs.keep(fleet, a_given())
    store.put("00/stray.png", b"whatever")
    days(clock, 10_000)
    before = dict(store.kept)

    tidy(fleet, Keeping())

    assert count(fleet, Job, Image, Input) == [1, 1, 1]
    assert store.kept == before


def test_old_jobs_go_with_all_that_belongs_to_them(fleet: Fleet, store: MemoryImages, clock: Clock) -> None:
    old = a_completed_job(fleet)
    store.put(picture_files.thumbnail_key(old.images[0].id), b"small")
    deliver(fleet, hooked(fleet))
    days(clock, MONTH + 1)
    fresh = a_completed_job(fleet)
    waiting = a_job(fleet)

    tidy(fleet, Keeping(jobs=MONTH))

    assert count(fleet, Job, Attempt, Image, Hook, Delivery, DeliveryTry, DoomedFile) == [2, 1, 1, 0, 0, 0, 0]
    assert list(store.kept) == [fresh.images[0].key]
    assert the_job(fleet, waiting.id).state == JobState.QUEUED


def test_a_job_counts_from_its_end_and_one_that_has_none_stays(fleet: Fleet, clock: Clock) -> None:
    running, waiting = a_running_job(fleet), a_job(fleet)
    days(clock, MONTH + 1)
    images.receive(fleet, an_upload(running))
    finish(fleet, running)

    tidy(fleet)

    assert the_job(fleet, waiting.id).state == JobState.QUEUED
    assert the_job(fleet, running.id).state == JobState.COMPLETED


def test_favourites_stay_and_so_do_their_jobs(fleet: Fleet, store: MemoryImages, clock: Clock) -> None:
    loved = a_completed_job(fleet, n=2)
    with fleet.transaction() as tx:
        images.mark(tx, loved.images[0].id, is_favourite=True)
    days(clock, MONTH + 1)

    tidy(fleet, Keeping(jobs=MONTH))
    whole = count(fleet, Job, Image)
    tidy(fleet, Keeping(jobs=MONTH, images=MONTH))

    assert whole == [1, 2]
    assert list(store.kept) == [loved.images[0].key]


def test_a_job_whose_webhook_is_owed_something_stays_until_it_has_it(fleet: Fleet, clock: Clock) -> None:
    job = hooked(fleet)
    days(clock, MONTH + 1)

    tidy(fleet)
    before = count(fleet, Job, Delivery)
    deliver(fleet, job)
    tidy(fleet)

    assert (before, count(fleet, Job, Delivery)) == ([1, 1], [0, 0])


def test_old_pictures_go_and_their_jobs_stay(fleet: Fleet, store: MemoryImages, clock: Clock) -> None:
    job = a_completed_job(fleet)
    days(clock, MONTH + 1)

    tidy(fleet, Keeping(images=MONTH))

    assert the_job(fleet, job.id).images == []
    assert store.kept == {}


def test_deliveries_that_are_over_go_and_those_that_are_owed_stay(fleet: Fleet, clock: Clock) -> None:
    deliver(fleet, hooked(fleet))
    hooked(fleet)
    days(clock, MONTH + 1)

    tidy(fleet, Keeping(deliveries=MONTH))

    assert count(fleet, Job, Delivery, DeliveryTry) == [2, 1, 0]
    with fleet.reading() as session:
        assert session.scalar(select(Delivery.state)) == DeliveryState.OWED


def test_uploaded_pictures_go_when_no_job_has_asked_for_long_and_none_needs_them(
    fleet: Fleet, store: MemoryImages, clock: Clock
) -> None:
    for colour in (b"unused", b"needed", b"used"):
        inputs.keep(fleet, a_given(colour))
    needed, used = a_given(b"needed"), a_given(b"used")
    a_job(fleet, image=needed.sha256, strength=0.5)
    days(clock, MONTH + 1)
    a_job(fleet, image=used.sha256, strength=0.5)

    tidy(fleet)

    assert sorted(store.kept.values()) == [b"needed", b"used"]
    assert count(fleet, Input) == [2]


def test_with_too_many_old_orders_to_look_through_all_uploaded_pictures_stay(
    fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_OLD_ORDERS", 1)
    inputs.keep(fleet, a_given())
    for _ in range(2):
        a_job(fleet)
    days(clock, MONTH + 1)

    tidy(fleet)

    assert count(fleet, Input) == [1]


def test_pictures_that_no_attempt_completed_its_job_with_go(fleet: Fleet, store: MemoryImages, clock: Clock) -> None:
    job = a_running_job(fleet)
    images.receive(fleet, an_upload(job))
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    lost = a_completed_job(fleet)
    days(clock, 1)
    unended = a_running_job(fleet)
    images.receive(fleet, an_upload(unended))
    days(clock, MONTH + 1)

    tidy(fleet, Keeping(leftovers=MONTH))

    with fleet.reading() as session:
        assert set(session.scalars(select(Image.job_id))) == {lost.id, unended.id}
    assert len(store.kept) == 2


def test_what_callers_have_set_goes_when_they_no_longer_come(fleet: Fleet, clock: Clock) -> None:
    with fleet.transaction() as tx:
        for name in ("gone", "here", "orders"):
            callers.remember(tx, name, {"CLIP_stop_at_last_layers": 2})
    days(clock, MONTH + 1)
    a_job(fleet, terms=Terms(caller="orders"))
    with fleet.transaction() as tx:
        callers.remember(tx, "here", {})

    tidy(fleet)

    with fleet.reading() as session:
        assert set(session.scalars(select(Caller.id))) == {"here", "orders"}


def test_a_file_that_cannot_be_deleted_is_tried_again_and_holds_up_no_other(
    fleet: Fleet, store: MemoryImages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job = a_completed_job(fleet)
    store.is_stuck = True
    with fleet.transaction() as tx:
        images.remove(tx, job.images[0].id, fleet)
    tidy(fleet)
    stuck = count(fleet, DoomedFile), len(store.kept)
    store.is_stuck = False
    days(clock, 1)

    tidy(fleet)

    assert stuck == ([2], 1)
    assert "will be tried again" in caplog.text
    assert (count(fleet, DoomedFile), store.kept) == ([0], {})


def test_a_crash_between_row_and_file_leaves_what_the_next_round_finds(
    fleet: Fleet, store: MemoryImages, clock: Clock
) -> None:
    a_completed_job(fleet)
    days(clock, MONTH + 1)
    with fleet.transaction() as tx:
        retention.forget_jobs(tx, clock.now - timedelta(days=MONTH))
    left = count(fleet, Job), len(store.kept)

    tidy(fleet, Keeping())  # nothing more is to be deleted; what was is finished all the same

    assert left == ([0], 1)
    assert (count(fleet, DoomedFile), store.kept) == ([0], {})


@pytest.fixture
def on_disk(fleet: Fleet, tmp_path: Path) -> tuple[Fleet, Path]:
    """Return a fleet that keeps its pictures in a folder, and the folder."""
    return replace(fleet, images=FolderStore(tmp_path / "images")), tmp_path / "images"


def aged(path: Path, clock: Clock, number: int = 0) -> Path:
    """Make a file as old as the clock says."""
    moment = (clock.now - timedelta(days=number)).timestamp()
    os.utime(path, (moment, moment))
    return path


def test_files_that_no_row_knows_go_and_nobody_elses(on_disk: tuple[Fleet, Path], clock: Clock) -> None:
    fleet, folder = on_disk
    kept = [folder / image.key for image in a_completed_job(fleet).images]
    given = inputs.keep(fleet, a_given())
    kept.append(folder / given.key)
    pair = kept[0].parent
    strays = [pair / f"{pair.name}000000-0000-4000-8000-000000000000{end}" for end in (".png", ".thumbnail.webp")]
    strays += [pair / "unfinished.png.part", folder / "inputs" / given.key.split("/")[1] / f"{'7' * 64}.png"]
    kept += [pair / "notes.txt", pair / f"{pair.name}000000-0000-4000-8000-000000000001.png"]
    for path in (*strays, *kept[-2:]):
        path.write_bytes(b"x")
    for path in (*strays, *kept[:-1]):
        aged(path, clock, MONTH + 1)
    aged(kept[-1], clock, 1)

    tidy(fleet, Keeping(leftovers=MONTH))

    assert {path for path in folder.rglob("*") if path.is_file()} == set(kept)


def test_each_round_is_bounded(fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 2)
    monkeypatch.setattr("tasks.control.tidy.MOST_PARTS", 2)
    for _ in range(7):
        a_completed_job(fleet)
    days(clock, MONTH + 1)
    tidier = Tidier(fleet, Keeping(jobs=MONTH))

    left = []
    for _ in range(3):
        tidier.run()
        left += count(fleet, Job)

    assert left == [3, 0, 0]


def test_leftovers_are_looked_for_a_part_at_a_time(fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_LOOKED_AT", 2)
    monkeypatch.setattr("tasks.control.tidy.MOST_PARTS", 1)
    for _ in range(3):
        a_completed_job(fleet)
    clock.advance(1)
    job = a_running_job(fleet)
    images.receive(fleet, an_upload(job))
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    days(clock, MONTH + 1)
    tidier = Tidier(fleet, Keeping(leftovers=MONTH))

    left = []
    for _ in range(2):
        tidier.run()
        left += count(fleet, Image)

    assert left == [4, 3]


def test_an_uploaded_picture_that_comes_again_is_there_whatever_the_sweep_does(fleet: Fleet, clock: Clock) -> None:
    given = a_given()
    before = clock.now + timedelta(days=1)

    def swept() -> None:
        with fleet.transaction() as tx:
            retention.forget_inputs(tx, before)
        with fleet.transaction() as tx:
            picture_files.delete_doomed(tx, fleet)

    for _ in range(8):
        inputs.keep(fleet, given)
        days(clock, 0.5)
        at_once(swept, lambda: inputs.keep(fleet, given))
        days(clock, 0.4)
        before = clock.now + timedelta(days=1)
        with fleet.transaction() as tx:
            picture_files.delete_doomed(tx, fleet)
        with fleet.reading() as session:
            try:
                row = inputs.get(session, given.sha256)
            except InputNotFound:
                assert given.data not in fleet.images.kept.values()  # type: ignore[attr-defined]  # the fake
            else:
                assert inputs.read(fleet, row) == given.data


def at_once(*deeds: Callable[[], object]) -> None:
    start = Barrier(len(deeds))

    def run(deed: Callable[[], object]) -> None:
        start.wait()
        deed()

    threads = [Thread(target=run, args=(deed,)) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_counters_of_metrics_do_not_fall_when_rows_go(fleet: Fleet, client: Client, clock: Clock) -> None:
    deliver(fleet, hooked(fleet))
    a_completed_job(fleet)

    def totals() -> dict[str, float]:
        counters.write(fleet)
        clock.advance(60)  # a count is good for some seconds
        lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
        grown = ("_total", "_count", "_sum", "_bucket")
        return {name: float(value) for name, _, value in lines if name.partition("{")[0].endswith(grown)}

    before = totals()
    days(clock, MONTH + 1)
    tidy(fleet)
    after = totals()

    assert count(fleet, Job, Delivery) == [0, 0]
    assert any(before.values())
    assert {name: value for name, value in before.items() if after.get(name, -1) < value} == {}


def test_machines_that_no_longer_check_in_are_forgotten_and_drained_ones_wait(fleet: Fleet, clock: Clock) -> None:
    a_running_job(fleet, "busy")
    for name in ("drained", "back"):
        a_machine(fleet, name, ready_for=[MODEL])
    with fleet.transaction() as tx:
        machines.drain(tx, "drained")
    job = a_completed_job(fleet)
    clock.advance(timedelta(days=MONTH).total_seconds() + 1)
    a_machine(fleet, "back", ready_for=[MODEL])

    tidy(fleet, Keeping(machines=MONTH))

    with fleet.reading() as session:
        assert [machine.id for machine in machines.listing(session)] == ["back", "busy", "drained"]
        assert session.scalar(select(func.count()).select_from(Holding).where(Holding.machine_id == MACHINE)) == 0
    assert the_job(fleet, job.id).attempts[0].machine_id == MACHINE
