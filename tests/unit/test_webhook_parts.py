"""The parts of webhooks that need no server: schedule, lanes, signatures, and the vault."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from app.core import deliveries
from app.core.deliveries import Answer
from app.core.errors import Unreadable
from app.core.fleet import Limits, NoVault
from app.core.webhooks import Target
from app.vault import FernetVault
from tasks.control import lanes
from tasks.control.deliver import headers_of
from tasks.control.lanes import Lanes
from tasks.control.signature import sign
from tests.support.fakes import MONDAY
from tests.support.receiver import KEY, SECRET, Receiver

HOURS = 3600.0
LUCK = st.floats(0, 1)


@given(st.lists(LUCK, min_size=deliveries.MOST_TRIES - 1, max_size=deliveries.MOST_TRIES - 1))
def test_there_are_ten_tries_over_two_hours_at_the_least_whatever_the_luck(luck: list[float]) -> None:
    first = Limits().webhook_retry_seconds

    waits = [deliveries.wait_before_next(first, number, each) for number, each in enumerate(luck, 1)]

    assert len(waits) + 1 >= 10
    assert sum(waits) >= 2 * HOURS
    assert max(waits) <= deliveries.LONGEST_WAIT


@given(st.integers(1, deliveries.MOST_TRIES), LUCK)
def test_a_wait_is_jittered_between_half_of_it_and_all(failures: int, luck: float) -> None:
    least, most = (deliveries.wait_before_next(5, failures, each) for each in (0.0, 1.0))

    assert least == most / 2
    assert least <= deliveries.wait_before_next(5, failures, luck) <= most


@pytest.mark.parametrize(
    ("status", "success", "final"),
    [
        *((code, True, False) for code in (200, 201, 202, 204, 299)),
        *((code, False, False) for code in (301, 302, 307, 308, 408, 425, 429, 500, 502, 503, 504)),
        *((code, False, True) for code in (400, 401, 403, 404, 405, 410, 418, 422)),
        (None, False, False),
    ],
)
def test_what_a_status_means(status: int | None, *, success: bool, final: bool) -> None:
    answer = Answer(MONDAY, 0.1, status)

    assert (answer.is_success, answer.is_final) == (success, final)


def test_a_signature_is_what_the_standards_own_package_makes() -> None:
    now, body = 1_800_000_000, '{"type":"job.completed","prompt":"Äpfel 🍎"}'.encode()

    signature = sign(SECRET, "msg-1", now, body)

    assert signature == Webhook(SECRET).sign("msg-1", datetime.fromtimestamp(now, UTC), body.decode())


def test_a_plain_text_secret_is_its_own_bytes() -> None:
    assert sign("geheim-ä", "m", 1, b"{}") != sign("geheim-a", "m", 1, b"{}")
    assert sign("whsec_c2VjcmV0", "m", 1, b"{}") == sign("secret", "m", 1, b"{}")


def test_only_a_key_is_sent_and_only_a_secret_signs_where_there_are_both() -> None:
    receiver = Receiver(port=1)
    hook = receiver.hook()
    target = Target(hook.url, SECRET, KEY)

    headers = headers_of(target, "m", 1, b"{}")

    assert headers["X-Webhook-Key"] == KEY
    assert headers["webhook-signature"] == sign(SECRET, "m", 1, b"{}")
    assert SECRET not in str(headers)
    assert headers_of(Target(hook.url, None, KEY), "m", 1, b"{}")["webhook-signature"] == sign(KEY, "m", 1, b"{}")
    assert not {"webhook-signature", "X-Webhook-Key"} & set(headers_of(Target("", None, None), "m", 1, b""))


def test_lanes_to_one_host_are_few_and_those_to_a_silent_one_fewer() -> None:
    ways = Lanes()

    assert [ways.enter("a") for _ in range(lanes.TO_ONE_HOST + 1)] == [True] * lanes.TO_ONE_HOST + [False]
    assert ways.enter("b")

    for _ in range(lanes.TO_ONE_HOST):
        ways.leave("a")
    ways.heard("a", answered=False)
    assert [ways.enter("a"), ways.enter("a")] == [True, False]
    ways.heard("a", answered=True)
    assert ways.enter("a")


def test_however_many_hosts_are_slow_threads_are_left_for_sweeping() -> None:
    ways = Lanes()

    taken = sum(ways.enter(f"host-{number}") for number in range(1000))

    assert taken == lanes.IN_ALL <= lanes.THREADS - 8


def test_who_knocks_at_a_taken_lane_is_served_by_who_is_there() -> None:
    ways = Lanes(to_one_host=1)
    assert ways.enter("a")

    assert not ways.enter("a")

    assert ways.look_again("a")  # somebody knocked: stay
    assert not ways.look_again("a")  # nobody did: gone
    assert ways.enter("a")


def test_no_knock_is_ever_lost() -> None:
    ways, owed, served = Lanes(to_one_host=1), threading.Semaphore(0), []

    def ring() -> None:
        owed.release()
        if not ways.enter("a"):
            return
        while True:
            while owed.acquire(blocking=False):
                served.append(1)
            if not ways.look_again("a"):
                return

    with ThreadPoolExecutor(8) as pool:
        for _ in range(4000):
            pool.submit(ring)

    assert len(served) == 4000


def test_what_was_sealed_can_be_read_with_its_key_and_with_no_other(tmp_path: Path) -> None:
    first, second = FernetVault(["one"], tmp_path / "k"), FernetVault(["two"], tmp_path / "k")

    sealed = first.seal(SECRET)

    assert first.unseal(sealed) == SECRET
    assert SECRET not in sealed
    with pytest.raises(Unreadable, match="SECRET_KEY"):
        second.unseal(sealed)
    assert list(tmp_path.iterdir()) == []


def test_a_new_key_is_put_in_front_and_the_old_one_still_reads(tmp_path: Path) -> None:
    sealed = FernetVault(["old"], tmp_path / "k").seal("text")

    both = FernetVault(["new", "old"], tmp_path / "k")

    assert both.unseal(sealed) == "text"
    assert FernetVault(["new"], tmp_path / "k").unseal(both.seal("text")) == "text"


def test_without_a_setting_one_key_is_made_for_all_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "db" / "secret.key"
    vaults = [FernetVault([], path) for _ in range(16)]

    with ThreadPoolExecutor(16) as pool:
        sealed = list(pool.map(lambda vault: vault.seal("text"), vaults))

    assert {FernetVault([], path).unseal(each) for each in sealed} == {"text"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_without_any_key_no_secret_is_kept() -> None:
    with pytest.raises(Unreadable):
        NoVault().seal("text")
    with pytest.raises(Unreadable):
        NoVault().unseal("text")


def test_nothing_that_is_printed_shows_a_secret() -> None:
    hook = Receiver(port=1).hook(sealed="sealed-text")

    shown = repr([hook, Target(hook.url, SECRET, KEY)])

    assert not [secret for secret in (SECRET, KEY, "a-token-in-the-query", "sealed-text") if secret in shown]
