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
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import httpx

from app.demo.rig.equipment import rig_equipment
from tests.rig import inline_readings, rig_cycle
from tests.system import PROJECT_DIR
from tests.waiting import wait_until

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


@contextlib.contextmanager
def sending(url: str, key: str, rate: float, answers: Path) -> Iterator[None]:
    """Send the load from a process of its own, from its first answer on.

    Args:
        url: of the service.
        key: API key.
        rate: requests a second.
        answers: file of the answers.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.constant_load", url, str(rate), str(answers)],
        cwd=PROJECT_DIR,
        env=os.environ | {"LOAD_KEY": key, "PYTHONPATH": str(PROJECT_DIR)},
    )
    try:
        wait_until(lambda: answers.is_file() and answers.stat().st_size, "an answer of the load")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers_of(path: Path) -> list[dict[str, Any]]:
    """Return the answers in the order of their requests."""
    lines = path.read_text().splitlines()
    return sorted(
        (json.loads(line) for line in lines if line.endswith("}")), key=lambda item: item["sent"]
    )


def wait_for_answers(path: Path, since: float, count: int) -> list[dict[str, Any]]:
    """Wait until the load has `count` answers to requests sent since a time; return all answers."""
    wait_until(
        lambda: sum(item["sent"] > since for item in answers_of(path)) >= count,
        f"{count} answers of the load",
    )
    return answers_of(path)


if __name__ == "__main__":
    asyncio.run(load(sys.argv[1], os.environ["LOAD_KEY"], float(sys.argv[2]), Path(sys.argv[3])))
