"""``--watch``: a machine heals by itself."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from provisioning import receipts, status
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import Fleet, some_bytes
from tests.provisioning.origin import Fault, Handler, Origin, Served
from tests.support.processes import WAIT_SECONDS

Watched = Callable[..., Provisioner]


def until(true: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)


def held_until(is_open: Callable[[], bool]) -> Fault:
    """Let a request wait for something, and answer it then."""

    def fault(handler: Handler, served: Served) -> bool:
        until(is_open)
        return False

    return fault


def is_ready(settings: Settings, *model_ids: str) -> Callable[[], bool]:
    return lambda: receipts.ready_models(settings.models_dir) >= set(model_ids)


def test_a_file_damaged_in_place_is_moved_away_and_fetched_again(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    watched("a")
    until(is_ready(settings, "a"))
    file = settings.models_dir / "checkpoints" / "a.bin"
    before = file.stat()

    looked = threading.Event()
    origin.always["/a"] = held_until(looked.is_set)  # or it might be healed before anybody has seen it
    with file.open("r+b") as opened:
        opened.write(b"!!!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    gone = receipts.ready_models(settings.models_dir)
    looked.set()
    until(is_ready(settings, "a"))

    assert gone == frozenset()
    assert file.read_bytes() == body
    assert len(list((settings.models_dir / ".provisioning" / "quarantine").iterdir())) == 1


def test_a_vanished_file_is_fetched_again(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    watched("a")
    until(is_ready(settings, "a"))
    file = settings.models_dir / "checkpoints" / "a.bin"

    file.unlink()
    until(lambda: file.exists() and is_ready(settings, "a")())

    assert file.read_bytes() == body


def test_a_file_that_was_only_touched_is_hashed_and_not_fetched_again(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    watched("a")
    until(is_ready(settings, "a"))
    asked = len(origin.asked)

    os.utime(settings.models_dir / "checkpoints" / "a.bin")
    until(is_ready(settings, "a"))

    assert len(origin.asked) == asked


def test_a_wrong_hash_that_is_corrected_in_the_catalogue_heals_the_machine(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    entry = fleet.add("a", origin.serve("/a", body), body, hash="0" * 64)
    fleet.add("b", origin.serve("/b", body), body)
    watched("a", "b")
    until(lambda: is_ready(settings, "b")() and status.read(settings.models_dir).models["a"].state == "error")

    entry["hash"] = sha256(body).hexdigest()
    until(is_ready(settings, "a", "b"))

    until(lambda: status.read(settings.models_dir).models["a"].state == "ready")


def test_an_id_that_is_added_to_the_catalogue_later_is_found(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    watched("a")
    until(lambda: "a" in (found := status.read(settings.models_dir).models) and found["a"].state == "error")

    fleet.add("a", origin.serve("/a", body), body)

    until(is_ready(settings, "a"))


def test_an_api_that_comes_up_late_is_waited_for(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    answer = fleet.origin.posts.pop("/api/models/batch")
    watched("a")
    until(lambda: any(asked.path == "/api/models/batch" for asked in fleet.origin.asked))
    until(lambda: "a" in status.read(settings.models_dir).models)
    assert status.read(settings.models_dir).models["a"].state == "wanted"

    fleet.origin.posts["/api/models/batch"] = answer

    until(is_ready(settings, "a"))


def test_models_are_hashed_again_on_schedule_and_what_rotted_is_repaired(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    Provisioner(settings, lambda event: None).run(["a"])
    file = settings.models_dir / "checkpoints" / "a.bin"
    file.write_bytes(b"rotten" + body[6:])
    receipt = receipts.load(settings.models_dir, "a")
    assert receipt is not None
    unseen = receipts.ProvenFile.of(settings.models_dir, Path("checkpoints/a.bin"), receipt.files[0].hash)
    receipts.save(settings.models_dir, replace(receipt, files=(unseen,)))
    assert is_ready(settings, "a")()

    watched("a", verify_hours=0.0001)

    until(lambda: file.exists() and file.read_bytes() == body and is_ready(settings, "a")())


def test_a_proof_that_was_renewed_says_so(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    body = some_bytes(1000)
    fleet.add("a", origin.serve("/a", body), body)
    Provisioner(settings, lambda event: None).run(["a"])
    before = receipts.load(settings.models_dir, "a")
    assert before is not None

    watched("a", verify_hours=0.0001)

    until(lambda: (now := receipts.load(settings.models_dir, "a")) is not None and now.verified_at > before.verified_at)
    assert is_ready(settings, "a")()


def test_the_status_says_when_each_step_was_reached(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    watched: Watched,
) -> None:
    needed, beside = some_bytes(1000), some_bytes(900)
    fleet.add("a", origin.serve("/a", needed), needed, dependencies=["b"])
    fleet.add("b", origin.serve("/b", beside), beside)
    before = time.time()
    watched("a")
    until(is_ready(settings, "a", "b"))
    until(lambda: status.read(settings.models_dir).models["a"].state == "ready")

    told = status.read(settings.models_dir)

    assert list(told.moments) == ["began", "looked_up", "planned"]
    moments = [before, *told.moments.values()]
    assert moments == sorted(moments)
    for model in told.models.values():
        steps = [told.moments["planned"], *(model.moments[state] for state in ("downloading", "verifying", "ready"))]
        assert steps == sorted(steps)
