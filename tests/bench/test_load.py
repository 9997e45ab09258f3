"""The load generator counts valid responses and errors, and its latencies include all waiting."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.bench.load import Plan, run_plan


@dataclass
class Behaviour:
    """Behaviour for requests `first` to `end - 1`; the server answers the others normally."""

    first: int = 0
    end: int = 0
    status: int = 200
    body: bytes | None = None
    hang_up: bool = False
    wait_s: float = 0.0
    chunked: bool = False
    seen: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers every request with a diagnosis of its machine."""

    protocol_version = "HTTP/1.1"
    behaviour: ClassVar[Behaviour]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        behaviour = self.behaviour
        number = len(behaviour.seen)
        behaviour.seen.append(request["equipment_id"])
        is_misbehaving = behaviour.first <= number < behaviour.end
        if is_misbehaving and behaviour.hang_up:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if is_misbehaving:
            time.sleep(behaviour.wait_s)
        good = json.dumps(
            {"equipment_id": request["equipment_id"], "components": [1]}, separators=(",", ":")
        ).encode()
        body = behaviour.body if is_misbehaving and behaviour.body is not None else good
        self.send_response(behaviour.status if is_misbehaving else 200)
        if behaviour.chunked:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\n" + body[:5] + b"\r\n")
            self.wfile.write(b"%x\r\n" % (len(body) - 5) + body[5:] + b"\r\n0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server with a longer backlog than the default."""

    request_queue_size = 128
    daemon_threads = True


@pytest.fixture
def behaviour() -> Behaviour:
    Handler.behaviour = Behaviour()
    return Handler.behaviour


@pytest.fixture
def plan(behaviour: Behaviour, tmp_path: Path) -> Iterator[Plan]:
    bodies = tmp_path / "bodies"
    bodies.write_text(
        "".join(json.dumps({"equipment_id": f"m{number}"}) + "\n" for number in range(5))
    )
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Plan(
            "127.0.0.1",
            server.server_port,
            "/",
            {},
            str(bodies),
            first=3,
            seconds=10.0,
            concurrency=2,
            count=40,
        )
        server.shutdown()
        thread.join()


def open_loop(plan: Plan, rate: float, seconds: float) -> Plan:
    return Plan(plan.host, plan.port, plan.path, {}, plan.bodies, 0, seconds, rate=rate)


@pytest.mark.parametrize("chunked", [False, True])
def test_closed_loop_sends_in_order_from_the_first_and_counts_all(
    plan: Plan, behaviour: Behaviour, *, chunked: bool
) -> None:
    behaviour.chunked = chunked
    result = run_plan(plan)
    assert len(result.latencies_ms) == result.sent == len(behaviour.seen)
    assert 40 <= result.sent <= 41
    assert not result.errors
    counts = Counter(behaviour.seen)
    assert sorted(counts) == ["m0", "m1", "m2", "m3", "m4"]
    # sent in order, though the server's threads may record them late
    assert max(counts.values()) - min(counts.values()) <= 1
    assert set(behaviour.seen[:2]) <= {"m3", "m4", "m0"}
    assert result.throughput > 0


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"status": 503}, "503"),
        ({"body": b'{"equipment_id":"another","components":[1]}'}, "malformed"),
        ({"body": b"{}"}, "malformed"),
        ({"hang_up": True}, "connection lost"),
    ],
)
def test_each_kind_of_error_is_counted_and_the_load_goes_on(
    plan: Plan, behaviour: Behaviour, changes: dict[str, object], kind: str
) -> None:
    behaviour.first, behaviour.end = 10, 13
    for name, value in changes.items():
        setattr(behaviour, name, value)
    result = run_plan(plan)
    assert result.errors == {kind: 3}
    assert len(result.latencies_ms) == result.sent - 3


def test_open_loop_sends_on_schedule_and_latency_counts_from_the_due_time(
    plan: Plan, behaviour: Behaviour
) -> None:
    # one response takes 0.3 s; meanwhile the loop sends on other connections
    behaviour.first, behaviour.end, behaviour.wait_s = 10, 11, 0.3
    result = run_plan(open_loop(plan, rate=100.0, seconds=0.6))
    assert result.sent == len(result.latencies_ms) == 60
    assert not result.errors
    assert max(result.latencies_ms) >= 300.0
    assert sorted(result.latencies_ms)[30] < 200.0


def test_latency_of_an_open_loop_includes_the_wait_for_a_stalled_server(
    plan: Plan, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.load.MAX_CONNECTIONS", 1)
    monkeypatch.setattr("tests.bench.load.OPEN_CONNECTIONS", 1)
    behaviour.first, behaviour.end, behaviour.wait_s = 0, 1, 0.4
    result = run_plan(open_loop(plan, rate=50.0, seconds=0.6))
    # requests due while the first is answered wait for the only connection, and that wait counts
    assert sum(latency > 100.0 for latency in result.latencies_ms) >= 10
    assert len(result.latencies_ms) == 30


def test_refused_connection_is_counted_as_an_error(tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.write_text('{"equipment_id": "m0"}\n')
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
    result = run_plan(Plan("127.0.0.1", port, "/", {}, str(bodies), 0, 0.2, concurrency=3))
    assert result.errors == {"no connection": 3}
    assert result.sent == 0
