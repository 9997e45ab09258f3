"""The section `stream`: batches with `explain` whose answers last longer than a request may.

The service's limit of a request is 60 s. A batch is a stream and its items have deadlines, so each
item has a line, and the last line counts them, however long the stream takes.
"""

import itertools
import json
import time

import httpx

from app.schemas.diagnosis import MAX_BATCH_ITEMS
from app.serving.fastpath.disconnect_monitor import TIMEOUT_S
from app.serving.http.batch_stream import MAX_STREAM_S
from tests.bench.compare import Bench
from tests.bench.systems import OURS, Running, running

FIRST_ITEMS = 1_250


def measure(bench: Bench) -> dict[str, object]:
    """Send batches of twice as many items each, until a stream lasts longer than `TIMEOUT_S`.

    Returns:
        `rows`: items, seconds until the last line, the longest wait for a line, and lines with a
            diagnosis and with an error. `limit_s`: of a request that is no stream.
    """
    rows: list[dict[str, float]] = []
    with running(OURS, bench.dsn, bench.fresh_directory("stream"), bench.peers_python) as system:
        questions = itertools.cycle(bench.fleet.pairs(seed=12))
        count = FIRST_ITEMS
        while not rows or (rows[-1]["seconds"] <= TIMEOUT_S and rows[-1]["items"] < count):
            items = [
                {"equipment_id": machine, "at": end.isoformat(), "explain": True}
                for machine, end in itertools.islice(questions, count)
            ]
            rows.append(_read(system, items))
            print(" ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
            count = min(2 * count, MAX_BATCH_ITEMS)
    return {"limit_s": TIMEOUT_S, "rows": rows}


def _read(system: Running, items: list[dict[str, object]]) -> dict[str, float]:
    """Read the stream of a batch and check that each item has one line."""
    started = seen = time.monotonic()
    longest, left, failed = 0.0, set(range(len(items))), 0
    with httpx.stream(
        "POST",
        f"http://127.0.0.1:{system.port}/v1/diagnoses/batch",
        headers=system.headers,
        json={"items": items},
        timeout=httpx.Timeout(TIMEOUT_S, read=MAX_STREAM_S),
    ) as answer:
        answer.raise_for_status()
        summary = None
        for text in answer.iter_lines():
            longest, seen = max(longest, time.monotonic() - seen), time.monotonic()
            line = json.loads(text)
            if "summary" in line:
                summary = line["summary"]
            else:
                left.remove(line["index"])
                failed += "error" in line
    assert not left, f"{len(left)} items have no line"
    diagnosed = len(items) - failed
    assert summary == {"items": len(items), "diagnosed": diagnosed, "failed": failed}
    return {
        "items": len(items),
        "seconds": round(time.monotonic() - started, 1),
        "longest_wait_s": round(longest, 1),
        "diagnosed": diagnosed,
        "failed": failed,
    }
