"""Segments: small where a file begins and ends, without holes, and waited for by whoever wants their bytes."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.segments import LARGEST, PARTS, SMALLEST, Segments, stretches
from tests.support.processes import WAIT_SECONDS

GIB = 1 << 30


@given(st.integers(min_value=0, max_value=200 * GIB))
def test_stretches_cover_a_file_without_holes(total: int) -> None:
    found = list(stretches(total))

    assert sum(length for _, length in found) == total
    assert all(start + length == following for (start, length), (following, _) in pairwise(found))
    assert all(0 < length <= LARGEST for _, length in found)


def test_a_file_begins_and_ends_with_small_ones() -> None:
    lengths = [length for _, length in stretches(2 * GIB)]

    assert set(lengths[: 2 * PARTS]) == set(lengths[-PARTS:]) == {SMALLEST}
    assert lengths[len(lengths) // 2] == LARGEST


def test_what_a_connection_still_has_to_do_at_the_end_is_little_beside_the_whole() -> None:
    total = 2 * GIB
    half = [(start, length) for start, length in stretches(total) if start > total // 2]

    assert all(length <= max(SMALLEST, (total - start) // PARTS) for start, length in half)


@pytest.mark.parametrize(
    ("start", "end", "written", "there"),
    [(0, 1, 1, True), (0, 2, 1, False), (SMALLEST - 1, SMALLEST + 1, SMALLEST, False), (5, 10, SMALLEST, True)],
)
def test_a_range_is_there_when_every_byte_of_it_is(start: int, end: int, written: int, there: bool) -> None:
    segments = Segments(3 * SMALLEST)
    segments.all[0].have = written

    assert segments.await_range(start, end, 0) == there


def test_who_waits_for_a_range_is_woken_by_its_last_byte() -> None:
    segments = Segments(40 * SMALLEST)
    last = segments.all[-1]
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(segments.await_range(last.start, last.end, WAIT_SECONDS)))
    waiting.start()

    last.have = last.length
    segments.advance()
    waiting.join(WAIT_SECONDS)

    assert answers == [True]
