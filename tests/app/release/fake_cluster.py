"""A fake cluster: Serve's REST interface and the service in memory, behind real HTTP clients.

What is applied is in force at once; a version that is marked as broken fails to start or to answer;
calls are recorded in order.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from app.demo.rig.equipment import rig_equipment
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ConfigFile
from app.release.history import Order
from app.release.operations import Releases
from app.store.releases import ReleaseEvent

UTC_2026 = datetime(2026, 1, 1, tzinfo=UTC)


class FakeCluster:
    """Serve and the service."""

    def __init__(self) -> None:
        self.applied: dict[str, Any] = {}
        self.calls: list[str] = []
        self.failing_to_start: dict[str, str] = {}
        self.silent: set[str] = set()
        self.refuses_user_config = False
        self.apply_s = 0.0
        self.head_is_down = False
        self.metrics = ""
        self.config_error: str | None = None
        self.shadows: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.job_log = ""
        self.designs: dict[str, dict[str, float]] = {}
        self._weights: dict[str, float] = {}

    @property
    def applications(self) -> dict[str, Any]:
        return {item["name"]: item for item in self.applied.get("applications", [])}

    @property
    def weights(self) -> dict[str, float]:
        return self._weights

    def put(self, config: dict[str, Any]) -> None:
        self.applied = config
        ingress = self.applications["diagnostics"]["deployments"][0]["user_config"]
        if self.refuses_user_config:
            self.config_error = "user_config was refused"
            return
        self._weights = {item["version"]: item["weight"] for item in ingress["traffic"]["releases"]}
        self.shadows = ingress["traffic"].get("shadows", [])
        self.designs = ingress["traffic"].get("designs", {})

    def restart_head(self) -> None:
        """Lose what Serve was given; the replicas go on with it."""
        self.applied = {}

    def dashboard(self, request: httpx.Request) -> httpx.Response:
        if self.head_is_down:
            return httpx.Response(503)
        if request.method == "PUT":
            self.calls.append("apply")
            time.sleep(self.apply_s)
            self.put(json.loads(request.content))
            return httpx.Response(200)
        states = {}
        for name, config in self.applications.items():
            why = self.failing_to_start.get(name)
            running = [{"state": "RUNNING"}]
            deployments = {
                item["name"]: {"status": "HEALTHY", "message": "", "replicas": running}
                for item in config.get("deployments", [])
            }
            states[name] = {
                "status": "DEPLOY_FAILED" if why else "RUNNING",
                "message": why or "",
                "deployments": deployments,
                # Serve copies the file's logging_config to applications without one
                "deployed_app_config": {"logging_config": self.applied.get("logging_config")}
                | config,
            }
        return httpx.Response(200, json={"applications": states})

    def jobs_api(self, request: httpx.Request) -> httpx.Response:
        job_id, _, verb = request.url.path.removeprefix("/api/jobs/").partition("/")
        if request.method == "POST" and not job_id:
            given = json.loads(request.content)
            job_id = given["submission_id"]
            self.jobs[job_id] = given | {
                "type": "SUBMISSION",
                "status": "PENDING",
                "message": "Job is queued",
                "start_time": 1_767_225_600_000 + len(self.jobs),
                "end_time": None,
            }
            return httpx.Response(200, json={"job_id": job_id, "submission_id": job_id})
        if not job_id:
            return httpx.Response(200, json=list(self.jobs.values()))
        if job_id not in self.jobs:
            return httpx.Response(404, text=f"Job {job_id} does not exist")
        if verb == "logs":
            return httpx.Response(200, json={"logs": self.job_log})
        if verb == "stop":
            self.jobs[job_id] |= {"status": "STOPPED", "end_time": 1_767_225_700_000}
            return httpx.Response(200, json={"stopped": True})
        return httpx.Response(200, json=self.jobs[job_id])

    def service(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/traffic":
            releases = [
                {"version": name, "weight": weight} for name, weight in self.weights.items()
            ]
            report = {"releases": releases, "shadows": self.shadows, "designs": self.designs}
            return httpx.Response(200, json=report)
        if path == "/v1/equipment":
            return httpx.Response(
                200, json={"equipment": [{"equipment_id": "rig", "design": "hydraulic-rig"}]}
            )
        if path.startswith("/v1/equipment/"):
            return httpx.Response(200, json=rig_equipment().model_dump(mode="json"))
        if path == "/health/ready":
            return httpx.Response(
                200, json={"reasons": [self.config_error] if self.config_error else []}
            )
        if path == "/metrics":
            return httpx.Response(200, text=self.metrics)
        version = json.loads(request.content)["model_version"]
        self.calls.append(f"warm-up {version}")
        if version in self.silent:
            return httpx.Response(503, json={"detail": "expected an answer, found none"})
        return httpx.Response(200, json={"model_version": version, "fallback": False})


class MemoryHistory:
    """A release history in memory."""

    def __init__(self) -> None:
        self.events: list[ReleaseEvent] = []

    async def record_release(
        self,
        version: str,
        action: str,
        weights: Mapping[str, float],
        designs: Mapping[str, Mapping[str, float]] | None = None,
        *,
        actor: str,
        reason: str,
    ) -> ReleaseEvent:
        event = ReleaseEvent(
            release_id=len(self.events),
            released_at=UTC_2026,
            version=version,
            action=action,
            weights=weights,
            designs=designs or {},
            actor=actor,
            reason=reason,
        )
        self.events.append(event)
        return event

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        return self.events[::-1][:limit]


@contextlib.contextmanager
def serving(cluster: FakeCluster) -> Iterator[int]:
    """Serve a cluster on a port of this machine, as the dashboard and as the service."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = httpx.Request(self.command, f"http://cluster{self.path}", content=body)
            if self.path.startswith("/api/serve"):
                answer = cluster.dashboard(request)
            elif self.path.startswith("/api/jobs"):
                answer = cluster.jobs_api(request)
            else:
                answer = cluster.service(request)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = answer

        def log_message(self, *_: Any) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve_api(cluster: FakeCluster) -> ServeApi:
    return ServeApi("http://dashboard", "token", httpx.MockTransport(cluster.dashboard))


def service_api(cluster: FakeCluster) -> ServiceApi:
    return ServiceApi("http://service", "key", httpx.MockTransport(cluster.service))


def releases_on(
    cluster: FakeCluster,
    path: Path,
    history: MemoryHistory,
    lines: list[str],
    *,
    dry_run: bool = False,
) -> Releases:
    """Return the operations on a cluster that runs the file."""
    file = ConfigFile(path)
    data: Any = file.read().data
    cluster.put(data)
    order = Order("ann", "a reason", dry_run)
    clients = serve_api(cluster), service_api(cluster)
    return Releases(file, *clients, history, order, lines.append, path.parent)
