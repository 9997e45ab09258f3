"""Log lines by the Elastic Common Schema: names, types, traces, and nothing secret."""

import json
import logging
import os

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.observability import ecs
from app.serving.observability.ecs import EcsFormatter, current_traces, traces_of
from app.store.keys import new_secret
from tests.ecs.schema import parse

TRACE = "0af7651916cd43dd8448eb211c80319c"


def line_of(event: str = "event", name: str = "app.test", **extra: object) -> dict[str, object]:
    record = logging.getLogger(name).makeRecord(
        name, logging.INFO, "file.py", 1, event, (), None, extra=extra
    )
    return parse(EcsFormatter().format(record))


def failed_with(error: Exception) -> dict[str, object]:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    info = (caught.type, caught.value, caught.tb)
    record = logging.LogRecord("app.test", logging.ERROR, "", 0, "request failed", None, info)
    return parse(EcsFormatter().format(record))


def test_fields_that_ecs_knows_have_its_names_and_others_are_below_hydraulic():
    line = line_of(
        "first key made", trace_id=TRACE, duration_s=0.25, equipment_id="press-1", error="KeyError"
    )
    assert (line["event.action"], line["trace.id"]) == ("first-key-made", TRACE)
    assert (line["event.duration"], line["error.type"]) == (250_000_000, "KeyError")
    assert line["hydraulic.equipment_id"] == "press-1"
    assert (line["service.name"], line["process.pid"]) == ("hydraulic-diagnostics", os.getpid())


def test_error_has_its_class_text_and_stack():
    line = failed_with(KeyError("pump"))
    assert (line["error.type"], line["error.message"]) == ("KeyError", "'pump'")
    assert "test_ecs.py" in str(line["error.stack_trace"])


def test_lines_of_serve_have_a_message_and_no_action():
    line = line_of(
        "Started Serve process 7.",
        "ray.serve",
        job_id="01000000",
        request_id="r-1",
        timestamp_ns=1,
        ray_serve_extra_fields={"depth": 2},
        log_to_stderr=False,
    )
    assert "event.action" not in line
    assert (line["http.request.id"], line["hydraulic.depth"]) == ("r-1", 2)
    assert not {"hydraulic.job_id", "hydraulic.timestamp_ns", "hydraulic.log_to_stderr"} & set(line)


def test_line_names_the_traces_of_all_requests_it_is_about():
    assert "trace.id" not in line_of()
    with traces_of((TRACE,)):
        assert line_of()["trace.id"] == TRACE
        with traces_of((TRACE, "f" * 32)):
            line = line_of()
    assert (line["trace.id"], line["hydraulic.trace_ids"]) == (TRACE, [TRACE, "f" * 32])
    assert current_traces() == ()


@pytest.fixture
def anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines say nothing of this process but what the test adds."""
    monkeypatch.setattr(ecs, "_identity", {})
    monkeypatch.setattr(ecs, "_static", "")


def test_place_of_the_process_is_in_each_line_once(anonymous: None):
    ecs.identify(deployment="Model", model_version="2")
    line = line_of(deployment="Other", version="1")
    assert (line["hydraulic.deployment"], line["hydraulic.model_version"]) == ("Model", "2")
    assert line["hydraulic.version"] == "1"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://user:s3cret@host/db refused", "s3cret"),
        ("Authorization: Bearer abc.def-123", "abc.def-123"),
        ('{"X-API-Key": "abcdef123"}', "abcdef123"),
        ("password=hunter22 host=db", "hunter22"),
    ],
)
def test_secret_in_a_text_is_hidden_wherever_it_is(text: str, secret: str):
    lines = [
        line_of(text),
        line_of(reason=text),
        line_of(config={"of": [text]}),
        line_of(about=[ValueError(text)]),
        failed_with(ValueError(text)),
    ]
    for line in lines:
        assert secret not in orjson.dumps(line).decode()
        assert "[hidden]" in orjson.dumps(line).decode()


def test_key_of_the_service_and_secret_fields_are_hidden():
    secret = new_secret()
    line = line_of(f"found {secret}", password="x1y2z3", nested={"token": "x1y2z3 and //"})
    assert secret not in str(line)
    assert "x1y2z3" not in str(line)


def test_long_text_is_cut():
    assert len(str(line_of(reason="x" * 1_000_000))) < 20_000


@given(
    st.text(),
    st.dictionaries(
        st.sampled_from(["count", "reason", "weights", "file"]),
        st.text(st.characters(codec=None)) | st.integers() | st.floats() | st.lists(st.text()),
    ),
)
def test_every_event_and_field_becomes_one_line_of_the_schema(event: str, extra: dict[str, object]):
    texts = {
        name: str(each) if name in ("reason", "file") else each for name, each in extra.items()
    }
    record = logging.LogRecord("app.test", logging.INFO, "", 0, event, None, None)
    vars(record).update(texts)
    text = EcsFormatter().format(record)
    assert "\n" not in text
    parse(text)


GOOD = {
    "@timestamp": "2026-01-01T00:00:00Z",
    "log.level": "info",
    "message": "m",
    "ecs.version": "8",
}


@pytest.mark.parametrize(
    "line",
    [
        "text",
        "[]",
        json.dumps({name: GOOD[name] for name in sorted(GOOD, reverse=True)}),
        json.dumps({name: GOOD[name] for name in GOOD if name != "ecs.version"}),
        json.dumps(GOOD | {"@timestamp": "today"}),
        json.dumps(GOOD | {"event": "e"}),
        json.dumps(GOOD | {"event.duration": "3 ms"}),
        json.dumps(GOOD)[:-1] + ', "message": "m"}',
    ],
)
def test_parser_of_these_tests_refuses_what_is_no_line_of_the_schema(line: str):
    assert parse(json.dumps(GOOD)) == GOOD
    with pytest.raises((ValueError, AttributeError)):
        parse(line)
