"""Load generator: `python -m tests.bench.load` reads a plan as JSON from standard input.

Closed loop: each connection sends its next request when the previous one was answered. Open loop:
requests are due at fixed times and their latency counts from the due time, whether they could be
sent or not, so that a stalled server does not hide the requests it kept waiting (coordinated
omission).

Times are read from `perf_counter`, because the event loop's clock ticks in milliseconds. The client
implements only the HTTP/1.1 it needs, since it shares the machine with the measured system: about
0.05 ms of CPU a request. It prints `begin`, `end` and the result as JSON. Every request is either
answered or counted as an error.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import orjson
import uvloop

DRAIN_S = 15.0
"""Time limit for requests in flight at the end; one that is not answered by then is an error."""
OPEN_CONNECTIONS = 64
"""Connections that an open loop starts with."""
MAX_CONNECTIONS = 1024
FULLY_READ = 50
"""One response in this many is parsed as JSON; every response is searched for its equipment id."""


@dataclass(frozen=True)
class Plan:
    """What to send.

    Args:
        host: of the server.
        port: of the server.
        path: of the POST.
        headers: in addition to host, content-length and content-type.
        bodies: file with one JSON body a line, each with an `equipment_id`.
        first: index of the first line to send; after the last line comes the first.
        seconds: duration of sending.
        concurrency: connections of a closed loop.
        rate: requests a second of an open loop, instead of `concurrency`.
        count: number of requests after which a closed loop ends early.
    """

    host: str
    port: int
    path: str
    headers: dict[str, str]
    bodies: str
    first: int
    seconds: float
    concurrency: int | None = None
    rate: float | None = None
    count: int | None = None


@dataclass
class Result:
    """Result of a run.

    Args:
        latencies_ms: of the valid responses.
        errors: number by kind, of refusals by status.
        refused_ms: latencies of refusals that say when to try again.
        sent: requests sent.
        in_time: valid responses before the end of sending.
        throughput: of `in_time`, a second.
        late_ms: longest delay of an open loop behind its schedule.
        cpu_ms: CPU time of the load generator.
    """

    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    refused_ms: list[float] = field(default_factory=list)
    sent: int = 0
    in_time: int = 0
    throughput: float = 0.0
    late_ms: float = 0.0
    cpu_ms: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight.

    Args:
        on_response: called with (connection, status, body) of a response, or with status 0 when
            the connection was lost before it.
    """

    def __init__(self, on_response: "Callable[[Connection, int, bytes], None]") -> None:
        self._on_response = on_response
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._expected: bytes | None = None
        self.due = 0.0
        self.says_when = False
        """Whether the last response has Retry-After."""

    @property
    def expected(self) -> bytes:
        """Bytes that the response to the request in flight must contain."""
        assert self._expected is not None
        return self._expected

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._expected is not None

    @property
    def open(self) -> bool:
        """Whether the connection can send."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self._finish(0, b"")

    def send(self, request: bytes, expected: bytes, due: float) -> None:
        """Send a request whose latency counts from `due`."""
        assert self._transport is not None
        self._expected, self.due = expected, due
        self._received.clear()
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection and drop the request in flight."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        body = _whole_body(head, bytes(self._received[head_end + 4 :]))
        if body is None:
            return
        if b"connection: close" in head and self._transport is not None:
            self._transport.close()
        self.says_when = b"\r\nretry-after:" in head
        self._finish(int(head[9:12]), body)

    def _finish(self, status: int, body: bytes) -> None:
        self._on_response(self, status, body)


def _whole_body(head: bytes, rest: bytes) -> bytes | None:
    """Return the body of a response, None while it is incomplete."""
    place = head.find(b"content-length:")
    if place >= 0:
        length = int(head[place + 15 :].split(b"\r\n", 1)[0])
        return rest[:length] if len(rest) >= length else None
    if b"transfer-encoding: chunked" not in head:
        return b""
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return None
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        if length == 0:
            return body
        body, rest = body + rest[:length], rest[length + 2 :]


class LoadGenerator:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = _requests_of(plan)
        self._result = Result()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._deadline = 0.0

    async def run(self) -> Result:
        """Send until the time or the count is reached, then wait for the requests in flight."""
        plan = self._plan
        await asyncio.gather(
            *(self._connect() for _ in range(plan.concurrency or OPEN_CONNECTIONS))
        )
        print("begin", flush=True)
        cpu_s, began = time.process_time(), time.perf_counter()
        self._deadline = began + plan.seconds
        if plan.rate is None:
            for connection in self._take_idle():
                self._send_next(connection)
            while time.perf_counter() < self._deadline and not self._is_count_reached():
                await asyncio.sleep(min(0.01, max(0.0, self._deadline - time.perf_counter())))
        else:
            await self._send_on_schedule(began, plan.rate)
        took_s = min(plan.seconds, time.perf_counter() - began)
        self._result.in_time = len(self._result.latencies_ms)
        self._deadline = 0.0
        print("end", flush=True)
        give_up = time.perf_counter() + DRAIN_S
        while time.perf_counter() < give_up and (
            self._waiting or any(item.busy for item in self._connections)
        ):
            await asyncio.sleep(0.01)
        for connection in self._connections:
            if connection.busy:
                self._result.errors["no answer"] += 1
            connection.close()
        if self._waiting:
            self._result.errors["not sent"] = len(self._waiting)
        self._result.throughput = self._result.in_time / took_s
        self._result.cpu_ms = 1000.0 * (time.process_time() - cpu_s)
        return self._result

    async def _send_on_schedule(self, began: float, rate: float) -> None:
        for number in range(int(rate * self._plan.seconds)):
            due = began + number / rate
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            self._result.late_ms = max(self._result.late_ms, 1000.0 * (time.perf_counter() - due))
            if self._idle:
                self._send(self._idle.pop(), due)
            else:
                self._waiting.append(due)
                if len(self._connections) < MAX_CONNECTIONS:
                    await self._connect()
        if self._deadline > time.perf_counter():
            await asyncio.sleep(self._deadline - time.perf_counter())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._on_response), self._plan.host, self._plan.port
            )
        except OSError:
            self._result.errors["no connection"] += 1
            return
        self._connections.add(connection)
        self._send_waiting(connection)

    def _take_idle(self) -> list[Connection]:
        idle, self._idle = self._idle, []
        return idle

    def _is_count_reached(self) -> bool:
        return self._plan.count is not None and self._result.sent >= self._plan.count

    def _send_next(self, connection: Connection) -> None:
        """Send the next request of a closed loop."""
        now = time.perf_counter()
        if now < self._deadline and not self._is_count_reached():
            self._send(connection, now)

    def _send_waiting(self, connection: Connection) -> None:
        """Send the next waiting request of an open loop, or mark the connection idle."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        request, expected = self._requests[
            (self._plan.first + self._result.sent) % len(self._requests)
        ]
        self._result.sent += 1
        connection.send(request, expected, due)

    def _on_response(self, connection: Connection, status: int, body: bytes) -> None:
        now = time.perf_counter()
        result = self._result
        if status == 0:
            result.errors["connection lost"] += 1
        elif status != 200:
            result.errors[str(status)] += 1
            if connection.says_when:
                result.refused_ms.append(1000.0 * (now - connection.due))
        elif not _is_valid(
            body, connection.expected, fully=len(result.latencies_ms) % FULLY_READ == 0
        ):
            result.errors["malformed"] += 1
        else:
            result.latencies_ms.append(1000.0 * (now - connection.due))
        connection._expected = None
        if not connection.open:
            self._connections.discard(connection)
            task = asyncio.get_running_loop().create_task(self._reconnect())
            task.add_done_callback(lambda done: done.exception())
        elif self._plan.rate is None:
            self._send_next(connection)
        else:
            self._send_waiting(connection)

    async def _reconnect(self) -> None:
        if self._deadline:
            await self._connect()
            if self._plan.rate is None:
                for connection in self._take_idle():
                    self._send_next(connection)


