"""What provisioning counts for the fleet's metrics, in the status file: it grows over all runs and processes."""

from pathlib import Path

from provisioning import status
from tests.provisioning.conftest import MIB, Fleet, Provision, digest_of, some_bytes
from tests.provisioning.origin import Origin

BODY = some_bytes(5 * MIB + 17)


def totals(models_dir: Path) -> tuple[int, int]:
    known = status.read(models_dir).totals
    return known.downloaded_bytes, known.verification_failures


def test_bytes_that_came_are_counted_over_all_runs(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    other = some_bytes(3000, seed=1)
    fleet.add("a", origin.serve("/a", BODY), BODY)
    fleet.add("b", origin.serve("/b", other), other)

    once = totals(provision("a").models_dir)
    again = totals(provision("a").models_dir)
    both = totals(provision("a", "b").models_dir)

    assert (once, again, both) == ((len(BODY), 0), (len(BODY), 0), (len(BODY) + 3000, 0))


def test_files_that_are_not_what_the_catalogue_says_are_counted(
    origin: Origin, fleet: Fleet, provision: Provision
) -> None:
    fleet.add("a", origin.serve("/a", some_bytes(1000, seed=9)), some_bytes(1000))

    run = provision("a")

    assert run.code("a") == "hash_mismatch"
    assert totals(run.models_dir) == (2000, 2)


def test_a_damaged_file_is_counted_and_its_bytes_come_once_more(
    origin: Origin, fleet: Fleet, provision: Provision
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY, hash=digest_of(BODY))
    path = provision("a").file("a.bin")
    path.write_bytes(b"x" + BODY[1:])

    run = provision("a")

    assert run.outcome.ready == ("a",)
    assert totals(run.models_dir) == (2 * len(BODY), 1)
