"""How many pictures are drawn in one pass: decided by what was measured, within the delay that is allowed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.machine.widths import FORGOTTEN_SECONDS, LIMITED_SECONDS, MOST_KINDS, SURE_AFTER, Widths

KIND = "a-kind"


class Hand:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def widths(hand: Hand) -> Widths:
    return Widths(most=8, delay=5.0, clock=hand)


def drawn(widths: Widths, width: int, seconds: float, times: int = SURE_AFTER + 1) -> None:
    for _ in range(times):
        widths.learn(KIND, width, seconds)


def settled(widths: Widths, seconds: Callable[[int], float]) -> list[int]:
    """Draw as is wished for until the wish stays the same; returns the widths that were drawn."""
    found = []
    for _ in range(40):
        width = widths.wanted().get(KIND, 1)
        widths.learn(KIND, width, seconds(width))
        found.append(width)
    return found


def test_nothing_is_wished_for_before_it_is_known_how_long_one_takes(widths: Widths) -> None:
    assert widths.wanted() == {}
    drawn(widths, 1, 1.0, SURE_AFTER)
    assert widths.wanted() == {}

    drawn(widths, 1, 1.0, 1)

    assert widths.wanted() == {KIND: 2}


def test_the_first_pass_of_a_width_counts_for_nothing(widths: Widths) -> None:
    widths.learn(KIND, 1, 100.0)
    drawn(widths, 1, 1.0, SURE_AFTER)

    assert widths.wanted() == {KIND: 2}  # with a pass of 100 s the delay would forbid it


def test_where_a_pass_takes_as_long_as_one_picture_the_widest_is_settled_on(widths: Widths) -> None:
    found = settled(widths, lambda _: 1.0)

    assert [found.count(width) for width in (1, 2, 4)] == [3, 3, 3]
    assert found[9:] == [8] * 31


def test_where_it_is_not_faster_each_picture_is_drawn_alone_soon(widths: Widths) -> None:
    found = settled(widths, lambda width: 0.95 * width)

    assert [found.count(width) for width in (1, 2, 4, 8)] == [37, 3, 0, 0]
    assert widths.wanted() == {}


def test_the_width_up_to_which_it_pays_is_settled_on(widths: Widths) -> None:
    found = settled(widths, lambda width: {1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1}[width])

    assert found[-1] == 4


def test_the_oldest_job_is_never_delayed_beyond_what_is_allowed(widths: Widths) -> None:
    found = settled(widths, lambda width: 2.0 + width)

    # Alone 3 s, four 6 s; of eight it is only known that they could take twice as long as four, 9 s more than alone.
    assert max(found) == 4


def test_what_may_take_too_long_is_not_even_tried(widths: Widths) -> None:
    found = settled(widths, lambda _: 6.0)

    assert set(found) == {1}


def test_a_width_that_turns_out_to_delay_too_long_is_left(widths: Widths) -> None:
    widths.delay = 1.5
    found = settled(widths, lambda width: {1: 1.0, 2: 1.2, 4: 2.9}[width])

    assert set(found) == {1, 2, 4}
    assert found[-1] == 2


def test_without_a_delay_or_a_width_nothing_is_drawn_together(hand: Hand) -> None:
    for widths in (Widths(most=1, delay=5.0, clock=hand), Widths(most=8, delay=0.0, clock=hand)):
        assert set(settled(widths, lambda _: 1.0)) == {1}


def test_one_accident_changes_nothing(widths: Widths) -> None:
    settled(widths, lambda _: 1.0)

    widths.learn(KIND, 8, 60.0)

    assert widths.wanted() == {KIND: 8}


def test_memory_that_was_too_short_limits_the_width_for_a_while(widths: Widths, hand: Hand) -> None:
    settled(widths, lambda _: 1.0)

    widths.limit(KIND, 3)
    limited = widths.wanted()
    hand.now += LIMITED_SECONDS

    assert limited == {KIND: 3}
    assert widths.wanted() == {KIND: 8}


def test_what_was_measured_long_ago_is_measured_anew(widths: Widths, hand: Hand) -> None:
    settled(widths, lambda width: 0.95 * width)
    hand.now += FORGOTTEN_SECONDS + 1

    found = settled(widths, lambda _: 1.0)

    assert found[-1] == 8


def test_what_is_known_is_known_after_a_restart_too(hand: Hand, tmp_path: Path) -> None:
    file = tmp_path / "learnt" / "widths.json"
    settled(Widths(4, 5.0, file, hand), lambda _: 1.0)

    assert Widths(4, 5.0, file, hand).wanted() == {KIND: 4}


def test_a_file_that_says_nothing_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "widths.json"
    file.write_text('[["half', encoding="utf-8")

    assert Widths(4, 5.0, file).wanted() == {}
    assert "measured anew" in caplog.text


def test_a_disk_that_takes_nothing_costs_no_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "no-folder").write_text("", encoding="utf-8")
    widths = Widths(4, 5.0, tmp_path / "no-folder" / "widths.json")

    drawn(widths, 1, 1.0)

    assert widths.wanted() == {KIND: 2}
    assert "cannot be written" in caplog.text


def test_only_the_kinds_drawn_last_are_known(widths: Widths) -> None:
    for number in range(MOST_KINDS + 10):
        for _ in range(SURE_AFTER + 1):
            widths.learn(f"kind-{number}", 1, 1.0)

    assert set(widths.wanted()) == {f"kind-{number}" for number in range(10, MOST_KINDS + 10)}
