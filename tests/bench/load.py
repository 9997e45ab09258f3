"""Sends requests and times the answers: `python -m tests.bench.load`, in a process of its own, a plan as JSON on standard input.

Closed loop: each of so many connections sends its next request when the last was answered. Open
loop: requests are due at
fixed times and their latency counts from then, sent or not, so a server that stalls can't hide what
it kept waiting.
Times are of `perf_counter`: the event loop's own clock ticks in milliseconds. It speaks as little
HTTP/1.1 as it needs, since it shares the machine with what it measures: about 0.05 ms of CPU a
request.
Invariant: every request is answered, or counted as an error of a kind; standard output is `begin`,
`end` and the result.
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
"""How long requests under way at the end are waited for; what is not answered by then is an error."""
OPEN_CONNECTIONS = 64
"""That an open loop begins with."""
MAX_CONNECTIONS = 1024
FULLY_READ = 50
"""One answer in so many is parsed as JSON and looked at; all of them are searched for their machine."""


@dataclass(frozen=True)
class Plan:
    """What to send.

    Args:
        host: where to.
        port: where to.
        path: of the POST.
        headers: beside host, length and type.
        bodies: a file with one JSON body a line, each naming its `equipment_id`.
        first: line to begin with; after the last comes the first.
        seconds: of sending.
        concurrency: connections of a closed loop.
        rate: requests a second of an open loop, instead of `concurrency`.
        count: requests after which a closed loop ends, if before `seconds`.
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
    """What came of it: latencies in ms of the good answers, errors by kind, and good answers a second before the end."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    in_time: int = 0
    throughput: float = 0.0
    late_ms: float = 0.0
    cpu_ms: float = 0.0


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way.

    Args:
        answered: told (connection, status, body) of an answer, or status 0 when the connection went
            before it came.
    """

    def __init__(self, answered: "Callable[[Connection, int, bytes], None]") -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._expected: bytes | None = None
        self.due = 0.0

    @property
    def expected(self) -> bytes:
        """What the answer under way must contain."""
        assert self._expected is not None
        return self._expected

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._expected is not None

    @property
    def open(self) -> bool:
        """Whether the connection can be sent on."""
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
        """Close, whatever is under way."""
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
        self._finish(int(head[9:12]), body)

    def _finish(self, status: int, body: bytes) -> None:
        self._answered(self, status, body)


def _whole_body(head: bytes, rest: bytes) -> bytes | None:
    """Return an answer's body, None while it is not all there."""
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


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = _requests_of(plan)
        self._result = Result()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._deadline = 0.0

    async def run(self) -> Result:
        """Send until the time or the count is up, then wait for what is under way."""
        plan = self._plan
        await asyncio.gather(
            *(self._connect() for _ in range(plan.concurrency or OPEN_CONNECTIONS))
        )
        print("begin", flush=True)
        cpu_s, began = time.process_time(), time.perf_counter()
        self._deadline = began + plan.seconds
        if plan.rate is None:
            for connection in self._take_idle():
                self._next(connection)
            while time.perf_counter() < self._deadline and not self._counted_out():
                await asyncio.sleep(min(0.01, max(0.0, self._deadline - time.perf_counter())))
        else:
            await self._send_on_time(began, plan.rate)
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

    async def _send_on_time(self, began: float, rate: float) -> None:
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
                lambda: Connection(self._answered), self._plan.host, self._plan.port
            )
        except OSError:
            self._result.errors["no connection"] += 1
            return
        self._connections.add(connection)
        self._rest(connection)

    def _take_idle(self) -> list[Connection]:
        idle, self._idle = self._idle, []
        return idle

    def _counted_out(self) -> bool:
        return self._plan.count is not None and self._result.sent >= self._plan.count

    def _next(self, connection: Connection) -> None:
        """Go on in a closed loop."""
        now = time.perf_counter()
        if now < self._deadline and not self._counted_out():
            self._send(connection, now)

    def _rest(self, connection: Connection) -> None:
        """Take what waits in an open loop, or be idle."""
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

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        now = time.perf_counter()
        result = self._result
        if status == 0:
            result.errors["connection lost"] += 1
        elif status != 200:
            result.errors[str(status)] += 1
        elif not _is_answer(
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
            self._next(connection)
        else:
            self._rest(connection)

    async def _reconnect(self) -> None:
        if self._deadline:
            await self._connect()
            if self._plan.rate is None:
                for connection in self._take_idle():
                    self._next(connection)


def _requests_of(plan: Plan) -> list[tuple[bytes, bytes]]:
    head = f"POST {plan.path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\ncontent-type: application/json\r\n"
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


def _is_answer(body: bytes, equipment: bytes, *, fully: bool) -> bool:
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
    """Run a plan in an event loop of its own."""
    return uvloop.run(Load(plan).run())


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
