"""Lines: what stands in them, for people and for programs."""

import json
import logging
import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest

from app import logs, tracing
from tests.support.processes import ROOT, WAIT_SECONDS

JOB = UUID("00000000-0000-0000-0000-000000000007")


def line(message: str, *values: object, **about: object) -> dict[str, Any]:
    """Write a line as JSON, and read it."""
    record = logging.LogRecord("app.x", logging.WARNING, __file__, 1, message, values, None)
    with logs.about(**about):
        told: dict[str, Any] = json.loads(logs.JsonLines({"machine_id": "gpu-1", "empty": ""}).format(record))
    return told


def test_a_line_is_an_object_with_what_its_process_always_says() -> None:
    told = line("all is well")

    assert (told["level"], told["logger"], told["message"]) == ("warning", "app.x", "all is well")
    assert told["machine_id"] == "gpu-1"
    assert told["at"].endswith("+00:00")
    assert "empty" not in told


def test_ids_are_taken_from_the_words_before_them() -> None:
    told = line("job %s: attempt %d on machine %s took %.2f s, 100%% done", JOB, 2, "gpu-9", 1.5)

    assert (told["job_id"], told["attempt"], told["machine_id"]) == (str(JOB), 2, "gpu-9")
    assert told["message"].endswith("took 1.50 s, 100% done")


def test_ids_of_what_is_being_done_are_in_all_of_its_lines() -> None:
    with logs.about(attempt=1):
        inside = line("drawing", job_id=JOB)

    assert (inside["job_id"], inside["attempt"]) == (str(JOB), 1)
    assert "job_id" not in line("resting")


def test_the_request_of_a_line_stands_in_it() -> None:
    token = logs.request_id.set("abc")
    try:
        record = logging.LogRecord("app", logging.INFO, __file__, 1, "hello", (), None)
        assert line("hello")["request_id"] == "abc"
        assert logs.Lines().format(record).endswith("hello [abc]")
    finally:
        logs.request_id.reset(token)


def test_a_traceback_is_a_field_and_no_further_lines() -> None:
    try:
        int("by nothing")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())

    text = logs.JsonLines({}).format(record)

    assert "\n" not in text
    assert "by nothing" in json.loads(text)["traceback"]


@pytest.mark.parametrize("said", ["* Ready to accept connections", "[1, 2]", '"a word"', ""])
def test_lines_of_other_programs_become_json_too(said: str) -> None:
    told = json.loads(logs.as_json(said, part="broker"))

    assert (told["part"], told["message"]) == ("broker", said)


def test_a_line_that_is_json_already_keeps_what_it_says() -> None:
    told = json.loads(logs.as_json('{"message": "hello", "part": "worker"}', part="machine", machine_id="gpu-1"))

    assert told == {"message": "hello", "part": "worker", "machine_id": "gpu-1"}


OFF = """
import sys
from app import tracing
tracing.start("web", {environ})
with tracing.span("x", "server", "00-" + "1" * 32 + "-" + "2" * 16 + "-01") as span:
    assert span is None and tracing.carried() == {{}} and tracing.traceparent() == ""
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@pytest.mark.parametrize("environ", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_nothing_of_opentelemetry_is_imported_where_nobody_asks_for_traces(environ: dict[str, str]) -> None:
    command = [sys.executable, "-c", OFF.format(environ=environ)]

    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=WAIT_SECONDS)

    assert ran.stdout.strip() == "[]"


def test_a_missing_extra_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not installed

    tracing.start("web", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})

    assert "pip install 'imagefleet[otel]'" in caplog.text
    with tracing.span("nothing") as span:
        assert span is None
