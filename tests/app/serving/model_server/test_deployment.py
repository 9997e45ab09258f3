"""Which calls of a model replica are merged; the merging itself is Ray Serve's."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.model.graph import GraphGroup, Prediction
from app.model.runtime.gate import warm_up_group
from app.serving.model_server.deployment import ModelDeployment


async def test_single_call_starts_at_once_and_later_calls_are_merged(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    merged: list[Sequence[GraphGroup]] = []

    async def merge(self: ModelDeployment, groups: Sequence[GraphGroup]) -> list[Prediction]:
        merged.append(groups)
        return (await self.predict_calls([groups]))[0]

    monkeypatch.setattr(ModelDeployment, "_merged", merge)
    replica = ModelDeployment(str(checkpoints["model-1"]), "cpu", 1)
    one = [warm_up_group(replica.predictor.config, 1)]
    many = [warm_up_group(replica.predictor.config, 256)]  # too many for the event loop
    first = asyncio.create_task(replica.predict(many))
    while replica.idle:
        await asyncio.sleep(0)
    await asyncio.gather(first, replica.predict(one), replica.predict(one))
    assert len(merged) == 2
    await replica.predict(one)
    assert len(merged) == 2
