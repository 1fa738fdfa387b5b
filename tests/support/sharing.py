"""Which test files run one after the other in one process, because they share what is dear to start."""

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    "a server whose machines come and go": (
        "tests/services/test_companions.py",
        "tests/services/test_engines.py",
        "tests/services/test_machine_life.py",
        "tests/services/test_quiet.py",
        "tests/services/test_recovery.py",
        "tests/services/test_silence.py",
    ),
    "one computer that draws with the demo model": (
        "tests/services/test_a1111_clients.py",
        "tests/services/test_end_to_end.py",
        "tests/services/test_generate.py",
        "tests/services/test_openai_clients.py",
        "tests/services/test_page.py",
    ),
    "a fleet, open and with tokens, before a browser": (
        "tests/web/test_events.py",
        "tests/web/test_fleet_view.py",
        "tests/web/test_token.py",
        "tests/web/test_frame.py",
    ),
    "an open fleet before a browser": (
        "tests/web/test_access.py",
        "tests/web/test_engines_view.py",
        "tests/web/test_extras.py",
        "tests/web/test_form.py",
        "tests/web/test_gallery.py",
        "tests/web/test_jobs.py",
        "tests/web/test_models_view.py",
    ),
    "a fleet that stands still, before a browser": (
        "tests/web/test_screenshots.py",
        "tests/web/test_still.py",
    ),
}
"""By what they share."""

GROUP_OF = {file: name for name, files in TOGETHER.items() for file in files}


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each process whole files, and files that share something to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUP_OF.get(file, file)


def begin_with_long_ones(items: list[pytest.Item]) -> None:
    """Sort tests so that what takes longest begins first: the last one to end is a short one then."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> tuple[int, str]:
    file = item.nodeid.partition("::")[0]
    if group := GROUP_OF.get(file):
        return 0, group
    return (1 if "services" in PurePosixPath(file).parts else 2), ""
