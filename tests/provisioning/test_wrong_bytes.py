"""Wrong bytes, wrong hashes, no hashes: who is blamed, what is kept, and what never lies at the final path."""

import threading
from hashlib import sha256

from provisioning import receipts
from tests.provisioning.conftest import MIB, Fleet, Provision, digest_of, some_bytes
from tests.provisioning.origin import Fault, Origin, other_bytes

BODY = some_bytes(5 * MIB + 17)


def a_model(origin: Origin, fleet: Fleet, body: bytes) -> None:
    fleet.add("a", origin.serve("/a", body), body)


def test_wrong_bytes_once_are_thrown_away_and_fetched_again(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(1000)
    a_model(origin, fleet, body)
    origin.fail("/a", lambda handler, served: False, other_bytes(some_bytes(1000, seed=9)))

    run = provision("a")

    assert run.file("a.bin").read_bytes() == body
    assert run.states("a") == ["wanted", "downloading", "verifying", "downloading", "verifying", "ready"]


def test_wrong_bytes_always_are_quarantined_and_the_catalogue_is_blamed(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    other = some_bytes(1000, seed=9)
    fleet.add("a", origin.serve("/a", other), some_bytes(1000))
    seen: set[str] = set()
    over = threading.Event()
    folder = provision().models_dir / "checkpoints"

    def look() -> None:
        while not over.is_set():
            seen.update(each.name for each in folder.glob("*"))

    looking = threading.Thread(target=look)
    looking.start()
    run = provision("a")
    over.set()
    looking.join()

    assert run.code("a") == "hash_mismatch"
    assert digest_of(other) in run.message("a")
    assert seen <= {"a.bin.part", "a.bin.part.journal"}
    assert list(folder.iterdir()) == []
    quarantined = (run.models_dir / ".provisioning" / "quarantine").glob("*.bin")
    assert [each.read_bytes() for each in quarantined] == [other]
    assert receipts.load_all(run.models_dir) == {}


def test_other_wrong_bytes_each_time_are_an_accident_of_the_way(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(1000)
    a_model(origin, fleet, body)
    good: Fault = lambda handler, served: False  # noqa: E731 - one of a list of faults
    origin.fail(
        "/a",
        good,
        other_bytes(some_bytes(1000, seed=1)),
        good,
        other_bytes(some_bytes(1000, seed=2)),
    )

    run = provision("a")

    assert run.code("a") == "corrupt_transit"


def test_a_catalogue_hash_that_disagrees_with_the_origins_own_is_seen_before_the_first_byte(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    linked = {"X-Linked-ETag": f'"{sha256(BODY).hexdigest()}"'}
    fleet.add("a", origin.serve("/a", BODY, headers=linked), BODY, hash="0" * 64)

    run = provision("a")

    assert run.code("a") == "upstream_changed"
    assert origin.sent == 1


def test_when_bytes_agree_with_the_origins_own_hash_the_catalogues_is_wrong_at_the_first_try(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    linked = {"X-Linked-ETag": f'"{sha256(BODY).hexdigest()}"'}
    fleet.add("a", origin.serve("/a", BODY, headers=linked), BODY, hash="0" * 32)

    run = provision("a")

    assert run.code("a") == "catalogue_hash_wrong"
    assert origin.sent == len(BODY) + 1


def test_without_a_hash_in_the_catalogue_the_origins_own_proves_the_file(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    linked = {"X-Linked-ETag": f'"{sha256(BODY).hexdigest()}"'}
    fleet.add("a", origin.serve("/a", BODY, headers=linked), None)
    fleet.add("wrong", origin.serve("/w", BODY, headers={"X-Linked-ETag": f'"{"0" * 64}"'}), None)

    run = provision("a", "wrong")

    assert run.outcome.ready == ("a",)
    assert run.code("wrong") == "hash_mismatch"


def test_without_any_hash_nothing_is_proved_unless_the_operator_says_so(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), None)

    strict = provision("a")
    trusting = provision("a", allow_unverified=True)

    assert strict.code("a") == "no_hash"
    assert "ALLOW_UNVERIFIED" in strict.message("a")
    assert trusting.outcome.ready == ("a",)


def test_an_exact_size_that_differs_is_seen_before_the_first_byte(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY, size_bytes=len(BODY) + 1)

    run = provision("a")

    assert run.code("a") == "wrong_size"
    assert origin.sent == 1
