"""Large bodies are read in a process of its own: same answers, no delay, no memory left behind."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from app.core.errors import InputError, LimitExceeded, Overloaded, ReadingError
from app.schemas.reading_formats import ReadingOptions
from app.serving.ingress import ingest_worker
from app.serving.ingress.ingest import read_in_turns
from app.serving.ingress.ingest_worker import IngestWorker, ReadOrder
from tests.uploads import upload

LIMIT = 32 * 1024 * 1024
ANY = ReadingOptions()
GOOD = {"equipment_id": "press", "sensor_id": "p", "time": "2026-01-31T11:00:00Z", "value": 1.5}
MIXED = [GOOD, 3, GOOD | {"sensor_id": "t"}, GOOD | {"equipment_id": "mill"}, {"x": 1}, GOOD]


@pytest.fixture
async def worker() -> AsyncIterator[IngestWorker]:
    made = IngestWorker()
    yield made
    await made.close()


def order(content_type: str = "application/json", encoding: str = "") -> ReadOrder:
    return ReadOrder(content_type, encoding, LIMIT, ANY)


def pid_of(worker: IngestWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(MIXED).encode(), "application/json"),
        ("\n".join(map(json.dumps, MIXED)).encode(), "application/x-ndjson"),
        (b"equipment_id,time,p,t\npress,2026-01-31T11:00:00Z,1,x\n", "text/csv"),
    ],
)
async def test_body_is_read_as_in_the_event_loop(
    worker: IngestWorker, body: bytes, content_type: str
):
    here = await read_in_turns(body, content_type, ANY)
    assert await worker.read(upload(body).parts, order(content_type)) == here
    sent = gzip.compress(body)
    assert await worker.read(upload(sent, part=10).parts, order(content_type, "gzip")) == here


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [(b"[", "", ReadingError), (b"", "", ReadingError), (b"no gzip", "gzip", InputError)],
)
async def test_error_of_a_body_is_that_of_the_caller_and_the_process_goes_on(
    worker: IngestWorker, body: bytes, encoding: str, error: type[Exception]
):
    for _ in range(2):
        with pytest.raises(error, match="expected"):
            await worker.read(upload(body).parts, order(encoding=encoding))
    first = pid_of(worker)
    await worker.read(upload(json.dumps(GOOD).encode()).parts, order())
    assert pid_of(worker) == first


async def test_body_beyond_the_limit_is_refused_before_it_is_read(worker: IngestWorker):
    with pytest.raises(LimitExceeded, match=f"at most {LIMIT} bytes"):
        await worker.read(upload(b" " * (LIMIT + 1)).parts, order())
    await worker.read(upload(json.dumps(GOOD).encode()).parts, order())


async def test_cancelled_request_ends_the_process_and_the_next_has_another(worker: IngestWorker):
    bad = upload(b"{\n" * 499_999, "application/x-ndjson")
    reading = asyncio.create_task(worker.read(bad.parts, order("application/x-ndjson")))
    while worker._process is None:
        await asyncio.sleep(0.01)
    process = psutil.Process(pid_of(worker))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    await worker.read(upload(json.dumps(GOOD).encode()).parts, order())


async def test_few_bodies_wait(worker: IngestWorker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_worker, "MAX_WAITING", 1)
    may_end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield json.dumps(GOOD).encode()
        await may_end.wait()

    tasks = [asyncio.create_task(worker.read(slow(), order())) for _ in range(2)]
    while not worker._waiting:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="expected at most 1 large bodies to wait"):
        await worker.read(slow(), order())
    may_end.set()
    assert [len(each.columns) for each in await asyncio.gather(*tasks)] == [1, 1]


async def test_process_ends_when_it_is_idle(worker: IngestWorker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_worker, "IDLE_S", 0.01)
    await worker.read(upload(json.dumps(GOOD).encode()).parts, order())
    async with asyncio.timeout(60):
        while worker._process is not None:
            await asyncio.sleep(0.01)
    await worker.read(upload(json.dumps(GOOD).encode()).parts, order())


async def test_half_a_million_bad_lines_do_not_hold_the_event_loop(worker: IngestWorker):
    pauses: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            pauses.append(time.thread_time() - began[1])

    looking = asyncio.create_task(look())
    bad = upload(b'{"equipment_id": 1}\n' * 499_999, "application/x-ndjson")
    found = await worker.read(bad.parts, order("application/x-ndjson"))
    looking.cancel()
    assert (found.rejected_count, len(found.rejected)) == (499_999, 1_000)
    # CPU time of this thread between two turns: independent of the load of the machine
    assert max(pauses) < 0.05


async def test_memory_of_a_large_json_list_is_returned(worker: IngestWorker):
    item = json.dumps(GOOD).encode()
    body = b"[" + b",".join([item] * (12_000_000 // (len(item) + 1))) + b"]"
    here = psutil.Process()

    async def read() -> int:
        found = await worker.read(upload(body).parts, order())
        assert len(found.columns["press"].lines_R) > 100_000
        return here.memory_info().rss

    first = await read()
    assert worker._process is None  # it has ended with its memory
    assert await read() - first < 12_000_000
