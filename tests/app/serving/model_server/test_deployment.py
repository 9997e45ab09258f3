"""Which of a model replica's calls wait to be merged; the merging itself is Ray Serve's."""

import asyncio
from pathlib import Path

import pytest

from app.model.graph import GraphBatch, ModelOutput
from app.model.runtime.selection import warm_up_graphs
from app.serving.model_server.deployment import ModelDeployment


async def test_lone_call_goes_alone_and_those_that_come_meanwhile_are_merged(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    merged: list[GraphBatch] = []

    async def merge(self: ModelDeployment, graph: GraphBatch) -> ModelOutput:
        merged.append(graph)
        return (await self.outputs_of([graph]))[0]

    monkeypatch.setattr(ModelDeployment, "_merged", merge)
    replica = ModelDeployment(str(checkpoints["model-1"]), "cpu", 1)
    graph = warm_up_graphs(replica.choice.network.config, 1)
    many = warm_up_graphs(replica.choice.network.config, 256)  # for the length of a thread's run
    first = asyncio.create_task(replica.output_of(many))
    while replica.idle:
        await asyncio.sleep(0)
    await asyncio.gather(first, replica.output_of(graph), replica.output_of(graph))
    assert len(merged) == 2
    await replica.output_of(graph)
    assert len(merged) == 2
