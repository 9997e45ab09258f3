"""Spans: what belongs to whom, and what goes out. A real process of Serve's is in `tests/test_end_to_end.py`."""

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
    """The spans that ended, of a provider of the test's own: the process has one for good once it is set."""
    provider, exporter = TracerProvider(sampler=ParentBased(ALWAYS_ON)), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture
def sent() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A provider, and the spans that leave it by `RequestSpans` when it is shut down."""
    provider, exporter = TracerProvider(sampler=ParentBased(ALWAYS_ON)), InMemorySpanExporter()
    provider.add_span_processor(RequestSpans(exporter))
    yield provider, exporter
    provider.shutdown()


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def under(caller: SpanContext) -> AbstractContextManager[Span]:
    return trace.use_span(NonRecordingSpan(caller))


def test_batch_is_a_part_of_the_first_sampled_request_and_linked_to_the_others(
    ended: InMemorySpanExporter,
) -> None:
    callers = [None, request(1), request(2), request(1)]
    with tracing.batch_span("diagnose", callers, windows=4), tracing.span("read windows"):
        assert tracing.trace_id() == trace.format_trace_id(request(1).trace_id)
    read, batch = ended.get_finished_spans()
    assert (batch.name, batch.parent, dict(batch.attributes or {})) == (
        "diagnose",
        request(1),
        {"windows": 4},
    )
    assert [link.context for link in batch.links] == [request(2)]
    assert (read.name, read.parent) == ("read windows", batch.context)


def test_work_that_no_sampled_request_asked_for_has_no_span(ended: InMemorySpanExporter) -> None:
    with tracing.batch_span("diagnose", [None, None]), tracing.span("read windows"):
        assert (tracing.caller(), tracing.trace_id()) == (None, None)
    with under(request(1, TraceFlags())), tracing.span("read windows"):
        assert tracing.caller() is None
    assert names(ended) == []


def test_calls_of_nobody_begin_no_trace_and_those_of_somebody_are_his(
    ended: InMemorySpanExporter,
) -> None:
    def call(name: str) -> None:
        with trace.get_tracer("serve").start_as_current_span(name):
            pass

    with tracing.nobody():
        call("of nobody")
    with under(request(3)), tracing.nobody():
        call("of a request")
    (span,) = ended.get_finished_spans()
    assert (span.name, span.parent) == ("of a request", request(3))
    assert not trace.get_current_span().get_span_context().is_valid  # what was attached is gone


def test_span_of_a_request_is_named_by_its_route_and_keeps_its_status(
    ended: InMemorySpanExporter,
) -> None:
    with trace.get_tracer("serve").start_as_current_span("replica_handle_request"):
        tracing.begin_request("GET")
        tracing.note_request("GET", "/v1/equipment/{equipment_id}", 404)
    tracing.note_request("GET", "/metrics", 200)  # of no span
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
            tracing.note_request("POST", "/v1/diagnoses", status)
    told = [(dict(span.attributes or {}), span.status.is_ok) for span in ended.get_finished_spans()]
    assert told == [({}, True), ({tracing.STATUS: 499}, True), ({tracing.STATUS: 503}, False)]


def test_trace_that_a_replica_began_by_itself_is_nobodys(ended: InMemorySpanExporter) -> None:
    with trace.get_tracer("serve").start_as_current_span(
        "replica_handle_request GraphBuilder build"
    ):
        assert tracing.caller() is None
        with (
            tracing.nobody(),
            trace.get_tracer("serve").start_as_current_span("route_to_replica Model describe"),
        ):
            pass
        tracing.begin_request("POST")
        assert tracing.caller() is not None
    assert names(ended) == ["replica_handle_request GraphBuilder build"]


def test_error_of_a_batch_is_told_of_its_span_and_goes_on(ended: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), tracing.batch_span("diagnose", [request(1)]):
        raise KeyError("s3cret") from ValueError("183.7123")
    (span,) = ended.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "KeyError")
    assert not any(
        text in span.to_json() for text in ("s3cret", "183.7123")
    )  # what is told of an error is its kind


def test_trace_that_did_not_begin_at_a_request_stays_here(
    sent: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, exporter = sent
    tracer = provider.get_tracer("serve")
    with tracer.start_as_current_span("replica_handle_request Model score"):
        pass
    with tracer.start_as_current_span("request"):
        tracing.begin_request("POST")
        tracing.note_request("POST", "/v1/diagnoses", 200)
        with tracer.start_as_current_span("route_to_replica"):
            pass
    provider.shutdown()
    found: list[ReadableSpan] = list(exporter.get_finished_spans())
    assert sorted(span.name for span in found) == ["POST /v1/diagnoses", "route_to_replica"]


def test_error_that_serve_tells_of_a_call_goes_out_as_its_kind(
    sent: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, exporter = sent
    caller = trace.set_span_in_context(NonRecordingSpan(request(1)))
    tracer = provider.get_tracer("serve")
    # as Serve does: what was raised is an event, and the status a word of its own or none
    made = tracer.start_span("route_to_replica", caller, attributes={"app": "model-1"})
    made.record_exception(KeyError("s3cret"))
    made.add_event("s3cret was read")
    made.end()
    told = tracer.start_span("proxy_request", caller)
    told.set_status(StatusCode.ERROR, "s3cret")
    told.end()
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


def test_kind_of_an_error_that_is_told_here_goes_out(
    sent: tuple[TracerProvider, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, exporter = sent
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with pytest.raises(KeyError), tracing.batch_span("diagnose", [request(1)]):
        raise KeyError("s3cret")
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "KeyError"


def test_way_out_takes_no_argument_and_gives_a_list_as_serve_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    (processor,) = tracing.processors()
    assert isinstance(processor, RequestSpans)
    processor.shutdown()
