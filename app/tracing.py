"""Traces by OpenTelemetry: one from the request through the broker to the machine, and on to the webhook.

Off, and nothing of it is imported, unless the extra `otel` is installed and OTEL_EXPORTER_OTLP_ENDPOINT (or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) says where spans go; the SDK reads all other OTEL_* variables itself.
What travels is `traceparent` of W3C Trace Context: https://www.w3.org/TR/trace-context/.
Prompts are in no span, and neither are addresses of webhooks.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from app import logs

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
WELL_FORMED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class _Switch:
    tracer: Any = None
    """What makes spans in this process; None: nobody wants them."""


def start(part: str, environ: Mapping[str, str], **about: str) -> None:
    """Begin to trace this process, if its environment asks for it; `about` describes it in each span."""
    if _Switch.tracer is not None or not any(environ.get(name) for name in ENDPOINTS):
        return
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # when it is asked for
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # as above
    except ImportError:
        log.warning("traces are asked for and cannot be sent: pip install 'imagefleet[otel]'")
        return
    name = environ.get("OTEL_SERVICE_NAME") or f"imagefleet-{part}"
    told = {"service.name": name, "service.version": version("imagefleet"), **about}
    provider = TracerProvider(resource=Resource.create(told))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _Switch.tracer = provider.get_tracer("imagefleet")


@contextmanager
def span(name: str, kind: str = "internal", parent: str = "", **about: object) -> Iterator[Any]:
    """Trace what the block does, and put the trace's id into its lines.

    `kind` is internal, server, client, producer or consumer. `parent` is a traceparent from elsewhere; without one it
    belongs to what this thread is tracing. Yields the span, or None where nothing is traced.
    """
    if _Switch.tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415  # only where traces are asked for
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  # as above

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}) if WELL_FORMED.fullmatch(parent) else None
    known = {f"imagefleet.{k}": value if isinstance(value, (int, float)) else str(value) for k, value in about.items()}
    with (
        _Switch.tracer.start_as_current_span(name, context, SpanKind[kind.upper()], known) as made,
        logs.about(trace_id=f"{made.get_span_context().trace_id:032x}"),
    ):
        yield made


def traceparent() -> str:
    """Return what tells somebody else which trace goes on there; empty where nothing is traced."""
    return carried().get(TRACEPARENT, "")


def carried() -> dict[str, str]:
    """Return the headers that carry the present trace, of a request or a message."""
    if _Switch.tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  # as above

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return {name: value for name, value in headers.items() if name == TRACEPARENT}