def _requests_of(plan: Plan) -> list[tuple[bytes, bytes]]:
    head = f"POST {plan.path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\n"
    head += "content-type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
    requests = []
    for line in Path(plan.bodies).read_bytes().splitlines():
        item = orjson.loads(line)
        equipment_id = (item[0] if isinstance(item, list) else item)["equipment_id"]
        requests.append(
            (
                f"{head}content-length: {len(line)}\r\n\r\n".encode() + line,
                f'"{equipment_id}"'.encode(),
            )
        )
    return requests


def _is_valid(body: bytes, equipment: bytes, *, fully: bool) -> bool:
    if equipment not in body or b'"components"' not in body:
        return False
    if not fully:
        return True
    try:
        answer = orjson.loads(body)
    except ValueError:
        return False
    answer = answer[0] if isinstance(answer, list) else answer
    return answer["equipment_id"].encode() == equipment[1:-1] and len(answer["components"]) > 0


def run_plan(plan: Plan) -> Result:
    """Run a plan in a new event loop."""
    return uvloop.run(LoadGenerator(plan).run())


def main() -> None:
    """Read a plan, run it, print the result."""
    result = run_plan(Plan(**json.loads(sys.stdin.read())))
    print(
        json.dumps(
            {**vars(result), "latencies_ms": [round(value, 3) for value in result.latencies_ms]}
        )
    )


if __name__ == "__main__":
    main()
