"""The ramp: as many connections as bring something, found by trying, and found again when the line changes."""

from collections.abc import Callable

import pytest

from provisioning.ramp import AGAIN_SECONDS, FIRST, Ramp

MEGABYTE = 1_000_000
TICK = 0.05


def drive(ramp: Ramp, rate: Callable[[int], float], seconds: float, start: float = 0.0) -> list[int]:
    """Let bytes arrive at a rate that depends on the number of connections; returns the width over time."""
    ramp._began = start
    arrived, now, widths = 0.0, start, []
    while now < start + seconds:
        now += TICK
        arrived += rate(ramp.width) * TICK
        widths.append(ramp.look(int(arrived), now))
    return widths


def test_an_origin_that_limits_each_connection_gets_all_of_them() -> None:
    widths = drive(Ramp(16), lambda width: 40 * MEGABYTE * width, seconds=3)

    assert widths[-1] == 16


def test_a_line_that_two_connections_fill_keeps_two() -> None:
    ramp = Ramp(16)

    widths = drive(ramp, lambda _: 800 * MEGABYTE, seconds=3)

    assert widths[-1] == FIRST
    assert max(widths) == 2 * FIRST


def test_connections_that_get_into_each_others_way_are_given_up_again() -> None:
    widths = drive(Ramp(16), lambda width: 100 * MEGABYTE * min(width, 4) / max(1, width / 4), seconds=4)

    assert widths[-1] == 4


def test_more_are_tried_again_after_a_while_since_lines_change() -> None:
    ramp = Ramp(16)
    drive(ramp, lambda _: 800 * MEGABYTE, seconds=3)
    before = ramp.width

    widths = drive(ramp, lambda width: 40 * MEGABYTE * width, seconds=AGAIN_SECONDS + 4, start=3.0)

    assert before == FIRST
    assert max(widths) > FIRST


@pytest.mark.parametrize("most", [1, 2])
def test_a_file_of_few_pieces_gets_no_more_connections_than_pieces(most: int) -> None:
    widths = drive(Ramp(most), lambda width: 40 * MEGABYTE * width, seconds=2)

    assert set(widths) == {most}


def test_an_origin_that_gives_nothing_at_first_is_asked_with_more_connections_not_fewer() -> None:
    widths = drive(Ramp(16), lambda _: 0.0, seconds=3)

    assert widths[-1] == 16
