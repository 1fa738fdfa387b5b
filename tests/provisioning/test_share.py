"""Neighbours: what one machine proved or is fetching, another one takes from it, range by range."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from provisioning import receipts
from provisioning.neighbours import Neighbours
from provisioning.receipts import ProvenFile, Receipt
from provisioning.segments import SMALLEST, Segments
from provisioning.share import WAIT_HEADER, ShareServer, Shelf, address
from tests.support.processes import WAIT_SECONDS

TOKEN = "fleet-token"
CONTENT = bytes(range(256)) * 4096
KEY = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "m.bin").write_bytes(CONTENT)
    proven = ProvenFile.of(tmp_path, Path("checkpoints/m.bin"), KEY)
    receipts.save(tmp_path, Receipt("m", "https://origin.example/m.bin", (proven,), (), "2026-01-01T00:00:00+00:00"))
    shelf = Shelf(tmp_path)
    shelf.look()
    return shelf


@pytest.fixture
def base(shelf: Shelf) -> Iterator[str]:
    server = ShareServer(shelf, TOKEN, "127.0.0.1", 0)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def ask(base: str, key: str, span: str, *, token: str = TOKEN, wait: float = 0.0) -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": f"Bearer {token}", "Range": f"bytes={span}", WAIT_HEADER: str(wait)}
    with urllib3.PoolManager() as pool:
        return pool.request("GET", address(base, key), headers=headers, retries=False)


def test_a_proven_file_is_handed_out_by_ranges(base: str) -> None:
    reply = ask(base, KEY, "100-1099")

    assert reply.status == 206
    assert reply.headers["Content-Range"] == f"bytes 100-1099/{len(CONTENT)}"
    assert reply.data == CONTENT[100:1100]


def test_nothing_is_handed_out_without_the_fleets_token(base: str) -> None:
    assert ask(base, KEY, "0-9", token="another").status == 401
    assert ask(base, KEY, "0-9", token="").status == 401


@pytest.mark.parametrize(("key", "span", "status"), [("sha256:00", "0-9", 404), (KEY, "9-5", 416), (KEY, "0-", 416)])
def test_what_is_not_there_is_refused(base: str, key: str, span: str, status: int) -> None:
    assert ask(base, key, span).status == status


def test_a_range_past_the_end_is_refused(base: str) -> None:
    assert ask(base, KEY, f"0-{len(CONTENT)}").status == 416


def test_a_file_that_was_changed_is_handed_out_no_more(base: str, shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "m.bin").write_bytes(CONTENT + b"!")

    shelf.look()

    assert ask(base, KEY, "0-9").status == 404


def test_who_asks_for_a_range_that_is_still_arriving_gets_it_when_it_has_arrived(
    base: str,
    shelf: Shelf,
    tmp_path: Path,
) -> None:
    part = tmp_path / "n.bin.part"
    part.write_bytes(bytes(2 * SMALLEST))
    segments = Segments(2 * SMALLEST)
    segments.begin()
    shelf.arriving("sha256:11", part, segments)
    answers: list[urllib3.BaseHTTPResponse] = []
    asking = threading.Thread(target=lambda: answers.append(ask(base, "sha256:11", f"0-{SMALLEST - 1}", wait=20)))
    asking.start()

    segment = segments.take()
    assert segment is not None
    part.write_bytes(b"\x07" * SMALLEST + bytes(SMALLEST))
    segment.have = segment.length
    segments.give_back(segment)
    segments.advance()
    asking.join(WAIT_SECONDS)

    assert answers[0].status == 206
    assert answers[0].data == b"\x07" * SMALLEST


def test_who_does_not_want_to_wait_is_sent_away_at_once(base: str, shelf: Shelf, tmp_path: Path) -> None:
    shelf.arriving("sha256:11", tmp_path / "n.bin.part", Segments(SMALLEST))

    assert ask(base, "sha256:11", "0-9", wait=0).status == 503


def a_neighbour(own: str, known: dict[str, list[tuple[str, bool]]]) -> Neighbours:
    at_once = threading.Event()
    at_once.set()
    neighbours = Neighbours(own, lambda _: known, dict, at_once)
    neighbours.meet()
    return neighbours


def test_machines_agree_without_talking_on_who_asks_the_origin_for_each_range() -> None:
    urls = [f"http://10.0.0.{n}:8200" for n in range(1, 9)]
    fleet = [a_neighbour(own, {KEY: [(url, False) for url in urls if url != own]}) for own in urls]

    asked = [[each.source_of(KEY, index) or each.own_url for each in fleet] for index in range(200)]

    assert all(len(set(answers)) == 1 for answers in asked)
    shares = [sum(answers[0] == url for answers in asked) for url in urls]
    assert min(shares) > 0


def test_a_neighbour_that_has_the_whole_file_is_asked_before_the_origin() -> None:
    neighbours = a_neighbour("http://a", {KEY: [("http://b", False), ("http://c", True)]})

    assert {neighbours.source_of(KEY, index) for index in range(20)} == {"http://c"}


def test_a_neighbour_that_failed_is_left_alone_and_a_file_that_came_wrong_is_asked_of_the_origin_only() -> None:
    neighbours = a_neighbour("http://a", {KEY: [("http://b", True)], "other": [("http://b", True)]})

    neighbours.distrust("other")
    before = neighbours.source_of(KEY, 0), neighbours.source_of("other", 0)
    neighbours.avoid("http://b", "it did not answer")

    assert before == ("http://b", None)
    assert neighbours.source_of(KEY, 0) is None


def test_an_answer_that_comes_late_does_not_undo_what_a_newer_one_said() -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def announce(_: object) -> dict[str, list[tuple[str, bool]]]:
        if is_asked.is_set():
            return {KEY: [("http://b", True)]}
        is_asked.set()
        may_answer.wait(WAIT_SECONDS)
        return {}

    neighbours = Neighbours("http://a", announce, dict, may_answer)
    first = threading.Thread(target=neighbours._announce)
    first.start()
    assert is_asked.wait(WAIT_SECONDS)

    neighbours._announce()
    may_answer.set()
    first.join(WAIT_SECONDS)

    assert neighbours.source_of(KEY, 0) == "http://b"


def test_a_fleet_that_cannot_be_asked_leaves_the_origin() -> None:
    def away(_: object) -> dict[str, list[tuple[str, bool]]]:
        raise ConnectionError

    neighbours = Neighbours("http://a", away, dict, threading.Event())
    neighbours.meet()

    assert neighbours.source_of(KEY, 0) is None
