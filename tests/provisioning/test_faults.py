"""Whatever an origin does, in whatever order: at the final path is the whole right file, or none."""

import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

from hypothesis import HealthCheck, example, given
from hypothesis import settings as limits
from hypothesis import strategies as some

from provisioning import receipts
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, some_bytes
from tests.provisioning.origin import (
    Fault,
    Handler,
    Origin,
    Served,
    cut_after,
    other_bytes,
    reset,
    stall,
    status,
    web_page,
)

BODY = some_bytes(2 * MIB + 5)
OTHER = some_bytes(2 * MIB + 5, seed=1)


def good(handler: Handler, served: Served) -> bool:
    return False


FAULTS: dict[str, Fault] = {
    "good": good,
    "reset": reset,
    "cut at once": cut_after(0),
    "cut early": cut_after(1000),
    "cut late": cut_after(900_000),
    "429": status(429, Retry_After="0"),
    "503": status(503),
    "500": status(500),
    "403": status(403),
    "404": status(404),
    "login page": web_page(),
    "other bytes": other_bytes(OTHER),
    "other content": other_bytes(OTHER, etag='"other"'),
    "shorter content": other_bytes(BODY[:-1], etag='"shorter"'),
    "stall": stall(0.3),
}


class Witness:
    """Looks at the final path as often as it can, and remembers whether anything but the right file was there."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.wrong = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.001):
            try:
                self.wrong |= self.target.read_bytes() != BODY
            except OSError:
                continue


def hours_pass(models_dir: Path) -> None:
    """Let be old what was refused: the same bytes under the same ETag are asked for again after some hours only."""
    for each in (models_dir / ".provisioning" / "quarantine").glob("*.json"):
        os.utime(each, (0, 0))


@given(names=some.lists(some.sampled_from(sorted(FAULTS)), max_size=8), ranges=some.booleans())
@example(names=["other bytes", "other bytes"], ranges=False)
@limits(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_at_the_final_path_is_the_whole_right_file_or_none(names: list[str], ranges: bool) -> None:
    with Origin() as origin, tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(origin)
        fleet.add("a", origin.serve("/a", BODY, ranges=ranges), BODY)
        origin.fail("/a", *(FAULTS[name] for name in names))
        settings = Settings(
            fleet_url=fleet.url,
            models_dir=Path(folder),
            allow_private_addresses=True,
            stall_seconds=0.2,
            pause_seconds=0.001,
        )
        target = settings.models_dir / "checkpoints" / "a.bin"

        with Witness(target) as witness:
            first = Provisioner(settings, lambda event: None).run(["a"])
            origin.faults.clear()
            hours_pass(settings.models_dir)
            # A busy computer stands still itself for longer than that.
            second = Provisioner(replace(settings, stall_seconds=30.0), lambda event: None).run(["a"])

        assert not witness.wrong
        assert set(first.ready) <= {"a"}
        assert second.ready == ("a",), second.failed
        assert target.read_bytes() == BODY
        assert receipts.ready_models(settings.models_dir) == {"a"}
