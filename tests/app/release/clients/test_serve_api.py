"""The client of Serve's REST interface: tokens, failures, waiting."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.core.errors import ReleaseError
from app.release.clients.serve_api import ApplicationState, ServeApi, dashboard_address, ray_token
from tests.app.release.fake_cluster import FakeCluster, serve_api


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> ServeApi:
    return ServeApi("http://dashboard", "secret", httpx.MockTransport(answer))


async def test_token_is_sent_and_a_refused_one_is_reported():
    seen: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(403)

    with pytest.raises(ReleaseError, match="RAY_AUTH_TOKEN"):
        await answering(refuse).apply({})
    assert seen == ["Bearer secret"]


async def test_absent_or_other_dashboard_is_an_error():
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ReleaseError, match="start the service, or correct this address"):
        await answering(gone).applications()
    with pytest.raises(ReleaseError, match="is it Ray's dashboard"):
        await answering(lambda _: httpx.Response(200, text="<html>")).applications()


async def test_refused_configuration_is_reported_with_its_cause():
    trace = "Traceback (most recent call last):\n  File x\nValueError: Duplicate application name\n"
    with pytest.raises(ReleaseError, match="status 400: ValueError: Duplicate application name"):
        await answering(lambda _: httpx.Response(400, text=trace)).apply({})


async def test_application_that_fails_or_does_not_start_is_an_error(cluster: FakeCluster):
    cluster.put(
        {
            "applications": [
                {
                    "name": "diagnostics",
                    "deployments": [
                        {"name": "Ingress", "user_config": {"traffic": {"releases": []}}}
                    ],
                }
            ]
        }
    )
    serve = serve_api(cluster)
    assert (await serve.wait_running("diagnostics", 1)).deployments["Ingress"].running == 1
    with pytest.raises(ReleaseError, match="found no such application"):
        await serve.wait_running("model-3", 0.01)
    cluster.failing_to_start["diagnostics"] = "OSError: no room"
    with pytest.raises(ReleaseError, match="found: OSError: no room"):
        await serve.wait_running("diagnostics", 1)
    with pytest.raises(ReleaseError, match="to be removed"):
        await serve.wait_gone("diagnostics", 0.01)
    await serve.wait_gone("model-3", 0.01)


def test_replica_that_failed_to_start_is_a_failure_before_serve_gives_up():
    state = ApplicationState.model_validate(
        {
            "status": "DEPLOYING",
            "deployments": {
                "Model": {
                    "status": "UPDATING",
                    "message": "The deployment failed to start 1 times: ValueError: no",
                }
            },
        }
    )
    assert state.failure is not None
    assert ApplicationState(status="DEPLOYING").failure is None


def test_token_is_found_where_ray_looks_for_it(tmp_path: Path):
    assert ray_token({}, tmp_path) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    named = tmp_path / "named"
    named.write_text("named\n")
    assert ray_token({}, tmp_path) == "home"
    assert ray_token({"RAY_AUTH_TOKEN_PATH": str(named)}, tmp_path) == "named"
    assert (
        ray_token({"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "given"}, tmp_path)
        == "given"
    )
    with pytest.raises(ReleaseError, match="RAY_AUTH_TOKEN_PATH"):
        ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)


def test_dashboard_address_is_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    assert dashboard_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://head:8265")
    assert dashboard_address(None) == "http://head:8265"
    assert dashboard_address("http://other") == "http://other"
