"""The line of `make run` that says how to ask."""

import json
from pathlib import Path

import httpx
import pytest

from app.cli import ready
from app.core.settings import Settings

PROBLEM = {"detail": "expected readings in the window, found none"}
ABSTAINS = {"status": "insufficient_evidence", "reasons": ["no sensor"]}
OK = {"status": "ok", "reasons": []}


def client(status: int, body: object, seen: list[httpx.Request]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, json=body)

    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, OK, None),
        (422, PROBLEM, PROBLEM["detail"]),
        (200, ABSTAINS, "the diagnosis has status insufficient_evidence: no sensor"),
    ],
)
def test_only_a_diagnosis_with_evidence_is_an_answer(
    status: int, body: object, expected: str | None, tmp_path: Path
):
    (tmp_path / "api_key").write_text("k" * 43 + "\n")
    seen: list[httpx.Request] = []
    with client(status, body, seen) as service:
        found = ready.problem_of_first_answer(service, Settings(var_dir=tmp_path, api_key=None))
    assert found == expected
    assert seen[0].headers["authorization"] == "Bearer " + "k" * 43
    assert json.loads(seen[0].content) == {"equipment_id": "hydraulic-rig"}


def test_service_that_has_not_started_is_waited_for(tmp_path: Path):
    settings = Settings(var_dir=tmp_path, api_key=None)
    with httpx.Client(base_url="http://127.0.0.1:9") as service:
        found = ready.problem_of_first_answer(service, settings)
        assert found is not None
        assert found.startswith("expected an API key in")
        (tmp_path / "api_key").write_text("k" * 43)
        found = ready.problem_of_first_answer(service, settings)
    assert found == "the service does not answer (ConnectError)"


def test_ready_is_printed_once_it_answers_and_nothing_when_the_service_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    reasons = iter(["it starts", "its window is not complete", None])
    monkeypatch.setattr(ready, "problem_of_first_answer", lambda *_: next(reasons))
    monkeypatch.setattr(ready, "PAUSE_S", 0.0)
    settings = Settings(var_dir=tmp_path, api_key=None)
    assert ready.wait("http://127.0.0.1:8000", settings, lambda: True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Ready: hydraulic-rig answers.")
    assert f"$(cat {tmp_path / 'api_key'})" in printed
    assert ready.wait("http://127.0.0.1:8000", settings, lambda: False) == 0
    assert capsys.readouterr().out == ""


def test_service_that_never_answers_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(ready, "problem_of_first_answer", lambda *_: "it starts")
    monkeypatch.setattr(ready, "TIMEOUT_S", 0.0)
    monkeypatch.setattr(ready, "PAUSE_S", 0.0)
    settings = Settings(var_dir=tmp_path, api_key=None)
    assert ready.wait("http://127.0.0.1:8000", settings, lambda: True) == 1
    assert "found: it starts" in capsys.readouterr().err


def test_worn_machine_is_named_once_it_answers_after_its_past_was_diagnosed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "api_key").write_text("k" * 43)
    received: list[tuple[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        received.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=OK)

    settings = Settings(var_dir=tmp_path, api_key=None)
    service = httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer))
    monkeypatch.setattr(ready.httpx, "Client", lambda **_: service)
    assert ready.wait("http://service", settings, lambda: True, has_fleet=True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Ready: hydraulic-rig answers.")
    assert f'"equipment_id": "{ready.WORN}"' in printed
    path, body = received[-1]
    assert path == "/v1/diagnoses/batch"
    assert isinstance(body, dict)
    assert {item["equipment_id"] for item in body["items"]} == {ready.WORN}
    assert len(body["items"]) == 24


def test_only_the_rig_is_named_where_no_version_answers_for_the_worn_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def reason(_: object, __: object, equipment: str = ready.EQUIPMENT) -> str | None:
        return None if equipment == ready.EQUIPMENT else "an untrained design"

    monkeypatch.setattr(ready, "problem_of_first_answer", reason)
    monkeypatch.setattr(ready, "WORN_PATIENCE_S", 0.0)
    settings = Settings(var_dir=tmp_path, api_key=None)
    assert ready.wait("http://127.0.0.1:8000", settings, lambda: True, has_fleet=True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Ready: hydraulic-rig answers.")
    assert ready.WORN not in printed


def test_configuration_says_whether_the_simulated_machines_are_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, found = tmp_path / "serve_config.yaml", list[tuple[str, bool]]()

    def wait(url: str, *_: object, has_fleet: bool) -> int:
        found.append((url, has_fleet))
        return 0

    monkeypatch.setattr(ready, "wait", wait)
    for arguments in ("", "    args: {simulated: true}\n"):
        config.write_text(
            "http_options: {port: 8123}\napplications:\n"
            f"  - name: live-demo\n    import_path: app.demo.live:live_demo\n{arguments}"
        )
        assert ready.main(config) == 0
    assert found == [("http://127.0.0.1:8123", False), ("http://127.0.0.1:8123", True)]
