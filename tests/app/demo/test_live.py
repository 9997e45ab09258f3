"""The replica of the live demonstration, without Ray: feeding, stopping and health."""

import asyncio
import logging
import subprocess
import sys

import pytest
from pydantic import ValidationError
from ray import serve

from app.core.errors import HydraulicDiagnosticsError, StoreError
from app.core.settings import Settings
from app.demo import live
from app.demo.live import LiveDemo, LiveDemoArgs, live_demo
from app.demo.rig.equipment import rig_equipment
from app.schemas.equipment import Equipment
from app.serving.observability.feed_metrics import FeedMetrics


async def turns() -> None:
    """Let the tasks of the replica run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_replica_feeds_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    fed: list[str] = []

    async def run_feed(settings: Settings, equipment: Equipment, metrics: FeedMetrics) -> None:
        fed.append(equipment.equipment_id)
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.set()

    monkeypatch.setattr(live, "run_feed", run_feed)
    replica = LiveDemo(rig_equipment("rig-2"), simulated=False)
    await turns()
    await replica.check_health()
    assert fed == ["rig-2"]
    replica.__del__()
    await asyncio.wait_for(ended.wait(), 1)
    with pytest.raises(HydraulicDiagnosticsError, match="found it ended: cancelled"):
        await replica.check_health()


async def test_replica_whose_feed_failed_is_unhealthy_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run_feed(settings: Settings, equipment: Equipment, metrics: FeedMetrics) -> None:
        raise StoreError("expected a free disk, found none")

    reported: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger(live.__name__), "handle", reported.append)
    monkeypatch.setattr(live, "run_feed", run_feed)
    replica = LiveDemo(rig_equipment(), simulated=False)
    await turns()
    with pytest.raises(HydraulicDiagnosticsError, match=r"found it ended: StoreError.*free disk"):
        await replica.check_health()
    (logged,) = reported
    assert logged.getMessage() == "feed ended"
    assert vars(logged)["equipment_id"] == "hydraulic-rig"


def test_builder_binds_one_deployment() -> None:
    application = live_demo(LiveDemoArgs())
    assert isinstance(application, serve.Application)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValidationError, match="equipment"):
        LiveDemoArgs.model_validate({"equipment": "rig"})
    with pytest.raises(ValidationError, match="equipment_id"):
        LiveDemoArgs(equipment_id="a b")


def test_process_of_the_replica_imports_no_torch() -> None:
    code = "import sys, app.demo.live; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
