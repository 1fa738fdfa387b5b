"""The live store: the same questions to the real one and to the fake, and what only a real one can get wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
import redis

from app.core.live import HISTORY_SECONDS, LARGEST_PREVIEW, LiveStore, Progress, Skipped, is_position
from app.live import KEEP_SECONDS, MOST_KEPT, PREVIEW_SECONDS, RedisLive
from tests.support.broker import BrokerServer, patient
from tests.support.fakes import MemoryLive
from tests.support.processes import free_port

LATE = 100
"""Seconds that may pass between two lines of a test."""

PREVIEW = b"\xff\xd8\xff a small picture"


@dataclass
class Kept:
    """A live store, and how to empty it."""

    store: LiveStore
    lose_everything: Callable[[], None]


@pytest.fixture(params=["redis", "memory"])
def kept(request: pytest.FixtureRequest, broker_server: BrokerServer, broker_url: str) -> Kept:
    """Return a live store of each kind."""
    if request.param == "redis":
        return Kept(RedisLive(patient(broker_url)), broker_server.clear)
    memory = MemoryLive()
    return Kept(memory, memory.lose_everything)


@pytest.fixture
def live(kept: Kept) -> LiveStore:
    """Return a live store of each kind."""
    return kept.store


@pytest.fixture
def server(broker_url: str) -> redis.Redis:
    """Return a connection to look behind the store."""
    return redis.Redis.from_url(broker_url)


def step(number: int, attempt: int = 1) -> Progress:
    return Progress(attempt, "denoising", step=number, steps=20)


def steps_of(live: LiveStore, job_id: UUID, after: str = "") -> list[int]:
    return [moment.step for _, moment in live.history(job_id, after)]


def test_the_live_store_keeps_the_newest_progress(live: LiveStore) -> None:
    job_id, newest = uuid4(), Progress(2, "denoising", step=3, steps=10, image=1, images=2)

    live.report(job_id, Progress(1, "loading"))
    live.report(job_id, newest)

    assert live.progress(job_id) == newest
    assert live.progress(uuid4()) is None


def test_a_wish_to_cancel_is_told_with_the_next_report_until_it_is_forgotten(live: LiveStore) -> None:
    job_id = uuid4()

    before = live.report(job_id, step(1)), live.is_unwanted(job_id)
    live.ask_to_cancel(job_id)
    after, other = (live.report(job_id, step(2)), live.is_unwanted(job_id)), live.report(uuid4(), step(1))
    live.forget(job_id)

    assert (before, after, other) == ((False, False), (True, True), False)
    assert live.report(job_id, step(3)) is False
    assert live.is_unwanted(job_id) is False


def test_a_wish_to_skip_says_which_picture_is_meant_until_it_is_forgotten(live: LiveStore) -> None:
    job_id = uuid4()

    before = live.skipped(job_id)
    live.ask_to_skip(job_id, Progress(2, "denoising", step=3, steps=10, image=1, images=2))
    after, other = live.skipped(job_id), live.skipped(uuid4())
    live.forget(job_id)

    assert (before, after, other) == (None, Skipped(2, 1), None)
    assert live.skipped(job_id) is None


def test_all_progress_can_be_read_again_from_any_position(live: LiveStore) -> None:
    job_id = uuid4()
    for number in range(5):
        live.report(job_id, step(number))

    history = live.history(job_id)

    assert [moment.step for _, moment in history] == [0, 1, 2, 3, 4]
    for known, (position, _) in enumerate(history):
        assert is_position(position)
        assert steps_of(live, job_id, position) == list(range(known + 1, 5))
    assert live.history(uuid4()) == []


@pytest.mark.parametrize("position", ["x", "1-", "-1", "1-2-3", "+", "(1", "1" * 20, "\N{ARABIC-INDIC DIGIT ONE}"])
def test_what_is_no_position_is_refused_before_the_server_sees_it(live: LiveStore, position: str) -> None:
    job_id = uuid4()

    with pytest.raises(ValueError, match="is no position"):
        live.history(job_id, position)

    live.report(job_id, step(1))
    assert live.progress(job_id) == step(1)


def test_the_largest_position_has_nothing_behind_it(live: LiveStore) -> None:
    job_id = uuid4()
    live.report(job_id, step(1))

    assert live.history(job_id, f"{'9' * 19}-{'9' * 19}") == []
    assert live.progress(job_id) == step(1)


def test_a_preview_stays_until_a_newer_one_comes(live: LiveStore) -> None:
    job_id = uuid4()

    live.report(job_id, step(1), PREVIEW)
    live.report(job_id, step(2))
    first = live.preview(job_id)
    live.report(job_id, step(3), PREVIEW + b"!")

    assert (first, live.preview(job_id), live.preview(uuid4())) == (PREVIEW, PREVIEW + b"!", None)


def test_a_preview_that_is_too_large_is_not_kept_and_its_progress_is(live: LiveStore) -> None:
    job_id = uuid4()

    live.report(job_id, step(1), bytes(LARGEST_PREVIEW + 1))

    assert live.preview(job_id) is None
    assert live.progress(job_id) == step(1)


def test_the_history_of_an_ended_job_can_still_be_read_and_its_preview_is_gone(live: LiveStore) -> None:
    job_id = uuid4()
    live.report(job_id, step(1), PREVIEW)
    live.report(job_id, step(2))

    live.forget(job_id)

    assert steps_of(live, job_id) == [1, 2]
    assert live.preview(job_id) is None


def test_an_attempt_that_a_later_one_has_replaced_leaves_nothing_and_is_told_to_stop(live: LiveStore) -> None:
    job_id = uuid4()
    live.report(job_id, step(9, attempt=1), b"of attempt 1")

    live.report(job_id, step(1, attempt=2))
    between = live.preview(job_id)
    stop = live.report(job_id, step(10, attempt=1), b"of attempt 1")

    assert stop is True
    assert between is None
    assert live.preview(job_id) is None
    assert live.progress(job_id) == step(1, attempt=2)
    assert live.report(job_id, step(2, attempt=2)) is False


def test_positions_grow_on_when_the_store_was_emptied(kept: Kept) -> None:
    job_id = uuid4()
    for number in range(3):
        kept.store.report(job_id, step(number), PREVIEW)
    known = kept.store.history(job_id)[-1][0]

    kept.lose_everything()
    emptied = kept.store.history(job_id, known), kept.store.preview(job_id), kept.store.progress(job_id)
    kept.store.report(job_id, step(3))

    assert emptied == ([], None, None)
    assert steps_of(kept.store, job_id, known) == [3]


def test_a_wish_to_cancel_that_was_lost_is_no_wish(kept: Kept) -> None:
    job_id = uuid4()
    kept.store.ask_to_cancel(job_id)

    kept.lose_everything()

    assert kept.store.report(job_id, step(1)) is False


def test_the_memory_of_a_job_is_bounded(broker_url: str, server: redis.Redis) -> None:
    live, job_id = RedisLive(patient(broker_url)), uuid4()
    for number in range(3 * MOST_KEPT):
        live.report(job_id, step(number), bytes(LARGEST_PREVIEW) if number % MOST_KEPT == 0 else None)

    keys = sorted(str(key, "utf-8") for key in server.scan_iter())
    used = sum(int(server.memory_usage(key) or 0) for key in keys)

    assert [key.split(":")[1] for key in keys] == ["preview", "progress"]
    # Redis drops whole nodes of a stream, a hundred moments each, so that somewhat more than asked for stays.
    assert MOST_KEPT <= len(live.history(job_id)) <= MOST_KEPT + 100
    assert used < 512 * 1024


def test_all_of_a_job_goes_by_itself(broker_url: str, server: redis.Redis) -> None:
    live, job_id = RedisLive(patient(broker_url)), uuid4()

    def seconds_left() -> dict[str, int]:
        return {str(key, "utf-8").split(":")[1]: int(server.ttl(key)) for key in server.scan_iter()}

    live.report(job_id, step(1), PREVIEW)
    live.ask_to_cancel(job_id)
    running = seconds_left()
    live.forget(job_id)
    ended = seconds_left()

    limits = {"progress": KEEP_SECONDS, "cancel": KEEP_SECONDS, "preview": PREVIEW_SECONDS}
    assert running.keys() == limits.keys()
    assert all(limits[key] - LATE <= running[key] <= limits[key] for key in limits)
    assert ended.keys() == {"progress"}
    assert HISTORY_SECONDS - LATE <= ended["progress"] <= HISTORY_SECONDS


def test_a_live_store_that_is_away_costs_no_picture() -> None:
    live, job_id = RedisLive(f"redis://127.0.0.1:{free_port()}/0"), uuid4()

    live.ask_to_cancel(job_id)
    live.forget(job_id)

    assert live.report(job_id, step(1), PREVIEW) is False
    assert live.is_unwanted(job_id) is False
    assert live.progress(job_id) is None
    assert live.history(job_id) == []
    assert live.preview(job_id) is None


def test_the_progress_of_many_jobs_is_read_at_once(live: LiveStore) -> None:
    first, second, silent = uuid4(), uuid4(), uuid4()
    live.report(first, step(1))
    live.report(first, step(2))
    live.report(second, step(7))

    found = live.progress_of_each([second, silent, first])

    assert found == {first: step(2), second: step(7)}
    assert live.progress_of_each([]) == {}
