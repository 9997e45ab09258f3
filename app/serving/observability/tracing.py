"""OpenTelemetry spans of requests, exported only where `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

Serve makes a span for each sampled request and for each call between deployments below one, and
gets the exporter of each replica from `processors`. This module adds what Serve can't know: that
one batch of work belongs to many requests, the route and status of a request, and that work
without a sampled request belongs to no trace.

Every exported span is part of a sampled request's trace. It holds no reading, and of an error only
its class. Serve leaves a request's trace in the context that the request ran in; with uvloop, which
Ray uses, no other request of the connection sees it there.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context, trace
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

METHOD, STATUS = "http.request.method", "http.response.status_code"
"""Attributes of a request's span by OpenTelemetry's HTTP conventions; its name has the route."""
ERROR_TYPE = "exception.type"
SERVER_ERROR = 500
"""The lowest status that marks a span as an error, by the same conventions."""

_UNSAMPLED = trace.set_span_in_context(
    NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags()))
)
"""Parent of work without a sampled request; without a parent Serve would start traces for some."""


class RequestSpans(BatchSpanProcessor):
    """Exports spans in batches, without traces that did not start at a request and error texts."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue an ended span for export."""
        if _is_of_a_request(span):
            super().on_end(_without_texts(span))


def processors() -> list[SpanProcessor]:
    """Return the span processors of a replica; called by Serve."""
    # imported here: processes that do not trace need no exporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [RequestSpans(OTLPSpanExporter())]


def current_span() -> SpanContext | None:
    """Return the current span; None if it is not sampled or belongs to no request."""
    span = trace.get_current_span()
    found = span.get_span_context()
    if not (found.is_valid and found.trace_flags.sampled):
        return None
    return found if _is_of_a_request(span) else None


def trace_id() -> str | None:
    """Return the current trace id as 32 hexadecimal digits; None as for `current_span`."""
    found = current_span()
    return None if found is None else trace.format_trace_id(found.trace_id)


def begin_request(method: str) -> None:
    """Mark the current span as that of a request."""
    trace.get_current_span().set_attribute(METHOD, method)


def end_request(method: str, route: str, status: int) -> None:
    """Name the current span by its route and record the status; 0 if no answer was sent."""
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(f"{method} {route}")
        if status:
            span.set_attribute(STATUS, status)
        if status >= SERVER_ERROR:
            span.set_status(StatusCode.ERROR)


def _is_of_a_request(span: object) -> bool:
    """Return whether a span has a parent or is that of a request.

    A replica that is called without a trace gets a span without a parent from Serve.
    """
    return (
        not isinstance(span, ReadableSpan)
        or span.parent is not None
        or METHOD in (span.attributes or {})
    )


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    """Return a span without the texts of its errors.

    Serve adds the text of an error and of its causes, which may have passwords and readings.
    """
    is_own = span.instrumentation_scope is not None and span.instrumentation_scope.name == __name__
    description = span.status.description if is_own else None
    if not span.events and span.status.description == description:
        return span
    kinds = [(event, (event.attributes or {}).get(ERROR_TYPE)) for event in span.events]
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=[
            Event("exception", {ERROR_TYPE: kind}, event.timestamp)
            for event, kind in kinds
            if kind is not None
        ],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, description),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def span(name: str, **attributes: AttributeValue) -> AbstractContextManager[None]:
    """Record the work inside as a child of the current span, if that is sampled."""
    return batch_span(name, [current_span()], **attributes)


def statement_span(name: str) -> AbstractContextManager[None]:
    """Record a use of the database's connection as a child of the current span, if sampled."""
    return span(f"sql {name}", **{"db.system.name": "postgresql", "db.operation.name": name})


def note_wait(name: str, request: SpanContext | None, since_ns: int) -> None:
    """Record as a child of a request's span that it waited until now, if it is sampled.

    Args:
        name: of the span.
        request: span of the request; None if it is not sampled.
        since_ns: when the wait began, in nanoseconds since 1970.
    """
    if request is not None:
        parent = trace.set_span_in_context(NonRecordingSpan(request))
        trace.get_tracer(__name__).start_span(name, parent, start_time=since_ns).end()


@contextmanager
def batch_span(
    name: str, requests: Sequence[SpanContext | None], **attributes: AttributeValue
) -> Iterator[None]:
    """Record the work inside, which answers many requests, if one of them is sampled.

    The span is a child of the first sampled request's span and linked to those of the others.

    Args:
        name: of the span.
        requests: the span of each request; None if it is not sampled.
        attributes: of the span.
    """
    sampled = list({each.span_id: each for each in requests if each is not None}.values())
    if not sampled:
        yield
        return
    # OpenTelemetry itself would record the texts of an error and of its causes
    with trace.get_tracer(__name__).start_as_current_span(
        name,
        trace.set_span_in_context(NonRecordingSpan(sampled[0])),
        links=[Link(each) for each in sampled[1:]],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except Exception as error:
            made.set_status(StatusCode.ERROR, type(error).__name__)
            raise


@contextmanager
def only_sampled() -> Iterator[None]:
    """Let calls inside join the trace of a sampled request, or else belong to no trace."""
    if current_span() is not None:
        yield
        return
    token = context.attach(_UNSAMPLED)
    try:
        yield
    finally:
        context.detach(token)
