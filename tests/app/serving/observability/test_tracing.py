"""Spans: their parents and what is exported. `tests/test_end_to_end.py` traces a real service."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, StatusCode, TraceFlags

from app.serving.observability import tracing
from app.serving.observability.tracing import RequestSpans

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def request(number: int, flags: TraceFlags = SAMPLED) -> SpanContext:
    return SpanContext(100 + number, 200 + number, is_remote=True, trace_flags=flags)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The ended spans of a provider of the test: that of the process can be set only once."""
    provider, exporter = TracerProvider(sampler=ParentBased(ALWAYS_ON)), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture
def sent() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A provider, and the spans that `RequestSpans` exports when it is shut down."""
    provider, exporter = TracerProvider(sampler=ParentBased(ALWAYS_ON)), InMemorySpanExporter()
    provider.add_span_processor(RequestSpans(exporter))
    yield provider, exporter
    provider.shutdown()


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def under(span: SpanContext) -> AbstractContextManager[Span]:
    return trace.use_span(NonRecordingSpan(span))


def test_batch_is_a_part_of_the_first_sampled_request_and_linked_to_the_others(
    ended: InMemorySpanExporter,
) -> None:
    requests = [None, request(1), request(2), request(1)]
    with tracing.batch_span("diagnose", requests, windows=4), tracing.span("read windows"):
        assert tracing.trace_id() == trace.format_trace_id(request(1).trace_id)
    read, batch = ended.get_finished_spans()
    assert (batch.name, batch.parent, dict(batch.attributes or {})) == (
        "diagnose",
        request(1),
        {"windows": 4},
    )
    assert [link.context for link in batch.links] == [request(2)]
    assert (read.name, read.parent) == ("read windows", batch.context)


def test_work_without_a_sampled_request_has_no_span(ended: InMemorySpanExporter) -> None:
    with tracing.batch_span("diagnose", [None, None]), tracing.span("read windows"):
        assert (tracing.current_span(), tracing.trace_id()) == (None, None)
    with under(request(1, TraceFlags())), tracing.span("read windows"):
        assert tracing.current_span() is None
    assert names(ended) == []


def test_calls_start_no_trace_of_their_own_and_join_that_of_a_request(
    ended: InMemorySpanExporter,
) -> None:
    def call(name: str) -> None:
        with trace.get_tracer("serve").start_as_current_span(name):
            pass

    with tracing.only_sampled():
        call("without a request")
    with under(request(3)), tracing.only_sampled():
        call("of a request")
    (span,) = ended.get_finished_spans()
    assert (span.name, span.parent) == ("of a request", request(3))
    assert not trace.get_current_span().get_span_context().is_valid  # the context was detached


def test_span_of_a_request_is_named_by_its_route_and_keeps_its_status(
    ended: InMemorySpanExporter,
) -> None:
    with trace.get_tracer("serve").start_as_current_span("replica_handle_request"):
        tracing.begin_request("GET")
        tracing.end_request("GET", "/v1/equipment/{equipment_id}", 404)
    tracing.end_request("GET", "/metrics", 200)  # without a current span
    (span,) = ended.get_finished_spans()
    assert span.name == "GET /v1/equipment/{equipment_id}"
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 404,
    }


def test_request_that_was_not_answered_has_no_status_and_a_failed_one_is_an_error(
    ended: InMemorySpanExporter,
) -> None:
    for status in (0, 499, 503):
        with trace.get_tracer("serve").start_as_current_span("replica_handle_request"):
            tracing.end_request("POST", "/v1/diagnoses", status)
    found = [
        (dict(span.attributes or {}), span.status.is_ok) for span in ended.get_finished_spans()
    ]
    assert found == [({}, True), ({tracing.STATUS: 499}, True), ({tracing.STATUS: 503}, False)]


def test_trace_that_serve_started_in_a_replica_belongs_to_no_request(
    ended: InMemorySpanExporter,
) -> None:
    with trace.get_tracer("serve").start_as_current_span(
        "replica_handle_request GraphBuilder build"
    ):
        assert tracing.current_span() is None
        with (
            tracing.only_sampled(),
            trace.get_tracer("serve").start_as_current_span("route_to_replica Model describe"),
        ):
            pass
        tracing.begin_request("POST")
        assert tracing.current_span() is not None
    assert names(ended) == ["replica_handle_request GraphBuilder build"]


def test_error_of_a_batch_is_recorded_in_its_span_and_raised(ended: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), tracing.batch_span("diagnose", [request(1)]):
        raise KeyError("s3cret") from ValueError("183.7123")
    (span,) = ended.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "KeyError")
    assert not any(text in span.to_json() for text in ("s3cret", "183.7123"))


def test_trace_that_did_not_start_at_a_request_is_not_exported(
    sent: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, exporter = sent
    tracer = provider.get_tracer("serve")
    with tracer.start_as_current_span("replica_handle_request Model score"):
        pass
    with tracer.start_as_current_span("request"):
        tracing.begin_request("POST")
        tracing.end_request("POST", "/v1/diagnoses", 200)
        with tracer.start_as_current_span("route_to_replica"):
            pass
    provider.shutdown()
    found: list[ReadableSpan] = list(exporter.get_finished_spans())
    assert sorted(span.name for span in found) == ["POST /v1/diagnoses", "route_to_replica"]


def test_error_that_serve_records_is_exported_as_its_class(
    sent: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, exporter = sent
    parent = trace.set_span_in_context(NonRecordingSpan(request(1)))
    tracer = provider.get_tracer("serve")
    # as Serve does: the error is an event, and the status has any text or none
    made = tracer.start_span("route_to_replica", parent, attributes={"app": "model-1"})
    made.record_exception(KeyError("s3cret"))
    made.add_event("s3cret was read")
    made.end()
    failed = tracer.start_span("proxy_request", parent)
    failed.set_status(StatusCode.ERROR, "s3cret")
    failed.end()
    provider.shutdown()
    call, other = exporter.get_finished_spans()
    assert not any("s3cret" in span.to_json() for span in (call, other))
    assert [dict(event.attributes or {}) for event in call.events] == [
        {tracing.ERROR_TYPE: "KeyError"}
    ]
    assert (call.name, dict(call.attributes or {}), call.parent) == (
        "route_to_replica",
        {"app": "model-1"},
        request(1),
    )
    assert call.context is not None
    assert call.context.trace_id == request(1).trace_id
    assert None not in (call.start_time, call.end_time)
    assert (other.status.is_ok, other.status.description) == (False, None)


def test_class_of_an_error_in_a_batch_is_exported(
    sent: tuple[TracerProvider, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, exporter = sent
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with pytest.raises(KeyError), tracing.batch_span("diagnose", [request(1)]):
        raise KeyError("s3cret")
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "KeyError"


def test_processors_are_a_list_as_serve_expects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    (processor,) = tracing.processors()
    assert isinstance(processor, RequestSpans)
    processor.shutdown()
