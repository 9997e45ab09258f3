"""The graph-builder pool."""

import asyncio
import pickle

import numpy as np
import pytest

from app.core.errors import HydraulicDiagnosticsError, ModelUnavailable, WindowError
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.input_quality import WindowQuality, assess_window
from app.features.binning import Floats
from app.features.extraction import window_features
from app.features.spec import FeatureSpec
from app.model.graph import GraphBatch, build_graph, concatenate
from app.schemas.equipment import Equipment
from app.serving.graph_builder import builder as graph_builder
from app.serving.graph_builder.builder import GraphBuilder
from app.serving.rpc.messages import (
    BuildAnswer,
    BuildCall,
    VersionDescription,
    WindowInput,
    build_call,
)
from app.serving.rpc.recent import Recent
from app.store.windows import StoredWindow
from tests.app.serving.conftest import LocalChain
from tests.app.serving.ingress.test_version_router import values


def call_of(application: str, digest: str, windows: list[WindowInput]) -> BuildCall:
    return build_call(application, digest, windows, Recent(1_000_000, len))


def call(application: str, digest: str, windows: int = 1) -> BuildCall:
    return call_of(
        application, digest, [WindowInput(rig_equipment(), values(row)) for row in range(windows)]
    )


def stored(values_SN: Floats, equipment: Equipment, grid_us: int | None = None) -> StoredWindow:
    """Return a window as the database gives it: arrays of float4 in PostgreSQL's binary form."""
    S, N = values_SN.shape
    row_NW = np.zeros((N, 5 + 2 * S), ">u4")
    row_NW[:, 0], row_NW[:, 3], row_NW[:, 5::2] = 1, S, 4
    row_NW[:, 6::2] = values_SN.T.astype(">f4").view(">u4")
    first = 1_735_689_600_000_000 // equipment.grid_us
    times = (first + np.arange(N)) * equipment.grid_us - 946_684_800_000_000
    return StoredWindow(
        equipment.equipment_id,
        first,
        N,
        equipment.grid_us if grid_us is None else grid_us,
        equipment.sensor_ids,
        times.astype(">i8").tobytes(),
        row_NW.tobytes(),
        None,
    )


async def build(
    local: LocalChain, windows: list[WindowInput], builder: GraphBuilder | None = None
) -> BuildAnswer:
    digest = (await local.describe("model-1")).spec_digest
    made = call_of("model-1", digest, windows)
    # as between replicas
    answer = await (builder or GraphBuilder(local.describe)).build(pickle.loads(pickle.dumps(made)))
    found: BuildAnswer = pickle.loads(pickle.dumps(answer))
    return found


async def spec_of(local: LocalChain) -> FeatureSpec:
    return FeatureSpec.model_validate_json((await local.describe("model-1")).feature_spec)


def same(mine: GraphBatch | WindowQuality, theirs: GraphBatch | WindowQuality) -> None:
    for name in mine.__slots__:
        one, other = getattr(mine, name), getattr(theirs, name)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape, one.tobytes()) == (
                other.dtype,
                other.shape,
                other.tobytes(),
            ), name
        else:
            assert one == other, name


async def test_version_that_hangs_holds_up_no_other(
    local: LocalChain, monkeypatch: pytest.MonkeyPatch
):
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
        built = await builder.build(call("model-2", digest))
    assert [group.positions for group in built.groups] == [(0,)]
    for task in hanging:
        with pytest.raises(ModelUnavailable, match="describe itself within"):
            await task


async def test_windows_of_one_topology_are_one_group_and_equal_to_each_alone(local: LocalChain):
    machines = [rig_equipment(f"rig-{number}") for number in range(6)]
    gappy = [values(300 * number) for number in range(6)]
    gappy[1][3], gappy[2][:, 10:30], gappy[3][5] = np.nan, np.nan, 7.0
    windows = [
        WindowInput(machine, stored(values_SN, machine) if number % 2 else values_SN)
        for number, (machine, values_SN) in enumerate(zip(machines, gappy, strict=True))
    ]
    (group,) = (await build(local, windows)).groups
    assert group.positions == tuple(range(6))
    spec = await spec_of(local)
    features = [
        window_features(values_SN, machine, spec)
        for machine, values_SN in zip(machines, gappy, strict=True)
    ]
    graphs = [
        build_graph(machine, each, spec) for machine, each in zip(machines, features, strict=True)
    ]
    same(group.graph, concatenate(graphs))
    same(group.graphs([4, 1]), concatenate([graphs[4], graphs[1]]))
    summaries = group.summary.windows(machines[0].sensor_ids)
    for machine, each, summary in zip(machines, features, summaries, strict=True):
        np.testing.assert_equal(summary._asdict(), assess_window(machine, each, spec)._asdict())


