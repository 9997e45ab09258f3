"""The constant load of the chaos suite, in a thread: diagnoses, and readings that may not be lost.

Requests are sent when they are due, whether or not earlier ones were answered. Readings of one
machine are sent one request after the other, as a gateway does; a request that failed is not
repeated, so that each reading was either acknowledged or not.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from app.demo.rig.equipment import rig_equipment
from tests.rig import inline_readings, rig_cycle

MACHINES = ("chaos-1", "chaos-2")
START = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 20
"""Readings of a request."""
TIMEOUT_S = 10.0
_runs = itertools.count(1)
ACKNOWLEDGED = frozenset({200, 202})
RATES = {"inline": 4.0, "stored": 2.0, "ingest": 4.0}
"""Requests a second."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and its answer; status 0 is none."""

    kind: str
    sent: float
    answered: float
    status: int
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered with success."""
        return self.status in ACKNOWLEDGED


@dataclass
class Load:
    """What was sent and answered; times are of `time.monotonic`.

    Args:
        url: of the service.
        key: of all requests.
        start: time of the first reading; each run has another, so that none is there already.
        times: how many times the `RATES` are sent.
    """

    url: str
    key: str
    start: datetime = START
    times: float = 1.0
    answers: list[Answer] = field(default_factory=list)
    acknowledged: dict[str, set[datetime]] = field(
        default_factory=lambda: {name: set() for name in MACHINES}
    )
    _stopping: threading.Event = field(default_factory=threading.Event)

    def client(self) -> httpx.Client:
        """Return a client with the key."""
        return httpx.Client(base_url=self.url, headers=self._headers, timeout=30)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def register(self) -> None:
        """Register the machines and give each the readings of a window."""
        values, _ = rig_cycle(300)
        with self.client() as client:
            for name in MACHINES:
                topology = rig_equipment().model_dump(mode="json") | {"equipment_id": name}
                client.put(f"/v1/equipment/{name}", json=topology).raise_for_status()
                rows = [
                    _reading(name, sensor, START - timedelta(seconds=60 - second), value)
                    for sensor, series in values.items()
                    for second, value in enumerate(series)
                ]
                client.post("/v1/readings", json=rows).raise_for_status()

    def run(self) -> None:
        """Send until `stop`."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Stop sending; answers that are due still come."""
        self._stopping.set()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        timeout = httpx.Timeout(TIMEOUT_S)
        async with httpx.AsyncClient(
            base_url=self.url, headers=self._headers, timeout=timeout, limits=limits
        ) as client:
            await asyncio.gather(
                self._paced(client, "inline"),
                self._paced(client, "stored"),
                *(self._ingest(client, name) for name in MACHINES),
            )

    async def _paced(self, client: httpx.AsyncClient, kind: str) -> None:
        inline = {
            "equipment_id": MACHINES[0],
            "readings": inline_readings(rig_cycle(300)[0], START.isoformat()),
        }
        running: set[asyncio.Task[Answer]] = set()
        due = time.monotonic()
        while not self._stopping.is_set():
            body = inline if kind == "inline" else self._newest()
            task = asyncio.create_task(self._send(client, kind, "/v1/diagnoses", body))
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / (self.times * RATES[kind])
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*running)

    def _newest(self) -> dict[str, object]:
        """Return a request for the window of the newest readings, which no cache has."""
        count = len(self.acknowledged[MACHINES[0]])
        at = max(self.acknowledged[MACHINES[0]]) if count else START - timedelta(seconds=1)
        return {"equipment_id": MACHINES[0], "at": _iso(at + timedelta(seconds=1))}

    async def _ingest(self, client: httpx.AsyncClient, name: str) -> None:
        number = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            times = [self.start + timedelta(seconds=number * BATCH + at) for at in range(BATCH)]
            number += 1
            rows = [_reading(name, "PS1", at, float(index)) for index, at in enumerate(times)]
            answer = await self._send(client, "ingest", "/v1/readings", rows)
            if answer.ok:
                self.acknowledged[name].update(times)
            pause = len(MACHINES) / (self.times * RATES["ingest"]) - (time.monotonic() - began)
            await asyncio.sleep(max(0.0, pause))

    async def _send(self, client: httpx.AsyncClient, kind: str, path: str, body: Any) -> Answer:
        sent = time.monotonic()
        try:
            # also a body that comes slowly: httpx limits single reads only
            async with asyncio.timeout(2 * TIMEOUT_S):
                answer = await client.post(path, json=body)
            status, text = answer.status_code, "" if answer.is_success else answer.text[:300]
        except (httpx.HTTPError, TimeoutError) as error:
            status, text = 0, repr(error)
        made = Answer(kind, sent, time.monotonic(), status, text)
        self.answers.append(made)
        return made


def _reading(name: str, sensor: str, at: datetime, value: float) -> dict[str, object]:
    return {"equipment_id": name, "sensor_id": sensor, "time": _iso(at), "value": value}


def _iso(at: datetime) -> str:
    return at.isoformat()


@contextmanager
def loading(url: str, key: str, times: float = 1.0) -> Iterator[Load]:
    """Run the load on registered machines."""
    load = Load(url, key, START + timedelta(days=next(_runs)), times)
    load.register()
    thread = threading.Thread(target=load.run, name="load")
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join()
