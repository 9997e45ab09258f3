"""The graph builder."""

import pickle

import numpy as np
import pytest

from app.core.errors import HydraulicDiagnosticsError, WindowError
from app.demo.rig.equipment import rig_equipment
from app.diagnosis import pipeline
from app.diagnosis.pipeline import BuildResult, WindowInput, group_windows
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment
from app.serving.graph_builder import deployment as graph_builder
from app.serving.graph_builder.deployment import GraphBuilder
from app.serving.rpc.messages import BuildAnswer, BuildCall
from app.store.windows import StoredWindow
from tests.app.serving.conftest import LocalClient
from tests.app.serving.ingress.test_version_router import values


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


async def call_of(local: LocalClient, windows: list[WindowInput]) -> BuildCall:
    description = await local.describe("model-1")
    documents = {description.spec_digest: description.feature_spec.encode()}
    documents |= {
        window.equipment.structure_digest: window.equipment.structure() for window in windows
    }
    return BuildCall(description.spec_digest, group_windows(windows), documents)


async def build(
    local: LocalClient, windows: list[WindowInput], builder: GraphBuilder | None = None
) -> BuildResult:
    call = await call_of(local, windows)
    # as between replicas
    answer = await (builder or GraphBuilder()).build(pickle.loads(pickle.dumps(call)))
    found: BuildAnswer = pickle.loads(pickle.dumps(answer))
    assert not found.missing
    return found.result


async def spec_of(local: LocalClient) -> FeatureSpec:
    return FeatureSpec.model_validate_json((await local.describe("model-1")).feature_spec)


async def test_missing_documents_are_named_and_received_ones_are_kept(
    local: LocalClient,
):
    call = await call_of(local, [WindowInput(rig_equipment(), values(0))])
    bare = BuildCall(call.spec_digest, call.groups)
    builder = GraphBuilder()
    assert sorted((await builder.build(bare)).missing) == sorted(call.digests)
    assert not (await builder.build(call)).missing
    assert len((await builder.build(bare)).result.groups) == 1


async def test_windows_of_one_topology_are_one_group_and_equal_to_each_alone(local: LocalClient):
    machines = [rig_equipment(f"rig-{number}") for number in range(6)]
    gappy = [values(300 * number) for number in range(6)]
    gappy[1][3], gappy[2][:, 10:30], gappy[3][5] = np.nan, np.nan, 7.0
    windows = [
        WindowInput(machine, stored(values_SN, machine) if number % 2 else values_SN)
        for number, (machine, values_SN) in enumerate(zip(machines, gappy, strict=True))
    ]
    (group,) = (await build(local, windows)).groups
    assert list(group.positions) == list(range(6))
    spec = await spec_of(local)
    qualities = group.quality.windows(machines[0].sensor_ids)
    for row, (machine, values_SN) in enumerate(zip(machines, gappy, strict=True)):
        alone, quality = build_windows(values_SN[None], plan_windows(machine, spec))
        np.testing.assert_array_equal(group.graph.x_WSTF[row], alone.x_WSTF[0])
        np.testing.assert_array_equal(group.graph.mask_WST[row], alone.mask_WST[0])
        (expected,) = quality.windows(machine.sensor_ids)
        np.testing.assert_equal(qualities[row]._asdict(), expected._asdict())


async def test_machines_of_one_topology_share_a_plan(
    local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    planned: list[str] = []
    original = graph_builder.plan_windows

    def count(equipment: Equipment, spec: FeatureSpec, baseline: Baseline | None) -> object:
        planned.append(equipment.design)
        return original(equipment, spec, baseline)

    monkeypatch.setattr(graph_builder, "plan_windows", count)
    builder = GraphBuilder()
    shorter = rig_equipment("short").model_copy(update={"connections": ()})
    vars(shorter).pop("structure_digest", None)
    machines = [
        rig_equipment("a"),
        shorter,
        rig_equipment("b").model_copy(update={"name": "the second"}),
    ]
    windows = [WindowInput(machine, values(0)) for machine in machines]
    for _ in range(2):
        answer = await build(local, windows, builder)
        assert [group.positions for group in answer.groups] == [[0, 2], [1]]
        assert len(planned) == 2


async def test_plans_that_are_kept_are_bounded(local: LocalClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_builder, "MAX_PLAN_BYTES", 1)
    builder = GraphBuilder()
    for connections in range(3):
        machine = rig_equipment("rig")
        machine = machine.model_copy(update={"connections": machine.connections[:connections]})
        assert (await build(local, [WindowInput(machine, values(0))], builder)).errors == {}
        assert len(builder._plans) == 1


async def test_large_windows_are_worked_on_a_few_at_a_time(
    local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "MAX_VALUES_AT_ONCE", 2 * 17 * 60 + 1)
    answer = await build(local, [WindowInput(rig_equipment(), values(row)) for row in range(5)])
    assert [group.positions for group in answer.groups] == [[0, 1], [2, 3], [4]]


async def test_window_that_does_not_fit_disturbs_no_other_and_is_named(local: LocalClient):
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


async def test_topology_that_does_not_fit_the_version_fails_alone(local: LocalClient):
    data = rig_equipment("odd").model_dump(mode="json")
    data["steps"] = 6
    answer = await build(
        local,
        [
            WindowInput(Equipment.model_validate(data), values(0)),
            WindowInput(rig_equipment(), values(0)),
        ],
    )
    assert [group.positions for group in answer.groups] == [[1]]
    assert isinstance(answer.errors[0], WindowError)


async def test_unexpected_error_of_one_window_disturbs_no_other(
    local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    original = pipeline.build_windows
    poisoned = values(1)

    def fail_on_poison(values_WSN: Floats, *arguments: object) -> object:
        if any(np.array_equal(values_SN, poisoned) for values_SN in values_WSN):
            raise IndexError("unexpected")
        return original(values_WSN, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "build_windows", fail_on_poison)
    answer = await build(
        local, [WindowInput(rig_equipment(f"rig-{row}"), values(row)) for row in range(3)]
    )
    assert [group.positions for group in answer.groups] == [[0], [2]]
    assert isinstance(answer.errors[1], HydraulicDiagnosticsError)
    assert (
        "expected a graph of 'rig-1', found an internal error (IndexError)"
        in answer.errors[1].message
    )
