"""Sends a constant load until SIGTERM: `python -m tests.constant_load URL RATE OUT`.

The API key is in LOAD_KEY. Requests are sent when they are due, whether or not earlier ones were
answered. Each answer is a line of JSON in OUT: times of request and answer (seconds since 1970),
equipment, status, version, and whether the version was a fallback.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import httpx

from app.demo.rig.equipment import rig_equipment
from tests.rig import inline_readings, rig_cycle

MACHINES = 60
START = "2026-01-01T00:00:00Z"


def bodies() -> list[dict[str, Any]]:
    """Return a request for each machine: of the rig's design, with inline readings."""
    topology = rig_equipment().model_dump(mode="json")
    readings = inline_readings(rig_cycle(300)[0], START)
    return [
        {"equipment_id": name, "readings": readings, "equipment": topology | {"equipment_id": name}}
        for name in (f"loaded-{number}" for number in range(MACHINES))
    ]


async def _diagnose(
    client: httpx.AsyncClient, body: dict[str, Any], content: bytes, out: TextIO
) -> None:
    sent = time.time()
    line: dict[str, Any] = {
        "sent": sent,
        "equipment": body["equipment_id"],
        "version": None,
        "fallback": None,
    }
    try:
        answer = await client.post("/v1/diagnoses", content=content)
        line["status"] = answer.status_code
        if answer.status_code == 200:
            found = answer.json()
            line |= {"version": found["model_version"], "fallback": found["fallback"]}
        else:
            line["text"] = answer.text[:300]
    except httpx.HTTPError as error:
        line |= {"status": 0, "text": repr(error)}
    out.write(json.dumps(line | {"answered": time.time()}) + "\n")
    out.flush()


async def load(url: str, key: str, rate: float, path: Path) -> None:
    """Send until SIGTERM, then wait for the last answers."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    prepared = [(body, json.dumps(body).encode()) for body in bodies()]
    running: set[asyncio.Task[None]] = set()
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    with path.open("w", encoding="utf-8") as out:
        async with httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, limits=limits
        ) as client:
            began, number = time.monotonic(), 0
            while not stopping.is_set():
                body, content = prepared[number % MACHINES]
                task = asyncio.create_task(_diagnose(client, body, content, out))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        stopping.wait(), max(0.0, began + number / rate - time.monotonic())
                    )
            await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(load(sys.argv[1], os.environ["LOAD_KEY"], float(sys.argv[2]), Path(sys.argv[3])))
