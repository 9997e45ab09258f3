"""Spans of the way of a request, as OpenTelemetry has them; there are some only where a collector is named by `OTEL_EXPORTER_OTLP_ENDPOINT`.

Serve makes a span of each request that is sampled and of each call between deployments that stands under one, and asks `processors` for the
way out, in each replica. What it can't know is told here: that one batch of work belongs to many requests, what a request was, and
that work without a sampled request behind it is nobody's trace.
Serve leaves a request's trace in the context that it ran in; with uvloop, which Ray takes, no other request of the connection finds it there.
Invariant: a span that goes out is a part of a sampled request's trace, and tells no reading, and of an error its kind and not its text.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

METHOD, STATUS = "http.request.method", "http.response.status_code"
"""Attributes of a request's span, by OpenTelemetry's semantic conventions for HTTP; its route is in its name, since Serve has an own one."""
ERROR_TYPE = "exception.type"
SERVER_ERROR = 500
"""The least status that is an error of the service, by the same."""

_NOBODY = trace.set_span_in_context(
    NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags()))
)
"""Stands above work that no sampled request asked for: without a parent, Serve would begin a trace of its own for some of it."""


class RequestSpans(BatchSpanProcessor):
    """Sends spans in batches, but no trace that began elsewhere than at a request, and no error's text."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if _is_of_a_request(span):
            super().on_end(_without_texts(span))


def processors() -> list[SpanProcessor]:
    """Return where spans go, for Serve, which calls this in every replica."""
    # where nothing is traced, nothing is to be paid for it
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [RequestSpans(OTLPSpanExporter())]


def caller() -> SpanContext | None:
    """Return the span that the work at hand is of, None where that is not traced, not sampled, or of no request."""
    span = trace.get_current_span()
    found = span.get_span_context()
    if not (found.is_valid and found.trace_flags.sampled):
        return None
    return found if _is_of_a_request(span) else None


def trace_id() -> str | None:
    """Return the id of the trace that the work at hand is of, as 32 hexadecimal digits; None as for `caller`."""
    found = caller()
    return None if found is None else trace.format_trace_id(found.trace_id)


def begin_request(method: str) -> None:
    """Say of the span at hand that it is a request's."""
    trace.get_current_span().set_attribute(METHOD, method)


def note_request(method: str, route: str, status: int) -> None:
    """Say of the span at hand which request it was of, and how that was answered; status 0 where it was not."""
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(f"{method} {route}")
        if status:
            span.set_attribute(STATUS, status)
        if status >= SERVER_ERROR:
            span.set_status(StatusCode.ERROR)


def _is_of_a_request(span: object) -> bool:
    """Tell whether a span is a part of another one, or begins at a request; where a replica is told of no trace, Serve begins one there."""
    return (
        not isinstance(span, ReadableSpan)
        or span.parent is not None
        or METHOD in (span.attributes or {})
    )


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    """Return a span with the kinds of its errors alone: Serve adds their text and that of all their causes, with passwords and readings in it."""
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


@contextmanager
def span(name: str, **attributes: AttributeValue) -> Iterator[None]:
    """Make a span of the work inside, as a part of the one at hand; where that is not sampled, none."""
    if caller() is None:
        yield
        return
    with _part(name, None, (), attributes):
        yield


@contextmanager
def batch_span(
    name: str, callers: Sequence[SpanContext | None], **attributes: AttributeValue
) -> Iterator[None]:
    """Make a span of the work inside, which many requests wait for: a part of the first sampled one, linked to the others.

    Args:
        name: of the span.
        callers: the span of each request, or None.
        attributes: of the span.
    """
    sampled = list({each.span_id: each for each in callers if each is not None}.values())
    if not sampled:
        yield
        return
    parent = trace.set_span_in_context(NonRecordingSpan(sampled[0]))
    links = [Link(each) for each in sampled[1:]]
    with _part(name, parent, links, attributes):
        yield


@contextmanager
def _part(
    name: str,
    parent: Context | None,
    links: Sequence[Link],
    attributes: Mapping[str, AttributeValue],
) -> Iterator[None]:
    # by itself OpenTelemetry would send the text of an error and of all its causes, with passwords and readings in it
    tracer = trace.get_tracer(__name__)
    with tracer.start_as_current_span(
        name,
        parent,
        links=links,
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
def nobody() -> Iterator[None]:
    """Let calls inside be of no trace, unless the work at hand is of one."""
    if caller() is not None:
        yield
        return
    token = context.attach(_NOBODY)
    try:
        yield
    finally:
        context.detach(token)
