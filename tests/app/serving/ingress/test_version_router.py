"""Windows are scored by the chosen version, or by a fallback when it fails."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.core import circuit_breaker
from app.core.errors import (
    DeadlineExceeded,
    InputError,
    LimitExceeded,
    ModelUnavailable,
    UnknownVersion,
    WindowError,
)
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.pipeline import ScoreResult, WindowInput
from app.features.binning import Floats
from app.model.graph import GraphGroup, Prediction
from app.schemas.equipment import Equipment
from app.serving.graph_builder.deployment import GraphBuilder
from app.serving.ingress import version_router
from app.serving.ingress.traffic import Machine, Release, Traffic, machine_of
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.model_server.deployment import ModelServer
from app.serving.observability.metrics import Metrics
from app.serving.rpc.messages import BuildAnswer, BuildCall, ScoreCall, VersionDescription
from tests.app.serving.conftest import LocalClient, RemoteError, split
from tests.network import small_checkpoint
from tests.rig import rig_block

RIG = Machine("hydraulic-rig", "hydraulic-rig")


def values(row: int) -> Floats:
    block = rig_block()
    return np.stack(
        [block.values_CR[sensor_id][row] for sensor_id in rig_equipment().sensor_ids]
    ).astype(np.float32)


def window(row: int = 0) -> WindowInput:
    return WindowInput(rig_equipment(), values(row))


async def score(
    router: VersionRouter,
    *windows: WindowInput,
    forced: str | None = None,
    explain: bool = False,
) -> list[Scored | Exception]:
    routed = [
        RoutedWindow(each, router.releases_for(machine_of(each.equipment), forced))
        for each in windows
    ]
    return await router.score(routed, explain=explain)


def scored(outcome: Scored | Exception) -> Scored:
    assert isinstance(outcome, Scored), outcome
    return outcome


def healths(outcome: Scored | Exception) -> list[float]:
    batch, row = scored(outcome).scores.predicted
    found: list[float] = batch.prediction.health_WV[row].tolist()
    return found


@pytest.fixture
def with_fallback(versions: VersionRouter) -> VersionRouter:
    """Version 1 answers for the rig, version 2 is its fallback."""
    versions.set_traffic(split(99, 1))
    assert [each.version for each in versions.releases_for(RIG)] == ["1", "2"]
    return versions


async def test_window_is_scored_by_the_version_with_the_weight(
    versions: VersionRouter, local: LocalClient
):
    (outcome,) = await score(versions, window())
    assert scored(outcome).decoder.version == "1"
    assert not scored(outcome).fallback
    assert len(healths(outcome)) == 7
    assert local.scored == ["model-1"]


async def test_version_answers_by_its_own_calibration(tmp_path: Path, metrics: Metrics):
    calibration_of_pump = ComponentCalibration(least_confidence=0.9, rul_cap_h=125.0)
    calibration = Calibration(components={"hydraulic-rig": {"pump": calibration_of_pump}})
    server = ModelServer(small_checkpoint(tmp_path, "1", calibration=calibration), "cpu")
    versions = VersionRouter(LocalClient({"model-1": server}), metrics, timeout_s=5.0)
    versions.set_traffic(
        Traffic(releases=(Release(version="1", application="model-1", weight=100),))
    )
    (outcome,) = await score(versions, window())
    assert scored(outcome).decoder.calibrations == {"pump": calibration_of_pump}


async def test_many_windows_give_what_each_gives_alone(versions: VersionRouter):
    rows = [0, 500, 1000, 1500]
    together = [scored(item) for item in await score(versions, *map(window, rows))]
    for row, item in zip(rows, together, strict=True):
        (alone,) = await score(versions, window(row))
        np.testing.assert_allclose(
            healths(item), healths(alone), atol=1e-5
        )  # sums of a larger batch are made in another order


async def test_broken_version_is_replaced_by_a_fallback_and_the_answer_says_so(
    with_fallback: VersionRouter, local: LocalClient, metrics: Metrics
):
    local.broken.add("model-1")
    (outcome,) = await score(with_fallback, window())
    assert scored(outcome).fallback
    assert scored(outcome).decoder.version == "2"
    assert metrics.failed_versions.labels("1")._value.get() == 1


async def test_version_that_failed_three_times_is_skipped_for_a_while(
    with_fallback: VersionRouter, local: LocalClient
):
    versions = with_fallback
    await score(versions, window())
    local.broken.add("model-1")
    for _ in range(5):
        await score(versions, window())
    assert versions.circuit_is_open("1")
    local.scored.clear()
    await score(versions, window())
    assert local.scored == ["model-2"]


async def test_no_version_left_is_unavailable(with_fallback: VersionRouter, local: LocalClient):
    local.broken |= {"model-1", "model-2"}
    (outcome,) = await score(with_fallback, window())
    assert isinstance(outcome, ModelUnavailable)
    assert "expected an answer from version 1, 2" in str(outcome)


async def test_version_without_weight_is_no_fallback(versions: VersionRouter, local: LocalClient):
    local.broken.add("model-1")
    (outcome,) = await score(versions, window())
    assert isinstance(outcome, ModelUnavailable)
    assert local.scored == []


@pytest.mark.parametrize("forced", [None, "1"])
async def test_open_circuits_fail_at_once_without_a_call(
    with_fallback: VersionRouter,
    local: LocalClient,
    monkeypatch: pytest.MonkeyPatch,
    forced: str | None,
):
    local.broken |= {"model-1", "model-2"}
    for _ in range(3):
        await score(with_fallback, window())
    monkeypatch.setattr(local, "describe", None)  # any call would raise
    (outcome,) = await score(with_fallback, window(), forced=forced)
    assert isinstance(outcome, ModelUnavailable)
    assert "found its circuit open after repeated failures" in outcome.message


async def test_half_open_circuit_has_one_call_at_a_time_even_a_long_one(
    versions: VersionRouter, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(circuit_breaker, "OPEN_S", 0.0)  # it is half open at once
    local.broken.add("model-1")
    for _ in range(3):
        await score(versions, window())
    local.broken.clear()
    called, may_answer = asyncio.Event(), asyncio.Event()
    describe = local.servers["model-1"].describe

    async def slow() -> VersionDescription:
        called.set()
        await may_answer.wait()
        return await describe()

    monkeypatch.setattr(local.servers["model-1"], "describe", slow)
    first = asyncio.create_task(score(versions, window()))
    await called.wait()
    (second,) = await score(versions, window())
    assert isinstance(second, ModelUnavailable)
    may_answer.set()
    scored((await first)[0])
    scored((await score(versions, window()))[0])


@pytest.mark.parametrize("heavy", ["explained", "large"])
async def test_heavy_request_that_times_out_is_no_failure_of_the_version(
    local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, heavy: str
):
    versions = VersionRouter(local, metrics, timeout_s=0.2)
    versions.set_traffic(split(99, 1))
    scored((await score(versions, window()))[0])

    async def never(_: ScoreCall) -> ScoreResult:
        await asyncio.sleep(60)
        raise AssertionError

    if heavy == "large":
        monkeypatch.setattr(version_router, "HEAVY_CALL", 100)
    with monkeypatch.context() as hanging:
        hanging.setattr(local.servers["model-1"], "score", never)
        local.scored.clear()
        for _ in range(3):
            outcomes = await score(versions, window(), window(1), explain=heavy == "explained")
            assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 2
        assert local.scored == ["model-1"] * 3
    assert not versions.circuit_is_open("1")
    assert metrics.failed_versions.labels("1")._value.get() == 0
    assert metrics.version_calls.labels("1", "failed")._value.get() == 0
    assert scored((await score(versions, window()))[0]).decoder.version == "1"


async def test_version_that_hangs_is_replaced_by_a_fallback(
    local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    versions = VersionRouter(local, metrics, timeout_s=0.2)
    versions.set_traffic(split(99, 1))

    async def hang() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(local.servers["model-1"], "describe", hang)
    (outcome,) = await score(versions, window())
    assert scored(outcome).decoder.version == "2"


async def test_forced_version_has_no_fallback(versions: VersionRouter, local: LocalClient):
    (outcome,) = await score(versions, window(), forced="2")
    assert scored(outcome).decoder.version == "2"
    assert not scored(outcome).fallback
    local.broken.add("model-2")
    (outcome,) = await score(versions, window(), forced="2")
    assert isinstance(outcome, ModelUnavailable)


async def test_unknown_version_is_the_callers_error(versions: VersionRouter):
    with pytest.raises(UnknownVersion, match="there are 1, 2"):
        versions.releases_for(RIG, "9")


async def test_window_that_cant_be_built_disturbs_no_other(versions: VersionRouter):
    bad = WindowInput(rig_equipment(), np.zeros((3, 60), np.float32))
    first, second = await score(versions, bad, window())
    assert isinstance(first, WindowError)
    scored(second)


async def test_evidence_is_made_only_for_those_who_ask(versions: VersionRouter):
    (plain,), (explained,) = [
        await score(versions, window(), explain=explain) for explain in (False, True)
    ]
    assert scored(plain).scores.contributions is None
    contributions = scored(explained).scores.contributions
    assert contributions is not None
    assert contributions.health_VS.shape == contributions.distance_VS.shape == (7, 17)


async def test_windows_of_many_topologies_go_to_the_model_in_one_call(
    versions: VersionRouter, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    calls: list[ScoreCall] = []
    score_call = local.servers["model-1"].score

    async def record(call: ScoreCall) -> ScoreResult:
        calls.append(call)
        return await score_call(call)

    monkeypatch.setattr(local.servers["model-1"], "score", record)
    lone = rig_equipment("lone").model_dump(mode="json") | {"connections": []}
    machines = [
        rig_equipment("a"),
        Equipment.model_validate(lone),
        rig_equipment("b"),
    ]
    windows = [
        WindowInput(machine, values(100 * number)) for number, machine in enumerate(machines)
    ]
    together = [scored(item) for item in await score(versions, *windows, explain=True)]
    (call,) = calls
    assert [(group.windows, group.steps) for group in call.groups] == [(2, 12), (1, 12)]
    for item, each in zip(together, windows, strict=True):
        (alone,) = await score(versions, each, explain=True)
        # sums of a larger batch are made in another order
        np.testing.assert_allclose(healths(item), healths(alone), atol=1e-5)
        mine, theirs = item.scores.contributions, scored(alone).scores.contributions
        np.testing.assert_allclose(mine.health_VS, theirs.health_VS, atol=1e-5)
        np.testing.assert_array_equal(item.quality.exceedance_S, scored(alone).quality.exceedance_S)
        assert item.quality.unreferenced == scored(alone).quality.unreferenced


async def test_without_traffic_nothing_answers(local: LocalClient, metrics: Metrics):
    router = VersionRouter(local, metrics, timeout_s=1.0)
    with pytest.raises(ModelUnavailable, match="expected releases"):
        router.releases_for(RIG)


async def test_failing_graph_builders_open_no_version_circuit(
    versions: VersionRouter, local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    async def fail(_: BuildCall) -> BuildAnswer:
        raise RuntimeError("no builder")

    monkeypatch.setattr(local, "send_build", fail)
    for _ in range(5):
        (outcome,) = await score(versions, window())
        assert isinstance(outcome, ModelUnavailable)
        assert "expected the graph builders to answer" in outcome.message
    assert not versions.circuit_is_open("1")
    assert not versions.circuit_is_open("2")


async def test_poisoned_window_fails_alone(
    versions: VersionRouter, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    score_call = local.servers["model-1"].score
    calls: list[ScoreCall] = []

    async def fail_on_second(call: ScoreCall) -> ScoreResult:
        calls.append(call)
        rows = [row for group in call.groups for row in group.x_WSTF]
        second = calls[0].groups[0].x_WSTF[1]
        if any(np.array_equal(row, second) for row in rows):
            raise RuntimeError("poisoned")
        return await score_call(call)

    monkeypatch.setattr(local.servers["model-1"], "score", fail_on_second)
    first, bad, last = await score(versions, window(0), window(500), window(1000))
    assert scored(first).decoder.version == scored(last).decoder.version == "1"
    assert isinstance(bad, ModelUnavailable)
    assert not versions.circuit_is_open("1")


async def test_graph_builder_gets_documents_once_and_again_when_it_lost_them(
    versions: VersionRouter, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    send, calls = local.send_build, list[BuildCall]()

    async def record(call: BuildCall) -> BuildAnswer:
        calls.append(call)
        return await send(call)

    monkeypatch.setattr(local, "send_build", record)
    for _ in range(2):
        scored((await score(versions, window()))[0])
    assert [len(call.documents) for call in calls] == [2, 0]
    local.builder = GraphBuilder()  # a replica that was started later
    calls.clear()
    scored((await score(versions, window()))[0])
    assert [len(call.documents) for call in calls] == [0, 2]


async def test_request_that_is_too_large_is_the_callers_error_and_no_failure_of_the_version(
    versions: VersionRouter, local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    async def refuse(_: ScoreCall) -> ScoreResult:
        raise RemoteError(LimitExceeded("expected less", "explain"))

    monkeypatch.setattr(local.servers["model-1"], "score", refuse)
    (outcome,) = await score(versions, window(), explain=True)
    assert isinstance(outcome, LimitExceeded)
    assert metrics.failed_versions.labels("1")._value.get() == 0


async def test_application_that_holds_another_version_than_its_release_says_is_not_used(
    local: LocalClient, metrics: Metrics
):
    versions = VersionRouter(local, metrics, timeout_s=5.0)
    versions.set_traffic(
        Traffic(releases=(Release(version="2", application="model-1", weight=100),))
    )
    with pytest.raises(
        ModelUnavailable, match="to have version 2 as its release says, found version 1"
    ):
        await versions.version(versions.traffic.releases[0])


async def test_half_open_circuit_is_used_only_right_before_its_version_is_tried(
    with_fallback: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    begun: list[str] = []
    monkeypatch.setattr(with_fallback._breaker("2"), "begin", lambda: begun.append("2"))
    await score(with_fallback, window())
    assert begun == []


def with_designs(*designs: tuple[str, ...]) -> Traffic:
    """Return traffic of versions 1, with all the weight, and 2, that serve these designs."""
    pair = zip(split(100, 0).releases, designs, strict=True)
    return Traffic(releases=[each.model_copy(update={"designs": of}) for each, of in pair])


async def test_machine_is_scored_by_the_version_of_its_design_whatever_the_weights(
    versions: VersionRouter, local: LocalClient
):
    versions.set_traffic(with_designs(("press",), ("hydraulic-rig",)))
    (outcome,) = await score(versions, window())
    assert scored(outcome).decoder.version == "2"
    assert not scored(outcome).fallback
    assert local.scored == ["model-2"]


async def test_forced_version_of_another_design_is_refused_with_its_designs(
    versions: VersionRouter,
):
    versions.set_traffic(with_designs(("press", "crane"), ("hydraulic-rig",)))
    with pytest.raises(
        InputError,
        match=r"design 'hydraulic-rig', found version 1, which serves press, crane.*or name 2$",
    ) as caught:
        versions.releases_for(RIG, "1")
    assert caught.value.field == "model_version"


async def test_version_that_was_not_trained_on_a_design_of_its_release_is_not_used(
    versions: VersionRouter,
):
    versions.set_traffic(with_designs(("hydraulic-rig", "press"), ("hydraulic-rig",)))
    (outcome,) = await score(versions, window(), forced="1")
    assert isinstance(outcome, ModelUnavailable)
    with pytest.raises(ModelUnavailable, match="expected version 1 to be trained on press"):
        await versions.version(versions.traffic.releases[0])


async def test_light_requests_behind_a_heavy_one_are_no_failure_of_the_version(
    local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    versions = VersionRouter(local, metrics, timeout_s=0.5)
    versions.set_traffic(split(100, 0))
    scored((await score(versions, window()))[0])
    server, may_end = local.servers["model-1"], threading.Event()
    monkeypatch.setattr(server, "_cell_s", 1.0)
    predict = server.predictor.predict

    def slow(groups: Sequence[GraphGroup]) -> list[Prediction]:
        may_end.wait(60.0)
        return predict(groups)

    with monkeypatch.context() as loaded:
        loaded.setattr(server, "_max_loop_cells", 0)
        loaded.setattr(server.predictor, "predict", slow)
        loaded.setattr(version_router, "HEAVY_CALL", 20_000)
        heavy = asyncio.create_task(score(versions, *map(window, range(30))))
        while server.idle:
            await asyncio.sleep(0)
        for _ in range(4):  # also when the heavy request has timed out and its pass goes on
            (outcome,) = await score(versions, window())
            assert isinstance(outcome, ModelUnavailable)
            assert "found it busy with earlier requests" in outcome.message
        assert {type(each) for each in await heavy} == {DeadlineExceeded}
        may_end.set()
    assert not versions.circuit_is_open("1")
    assert metrics.failed_versions.labels("1")._value.get() == 0
    assert metrics.version_calls.labels("1", "failed")._value.get() == 0
    async with asyncio.timeout(60.0):
        while isinstance((outcome := (await score(versions, window()))[0]), ModelUnavailable):
            pass
    assert scored(outcome).decoder.version == "1"


async def test_network_that_hangs_without_other_work_opens_the_circuit(
    local: LocalClient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    versions = VersionRouter(local, metrics, timeout_s=0.2)
    versions.set_traffic(split(100, 0))
    scored((await score(versions, window()))[0])

    async def hang(_: ScoreCall) -> ScoreResult:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(local.servers["model-1"], "_score", hang)
    for _ in range(3):
        assert isinstance((await score(versions, window()))[0], ModelUnavailable)
    assert versions.circuit_is_open("1")
