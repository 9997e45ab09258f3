"""A model replica."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from app.model.runtime.selection import warm_up_graphs

from app.core.errors import CheckpointError, LimitExceeded, WindowError
from app.demo.rig.equipment import rig_equipment
from app.features.extraction import window_features
from app.features.spec import FeatureSpec
from app.model.graph import GraphBatch, ModelOutput, build_graph, concatenate
from app.serving.model_server import server as model_server
from app.serving.model_server.server import ModelServer
from app.serving.rpc.messages import ScoreCall
from tests.app.serving.ingress.test_version_router import values


@pytest.fixture
def server(checkpoints: dict[str, Path]) -> ModelServer:
    return ModelServer(checkpoints["model-1"], "cpu")


async def call(server: ModelServer, row: int, *, explain: bool = False) -> ScoreCall:
    description = await server.describe()
    spec = FeatureSpec.model_validate_json(description.feature_spec)
    features = window_features(values(row), rig_equipment(), spec)
    return ScoreCall(description.spec_digest, build_graph(rig_equipment(), features, spec), explain)


async def test_graphs_of_several_calls_are_answered_each_with_its_own(server: ModelServer):
    graphs = [(await call(server, row)).graph for row in range(0, 40, 2)]
    pairs = [concatenate(graphs[:2]), *graphs[2:]]
    together = await server.outputs_of(pairs)
    for graph, output in zip(pairs, together, strict=True):
        # sums of a larger batch are made in another order
        np.testing.assert_allclose(
            output.health_V, (await server.output_of(graph)).health_V, atol=1e-5
        )


async def test_graphs_with_another_number_of_steps_are_scored_apart_and_in_order(
    server: ModelServer,
):
    whole = (await call(server, 0)).graph
    short = replace(whole, x_STF=whole.x_STF[:, :6], mask_ST=whole.mask_ST[:, :6])
    outputs = await server.outputs_of([whole, short, whole])
    np.testing.assert_allclose(outputs[0].health_V, outputs[2].health_V, atol=1e-6)
    np.testing.assert_allclose(
        outputs[1].health_V, (await server.output_of(short)).health_V, atol=1e-5
    )
    assert not np.allclose(outputs[0].health_V, outputs[1].health_V)


async def test_contributions_come_for_each_graph_of_a_call(server: ModelServer):
    one, other = await call(server, 0), await call(server, 1000)
    both = ScoreCall(one.spec_digest, concatenate([one.graph, other.graph]), explain=True)
    answer = await server.score(both)
    alone = await server.score(replace(other, explain=True))
    assert len(answer.contributions) == 2
    np.testing.assert_allclose(
        answer.contributions[1].health_VS, alone.contributions[0].health_VS, atol=1e-5
    )
    np.testing.assert_allclose(
        answer.contributions[1].distance_VS, alone.contributions[0].distance_VS, atol=1e-3
    )


async def test_evidence_of_a_large_graph_is_refused_and_its_scores_are_not(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_server, "MAX_EXPLAINED_SENSORS", 16)
    item = await call(server, 0)
    await server.score(item)
    with pytest.raises(LimitExceeded, match="found 17: leave `explain` out") as caught:
        await server.score(replace(item, explain=True))
    assert caught.value.field == "explain"


async def test_scores_get_their_turn_between_the_graphs_of_a_call_for_evidence(server: ModelServer):
    one = await call(server, 0)
    many = ScoreCall(one.spec_digest, concatenate([one.graph] * 20), explain=True)
    explaining = asyncio.create_task(server.score(many))
    await asyncio.sleep(0.02)
    await server.score(one)
    assert not explaining.done()
    assert len((await explaining).contributions) == 20


async def test_graphs_of_another_feature_spec_are_refused(server: ModelServer):
    item = await call(server, 0)
    with pytest.raises(CheckpointError, match="expected graphs made with feature spec"):
        await server.score(replace(item, spec_digest="0" * 64))


async def test_graphs_with_other_features_are_refused(server: ModelServer):
    item = await call(server, 0)
    with pytest.raises(WindowError, match="features of a sensor, found 3"):
        await server.score(
            replace(item, graph=replace(item.graph, x_STF=item.graph.x_STF[..., :3]))
        )


async def test_probe_and_health_check_pass_on_a_good_checkpoint(server: ModelServer):
    await server.probe()
    await server.check_health()


async def test_implementation_is_chosen_logged_and_told(
    checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "app.serving.model_server.server"):
        server = ModelServer(checkpoints["model-1"], "cpu", threads=2)
    (record,) = [record for record in caplog.records if record.message == "implementation chosen"]
    assert [trial.split(":")[0] for trial in record.__dict__["trials"]] == [
        "network float32 x1",
        "inference float32 x1",
        "inference float32 x2",
    ]
    assert record.__dict__["implementation"] == (await server.describe()).implementation
    assert server.choice.implementation.name == (await server.describe()).implementation


async def test_small_pass_stays_in_the_event_loop_and_a_large_one_leaves_it(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    ran_in: list[bool] = []
    forward = server._forward

    def noted(graphs: Sequence[GraphBatch]) -> list[ModelOutput]:
        ran_in.append(threading.current_thread() is threading.main_thread())
        return forward(graphs)

    monkeypatch.setattr(server, "_forward", noted)
    graph = (await call(server, 0)).graph
    for rows, stays in ((graph.mask_ST.size, True), (graph.mask_ST.size - 1, False)):
        monkeypatch.setattr(server, "_rows_in_loop", rows)
        await server.output_of(graph)
        assert ran_in[-1] is stays


def test_directory_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError):
        ModelServer(tmp_path, "cpu")


async def test_pass_whose_caller_has_left_ends_before_the_next_begins(server: ModelServer):
    graph = warm_up_graphs(server.choice.network.config, 256)  # too many for the event loop
    at_once, most = 0, 0
    forward = server._forward

    def counted(graphs: Sequence[GraphBatch]) -> list[ModelOutput]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return forward(graphs)
        finally:
            at_once -= 1

    server._forward = counted  # type: ignore[method-assign]
    for _ in range(3):
        asked = asyncio.create_task(server.output_of(graph))
        while not at_once:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not server.idle
    await server.output_of(graph)
    assert most == 1
    await asyncio.sleep(0)
    assert server.idle
