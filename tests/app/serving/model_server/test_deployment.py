"""A model server."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import CheckpointError, LimitExceeded, WindowError
from app.demo.rig.equipment import rig_equipment
from app.diagnosis import cost
from app.features.spec import FeatureSpec
from app.model.graph import GraphGroup, Prediction, build_topology
from app.model.runtime.gate import warm_up_group
from app.model.runtime.predictor import MAX_CELLS
from app.serving.model_server import deployment as model_server
from app.serving.model_server.deployment import ModelDeployment, ModelServer
from app.serving.rpc.messages import ScoreCall
from tests.app.serving.ingress.test_version_router import values
from tests.features import window_features


@pytest.fixture
def server(checkpoints: dict[str, Path]) -> ModelServer:
    return ModelServer(checkpoints["model-1"], "cpu")


async def call(server: ModelServer, row: int, *, explain: bool = False) -> ScoreCall:
    description = await server.describe()
    spec = FeatureSpec.model_validate_json(description.feature_spec)
    features = window_features(values(row), rig_equipment(), spec)
    topology = build_topology(rig_equipment(), spec)
    group = GraphGroup(topology, features.x_STF[None], features.mask_ST[None])
    return ScoreCall(description.spec_digest, [group], explain)


async def test_calls_that_are_merged_get_their_own_predictions(server: ModelServer):
    groups = [(await call(server, row)).groups[0] for row in range(0, 40, 2)]
    short = replace(
        groups[2], x_WSTF=groups[2].x_WSTF[:, :, :6], mask_WST=groups[2].mask_WST[:, :, :6]
    )
    calls = [[GraphGroup.merge(groups[:2]), short], *([each] for each in groups[2:])]
    together = await server.predict_calls(calls)
    for one, predictions in zip(calls, together, strict=True):
        alone = await server.predict(one)
        for mine, theirs in zip(predictions, alone, strict=True):
            # sums of a larger batch are made in another order
            np.testing.assert_allclose(mine.health_WV, theirs.health_WV, atol=1e-5)


async def test_contributions_are_returned_for_each_window_of_a_call(server: ModelServer):
    one, other = await call(server, 0), await call(server, 1000)
    merged = GraphGroup.merge([*one.groups, *other.groups])
    answer = await server.score(ScoreCall(one.spec_digest, [merged, *one.groups], explain=True))
    ((alone,),) = (await server.score(replace(other, explain=True))).contributions
    assert [len(each) for each in answer.contributions] == [2, 1]
    second = answer.contributions[0][1]
    np.testing.assert_allclose(second.health_VS, alone.health_VS, atol=1e-5)
    np.testing.assert_allclose(second.distance_VS, alone.distance_VS, atol=1e-3)


async def test_evidence_of_a_large_graph_is_refused_and_its_scores_are_not(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    item = await call(server, 0)
    cells = item.groups[0].cells
    monkeypatch.setattr(cost, "MAX_EXPLAINED_CELLS", 18 * cells - 1)
    await server.score(item)
    with pytest.raises(LimitExceeded, match=f"found {18 * cells}: leave `explain` out") as caught:
        await server.score(replace(item, explain=True))
    assert caught.value.field == "explain"


async def test_scores_run_between_the_parts_of_contributions(server: ModelServer):
    one = await call(server, 0)
    many = ScoreCall(one.spec_digest, [GraphGroup.merge([*one.groups] * 20)], explain=True)
    explaining = asyncio.create_task(server.score(many))
    while server.idle:
        await asyncio.sleep(0)
    await server.score(one)
    assert not explaining.done()
    assert len((await explaining).contributions[0]) == 20


async def test_light_pass_does_not_wait_for_a_heavy_one(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    item = await call(server, 0)
    heavy = GraphGroup.merge([*item.groups] * (1 + MAX_CELLS // item.groups[0].cells))
    predict, may_end = server.predictor.predict, threading.Event()

    def wait(groups: Sequence[GraphGroup]) -> list[Prediction]:
        if groups[0].windows > 1:
            may_end.wait(60.0)
        return predict(groups)

    monkeypatch.setattr(server.predictor, "predict", wait)
    monkeypatch.setattr(server, "_max_loop_cells", item.cells)
    waiting = asyncio.create_task(server.score(ScoreCall(item.spec_digest, [heavy])))
    while server.idle:
        await asyncio.sleep(0)
    for most in (item.cells, 0):  # in the event loop, and in a thread
        monkeypatch.setattr(server, "_max_loop_cells", most)
        await server.score(item)
    assert not waiting.done()
    may_end.set()
    assert (await waiting).predictions[0].windows == heavy.windows


async def test_replica_whose_pass_does_not_end_is_unhealthy(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    groups, may_end = (await call(server, 0)).groups, threading.Event()
    predict = server.predictor.predict

    def hang(groups: Sequence[GraphGroup]) -> list[Prediction]:
        may_end.wait(60.0)
        return predict(groups)

    monkeypatch.setattr(server, "_max_loop_cells", 0)
    monkeypatch.setattr(server.predictor, "predict", hang)
    hanging = asyncio.create_task(server.predict(groups))
    while not server._light.locked():
        await asyncio.sleep(0)
    await server.check_health()  # it may still end
    monkeypatch.setattr(model_server, "STUCK_S", 0.0)
    with pytest.raises(CheckpointError, match="expected a forward pass to end within 0 s"):
        await server.check_health()
    may_end.set()
    await hanging
    await server.check_health()


async def test_replica_that_gives_another_answer_than_at_its_start_is_unhealthy(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    predict = server.predictor.predict

    def damaged(groups: Sequence[GraphGroup]) -> list[Prediction]:
        return [each._replace(health_WV=each.health_WV + 1e-4) for each in predict(groups)]

    await server.check_health()
    monkeypatch.setattr(server.predictor, "predict", damaged)
    with pytest.raises(CheckpointError, match="expected the health of the warm-up graph as at"):
        await server.check_health()


async def test_graphs_of_another_feature_spec_are_refused(server: ModelServer):
    item = await call(server, 0)
    with pytest.raises(CheckpointError, match="expected graphs built with feature spec"):
        await server.score(replace(item, spec_digest="0" * 64))


async def test_graphs_with_other_features_are_refused(server: ModelServer):
    item = await call(server, 0)
    group = item.groups[0]
    with pytest.raises(WindowError, match="features of a sensor, found 3"):
        await server.score(replace(item, groups=[replace(group, x_WSTF=group.x_WSTF[..., :3])]))


async def test_probe_and_health_check_pass_on_a_good_checkpoint(server: ModelServer):
    await server.probe()
    await server.check_health()


async def test_implementation_is_logged_and_described(
    checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "app.serving.model_server.deployment"):
        server = ModelServer(checkpoints["model-1"], "cpu")
    (record,) = [record for record in caplog.records if record.message == "model ready"]
    assert record.__dict__["implementation"] == (await server.describe()).implementation
    assert server.predictor.name == (await server.describe()).implementation


async def test_small_pass_runs_in_the_event_loop_and_a_large_one_in_a_thread(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    in_main: list[bool] = []
    predict = server.predictor.predict

    def record(groups: Sequence[GraphGroup]) -> list[Prediction]:
        in_main.append(threading.current_thread() is threading.main_thread())
        return predict(groups)

    monkeypatch.setattr(server.predictor, "predict", record)
    groups = (await call(server, 0)).groups
    cells = groups[0].cells
    for most, stays in ((cells, True), (cells - 1, False)):
        monkeypatch.setattr(server, "_max_loop_cells", most)
        await server.predict(groups)
        assert in_main[-1] is stays


def test_directory_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError):
        ModelServer(tmp_path, "cpu")


async def test_pass_of_a_cancelled_caller_ends_before_the_next_begins(server: ModelServer):
    groups = [warm_up_group(server.predictor.config, 256)]  # too many for the event loop
    running, most = 0, 0
    predict = server.predictor.predict

    def count(groups: Sequence[GraphGroup]) -> list[Prediction]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return predict(groups)
        finally:
            running -= 1

    server.predictor.predict = count  # type: ignore[method-assign]
    for _ in range(3):
        caller = asyncio.create_task(server.predict(groups))
        while not running:
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        assert not server.idle
    await server.predict(groups)
    assert most == 1
    await asyncio.sleep(0)
    assert server.idle


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
