"""`hydraulic diagnose` prints what a mechanic needs; the service is a stub of its two routes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from app.cli import diagnose
from app.cli.diagnose import bar
from app.schemas.diagnosed_input import FaultySensor
from app.schemas.diagnosis import Diagnosis, Evidence
from tests.command_line import hydraulic
from tests.shadow_rows import ComponentPrediction, diagnosis
from tests.small import press


@pytest.fixture
def answer() -> Diagnosis:
    """A diagnosis of the pump with evidence and a faulty sensor."""
    found = diagnosis(0, "3", ComponentPrediction("worn", 0.25))
    pump = replace(
        found.components[0],
        state="critical",
        evidence=(Evidence("Q1", -0.001), Evidence("P1", 0.31)),
    )
    quality = replace(found.input, faulty_sensors=(FaultySensor("P2", "frozen"),), stale_s=4000.0)
    return replace(found, equipment_id="press-1", components=(pump,), input=quality)


@pytest.fixture
def service(answer: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """The requests that the stub received."""
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.method == "GET":
            return httpx.Response(200, content=press().model_dump_json())
        if b"mill" in request.content:
            return httpx.Response(404, json={"detail": "expected a registered equipment"})
        return httpx.Response(200, content=answer.to_json())

    @contextmanager
    def client(*_: object) -> Iterator[httpx.Client]:
        with httpx.Client(transport=httpx.MockTransport(respond), base_url="http://test") as made:
            yield made

    monkeypatch.setattr(diagnose, "service_client", client)
    return requests


def test_answer_is_a_table_with_bars_evidence_and_the_topology(service: list[httpx.Request]):
    done = hydraulic("diagnose", "press-1", "--explain", "--at", "2025-01-01T00:00Z")
    assert done.status == 0, done
    assert json.loads(service[0].content) == {
        "equipment_id": "press-1",
        "at": "2025-01-01T00:00:00+00:00",
        "model_version": None,
        "explain": True,
    }
    assert "██░░░░░░░░  25%" in done.out
    assert "worn (90%)" in " ".join(done.out.split())
    assert done.out.index("P1 +0.310") < done.out.index("Q1 -0.001")
    assert "sensors left out as faulty: P2 (frozen)" in done.out
    assert "newest reading 4000 s old" in done.out
    assert "pump critical" in done.out
    assert "tank" in done.out


def test_answer_as_json_is_that_of_the_service(service: list[httpx.Request], answer: Diagnosis):
    done = hydraulic("diagnose", "press-1", "--json")
    assert Diagnosis.from_json(done.out) == answer
    assert len(service) == 1


@pytest.mark.usefixtures("service")
def test_refused_request_has_the_detail_of_the_problem():
    assert hydraulic("diagnose", "mill") == (1, "", "error: expected a registered equipment\n")


def test_service_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRAULIC_API_KEY", "x" * 32)
    status, _, err = hydraulic("diagnose", "press-1", "--url", "http://127.0.0.1:1")
    assert (status, "start it with `make run`" in err) == (1, True)


def test_bar_of_an_unknown_health_says_so():
    assert bar(None, "unknown").plain == "unknown"
    assert bar(1.0, "healthy").plain == "█" * 10 + " 100%"


def test_wear_is_a_line_with_intervals_and_its_source(answer: Diagnosis):
    pump = replace(
        answer.components[0],
        degradation_rate=0.8,
        degradation_interval=(0.6, 1.1),
        rul_h=300.0,
        rul_interval_h=(200.0, 450.0),
    )
    assert diagnose.wear(pump) == (
        "pump loses 0.80 (0.60 to 1.10) in 1000 h, 300 h left (200 to 450)"
    )
    unknown = replace(pump, degradation_interval=None, rul_h=None, rul_interval_h=None)
    assert diagnose.wear(unknown) == ""
