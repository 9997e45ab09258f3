"""The graph-builder pool."""

import asyncio

import pytest

from app.demo.equipment import rig_equipment
from app.errors import HydraulicDiagnosticsError, ModelUnavailable
from app.serving import graph_builder
from app.serving.graph_builder import GraphBuilder
from app.serving.messages import BuildCall, BuiltWindow, VersionDescription, WindowInput
from tests.app.serving.conftest import LocalChain
from tests.app.serving.test_released import values


def call(application: str, digest: str, windows: int = 1) -> BuildCall:
    return BuildCall(application, digest, tuple(WindowInput(rig_equipment(), values(row)) for row in range(windows)))


async def test_version_that_hangs_holds_up_no_other(local: LocalChain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_builder, "DESCRIBE_S", 0.3)
    digest = (await local.describe("model-2")).spec_digest

    async def describe(application: str) -> VersionDescription:
        if application == "model-1":
            await asyncio.sleep(60)
        return await local.describe(application)

    builder = GraphBuilder(describe)
    hanging = [asyncio.create_task(builder.build(call("model-1", "0" * 64))) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(0.2):
        (built,) = await builder.build(call("model-2", digest))
    assert isinstance(built, BuiltWindow)
    for task in hanging:
        with pytest.raises(ModelUnavailable, match="describe itself within"):
            await task


async def test_unexpected_error_of_one_window_disturbs_no_other(local: LocalChain, monkeypatch: pytest.MonkeyPatch):
    original = graph_builder.build_graph
    calls = 0

    def fail_once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise IndexError("of our own")
        return original(*arguments)

    monkeypatch.setattr(graph_builder, "build_graph", fail_once)
    digest = (await local.describe("model-1")).spec_digest
    first, second = await GraphBuilder(local.describe).build(call("model-1", digest, windows=2))
    assert isinstance(first, HydraulicDiagnosticsError)
    assert "found an error of our own (IndexError)" in first.message
    assert isinstance(second, BuiltWindow)