async def test_topologies_travel_once_and_machines_of_one_topology_share_a_plan(
    local: LocalChain, monkeypatch: pytest.MonkeyPatch
):
    planned: list[str] = []
    original = graph_builder.plan_windows

    def count(equipment: Equipment, spec: FeatureSpec) -> object:
        planned.append(equipment.design)
        return original(equipment, spec)

    monkeypatch.setattr(graph_builder, "plan_windows", count)
    builder = GraphBuilder(local.describe)
    shorter = rig_equipment("short").model_copy(update={"connections": ()})
    vars(shorter).pop("structure_digest", None)
    machines = [
        rig_equipment("a"),
        shorter,
        rig_equipment("b").model_copy(update={"name": "the second"}),
    ]
    windows = [WindowInput(machine, values(0)) for machine in machines]
    assert [len(call_of("model-1", "", windows).topologies), len(planned)] == [2, 0]
    for _ in range(2):
        answer = await build(local, windows, builder)
        assert [group.positions for group in answer.groups] == [(0, 2), (1,)]
        assert len(planned) == 2


async def test_plans_that_are_kept_are_bounded(local: LocalChain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_builder, "MAX_PLAN_BYTES", 1)
    builder = GraphBuilder(local.describe)
    for connections in range(3):
        machine = rig_equipment("rig")
        machine = machine.model_copy(update={"connections": machine.connections[:connections]})
        assert (await build(local, [WindowInput(machine, values(0))], builder)).errors == {}
        assert len(builder._known) == 1


async def test_large_windows_are_worked_on_a_few_at_a_time(
    local: LocalChain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(graph_builder, "MAX_VALUES_AT_ONCE", 2 * 17 * 60 + 1)
    answer = await build(local, [WindowInput(rig_equipment(), values(row)) for row in range(5)])
    assert [group.positions for group in answer.groups] == [(0, 1), (2, 3), (4,)]


async def test_window_that_does_not_fit_disturbs_no_other_and_is_named(local: LocalChain):
    machines = [rig_equipment(f"rig-{number}") for number in range(4)]
    windows = [
        WindowInput(machines[0], values(0)),
        WindowInput(machines[1], np.zeros((3, 60), np.float32)),
        WindowInput(machines[2], stored(values(1), machines[2], grid_us=5_000_000)),
        WindowInput(machines[3], stored(values(2), machines[3])),
    ]
    answer = await build(local, windows)
    assert sorted(position for group in answer.groups for position in group.positions) == [0, 3]
    assert "17 sensors x 60 bins for 'rig-1', found 3 x 60" in answer.errors[1].message
    assert "expected bins of 1000000 us for 'rig-2', found 5000000 us" in answer.errors[2].message


async def test_topology_that_does_not_fit_the_version_fails_alone(local: LocalChain):
    data = rig_equipment("odd").model_dump(mode="json")
    data["steps"] = 6
    answer = await build(
        local,
        [
            WindowInput(Equipment.model_validate(data), values(0)),
            WindowInput(rig_equipment(), values(0)),
        ],
    )
    assert [group.positions for group in answer.groups] == [(1,)]
    assert isinstance(answer.errors[0], WindowError)


async def test_unexpected_error_of_one_window_disturbs_no_other(
    local: LocalChain, monkeypatch: pytest.MonkeyPatch
):
    original = graph_builder.build_windows
    poisoned = values(1)

    def fail_on_poison(values_WSN: Floats, *arguments: object) -> object:
        if any(np.array_equal(values_SN, poisoned) for values_SN in values_WSN):
            raise IndexError("of our own")
        return original(values_WSN, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(graph_builder, "build_windows", fail_on_poison)
    answer = await build(
        local, [WindowInput(rig_equipment(f"rig-{row}"), values(row)) for row in range(3)]
    )
    assert [group.positions for group in answer.groups] == [(0,), (2,)]
    assert isinstance(answer.errors[1], HydraulicDiagnosticsError)
    assert (
        "expected a graph of 'rig-1', found an error of our own (IndexError)"
        in answer.errors[1].message
    )
