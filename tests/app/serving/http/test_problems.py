"""Errors as problem documents."""

import pytest
from pydantic import ValidationError

from app.core import errors
from app.schemas.diagnosis import DiagnosisRequest
from app.serving.http.problems import TYPE_PREFIX, problem_of, problem_response, trace_id_of

WINDOW = '"equipment_id": "p", "readings": {"start": "2026-01-01T00:00:00Z"'
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (errors.TopologyError("body", (("components[0].type", "unknown"),)), 422, "topology"),
        (errors.WindowError("no window", "at"), 422, "window"),
        (errors.ReadingError("no reading"), 422, "readings"),
        (errors.InputError("no"), 422, "invalid-input"),
        (errors.UnknownEquipment("press"), 404, "unknown-equipment"),
        (errors.UnknownVersion("no", "model_version"), 404, "unknown-version"),
        (errors.Unauthenticated("no key"), 401, "unauthenticated"),
        (errors.Forbidden("no scope"), 403, "forbidden"),
        (errors.LimitExceeded("too much"), 413, "too-large"),
        (errors.StoreUnavailable("away"), 503, "store-unavailable"),
        (errors.ModelUnavailable("none"), 503, "model-unavailable"),
        (errors.StoreError("refused"), 500, "store"),
    ],
)
def test_error_has_its_status_and_type(error: Exception, status: int, slug: str):
    problem = problem_of(error, TRACE)
    assert (problem.status, problem.type, problem.trace_id) == (status, TYPE_PREFIX + slug, TRACE)


def test_topology_problem_lists_every_finding():
    problem = problem_of(errors.TopologyError("body", (("a", "one"), ("b", "two"))), TRACE)
    assert [(item.field, item.detail) for item in problem.errors] == [("a", "one"), ("b", "two")]
    assert problem.field == "a"


def test_internal_error_hides_its_cause():
    problem = problem_of(RuntimeError("SELECT secret FROM api_keys"), TRACE)
    assert problem.status == 500
    assert "SELECT" not in problem.model_dump_json()


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        ('{"equipment_id": "press", "at": "2026-01-01T00:00:00"}', "at", "a time with its zone"),
        ('{"equipment_id": "press", "atx": 1}', "atx", "expected no such field"),
        ("{}", "equipment_id", "expected this field, found none"),
        ("{", "", "expected JSON"),
        (
            f'{{{WINDOW}, "step_s": 1, "values": {{"PS1": [1, NaN]}}}}}}',
            "readings.values.PS1[1]",
            "expected a finite number",
        ),
        (
            f'{{{WINDOW}, "step_s": 0, "values": {{"PS1": [1]}}}}}}',
            "readings.step_s",
            "greater than 0",
        ),
    ],
)
def test_invalid_request_names_the_field(body: str, field: str, detail: str):
    with pytest.raises(ValidationError) as caught:
        DiagnosisRequest.model_validate_json(body)
    problem = problem_of(caught.value, TRACE)
    assert (problem.status, problem.field) == (422, field)
    assert detail in problem.detail


def test_invalid_values_are_shortened():
    with pytest.raises(ValidationError) as caught:
        DiagnosisRequest.model_validate({"equipment_id": "x" * 100_000})
    assert len(problem_of(caught.value, TRACE).model_dump_json()) < 1_000


def test_unavailable_has_retry_after():
    assert problem_response(problem_of(errors.StoreUnavailable("away"), TRACE)).headers[
        "retry-after"
    ]
    assert "retry-after" not in problem_response(problem_of(errors.StoreError("no"), TRACE)).headers


def test_trace_id_is_that_of_the_client_or_a_new_one():
    assert trace_id_of(f"00-{TRACE}-b7ad6b7169203331-01") == TRACE
    assert len(trace_id_of("")) == 32
    for bad in (
        "",
        "00-xyz-1-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE[:-1]}G-b7ad6b7169203331-01",
    ):
        assert trace_id_of(bad) not in (bad, "0" * 32)


def test_request_with_many_errors_reports_their_number_only():
    with pytest.raises(ValidationError) as caught:
        DiagnosisRequest.model_validate({"equipment_id": "p"} | {f"x{n}": n for n in range(201)})
    problem = problem_of(caught.value, TRACE)
    assert (problem.status, problem.errors) == (422, ())
    assert "found 201 errors" in problem.detail


def test_single_surrogate_is_escaped():
    answer = problem_response(
        problem_of(errors.TopologyError("body", (("\ud800", "found \udfff"),)), TRACE)
    )
    assert b"found \\\\udfff" in answer.body


def test_additional_headers_are_kept():
    assert (
        problem_response(problem_of(errors.InputError("no"), TRACE), {"allow": "GET"}).headers[
            "allow"
        ]
        == "GET"
    )
