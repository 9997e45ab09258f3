"""The section `shadow`: what a shadow costs callers.

The same loads run without a shadow, with one that answers, one that sleeps and one that raises. All
are versions of one started service; only the list of shadows changes between the loads.
"""

import asyncio
import copy
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from app.release.clients.serve_api import ServeApi, ray_token
from tests.bench.compare import Bench, LoadClient, Point
from tests.bench.systems import OURS, Running, metrics_of, running
from tests.system import PROJECT_DIR

CLOSED, OPEN = Point(32), Point(rate=20.0)
SLEEP_S = 2.0
SHADOWS: dict[str, dict[str, object] | None] = {
    "none": None,
    "answers": {},
    "sleeps": {"sleep_s": SLEEP_S},
    "raises": {"raises": True},
}
"""Behaviour of each shadow, as arguments of `variants.model`."""
_COPIES = re.compile(r'hydraulic_shadow_copies_total\{.*outcome="(\w+)".*\}')


def measure(bench: Bench) -> dict[str, object]:
    """Run both loads with each of the shadows, in each round.

    Returns:
        `rows`: a measurement for each load, with the number of copies by outcome.
    """
    rows: list[dict[str, object]] = []
    with running(OURS, bench.dsn, bench.fresh_directory("shadow"), bench.peers_python) as system:
        found = re.search(
            r"http://127\.0\.0\.1:\d+",
            (system.directory / "log").read_text().split("View the dashboard at")[1],
        )
        assert found is not None
        config = _with_versions(
            yaml.safe_load((system.directory / "serve_config.yaml").read_text()), system.directory
        )
        client = LoadClient(bench, system, bench.fleet.pairs(seed=11))
        for number in range(bench.rounds):
            for name in SHADOWS:
                asyncio.run(
                    _apply(found[0], config, [] if name == "none" else [f"shadow-{name}"], system)
                )
                client.run(CLOSED, 1.0)
                for point in (CLOSED, OPEN):
                    before = _copies(system)
                    row = client.run(point, bench.seconds, number)
                    after = _copies(system)
                    copies = {
                        outcome: count - before.get(outcome, 0.0)
                        for outcome, count in after.items()
                    }
                    rows.append({"shadow": name, "copies": copies} | asdict(row))
                    print(
                        f"shadow {name:8} {row.point:>5} {row.throughput:7.1f}/s  "
                        f"p50 {row.p50:6.1f}  p95 {row.p95:6.1f} ms  "
                        f"errors {sum(row.errors.values())}  copies {copies}",
                        flush=True,
                    )
    return {"rows": rows}


def _with_versions(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Add a version with weight 0 for each shadow to the configuration and return it."""
    model = next(item for item in config["applications"] if item["name"] == "model-2")
    for name, behaviour in SHADOWS.items():
        if behaviour is None:
            continue
        version = f"shadow-{name}"
        checkpoint = directory / version
        shutil.copytree(PROJECT_DIR / "app" / "weights" / "2", checkpoint)
        manifest = json.loads((checkpoint / "checkpoint.json").read_text()) | {"version": version}
        (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))
        config["applications"].append(
            copy.deepcopy(model)
            | {
                "name": version,
                "import_path": "tests.bench.variants:model",
                "args": {"checkpoint": str(checkpoint), **behaviour},
            }
        )
        _traffic(config)["releases"].append(
            {"version": version, "application": version, "weight": 0}
        )
    return config


async def _apply(
    dashboard: str, config: dict[str, Any], shadows: Sequence[str], system: Running
) -> None:
    """Apply the configuration with these shadows and wait until they are in force."""
    _traffic(config)["shadows"] = list(shadows)
    async with ServeApi(dashboard, ray_token(os.environ, Path.home())) as serve:
        await serve.apply(config)
        for application in config["applications"]:
            await serve.wait_running(application["name"], 120.0)
    give_up = time.monotonic() + 20.0
    while json.loads(system.get("/v1/traffic")[1]).get("shadows") != list(shadows):
        if time.monotonic() > give_up:
            raise RuntimeError(
                f"expected the shadows {list(shadows)} in force within 20 s, found others"
            )
        await asyncio.sleep(0.1)


def _traffic(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]["deployments"][0]["user_config"]["traffic"]
    return found


def _copies(system: Running) -> dict[str, float]:
    """Return the number of copies by outcome."""
    counts: dict[str, float] = {}
    for name, value in metrics_of(system).items():
        if (found := _COPIES.fullmatch(name)) is not None:
            counts[found[1]] = counts.get(found[1], 0.0) + value
    return counts
