"""Histories: repeatable, labelled, marked as simulated, in files and in the store."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.core.errors import InputError, ReadingError
from app.demo.simulation.generate import Order, generate_files, store_histories
from app.demo.simulation.history import draw_unit, record_gapless, record_windows
from app.demo.simulation.injections import Injection, inject, injections_of, plan_with
from app.demo.simulation.live import feed
from app.demo.simulation.machine import read_machine
from app.demo.simulation.wear import healthy_plan
from app.features.baseline import Baseline
from app.schemas.topology import read_equipment
from app.store.baselines import NewBaseline

START = datetime(2025, 1, 1, tzinfo=UTC)


def order(**changes) -> Order:
    return Order(
        read_machine("cnc"), 2, 500.0, START, 4, windows=3, seconds=60, wearing=4.0, **changes
    )


def unit_of(index: int = 1, **changes):
    settings = {"wearing": 4.0, "sensor_faults": 2.0} | changes
    return draw_unit(read_machine("cnc"), index, 4, 500.0, **settings)


def test_the_same_seed_gives_the_same_bits_for_any_batch():
    hours = np.array([10.0, 20.0, 30.0])
    together = record_windows(unit_of(), hours, 30)
    alone = record_windows(unit_of(), hours[2:], 30, first=2)
    assert together[2].values_TS.tobytes() == alone[0].values_TS.tobytes()
    other = record_windows(unit_of(2), hours, 30)
    assert together[0].values_TS.tobytes() != other[0].values_TS.tobytes()


def test_a_history_without_a_gap_continues_from_one_second_to_the_next():
    parts = list(record_gapless(unit_of(sensor_faults=0.0), 0.99, 0.04))
    hour = [part.hour + i / 3_600 for part in parts for i in range(len(part.values_TS))]
    np.testing.assert_allclose(np.diff(hour), 1 / 3_600, atol=1e-9)
    names = [sensor.sensor_id for _, sensor in read_machine("cnc").sensors]
    oil_T = np.concatenate([part.values_TS for part in parts])[:, names.index("oil_temperature")]
    assert np.abs(np.diff(oil_T)).max() < 3.0, "also over the change of jobs at hour 1"


def test_lost_gas_lowers_the_pressure_of_an_accumulator_and_its_oil_stays():
    unit = draw_unit(read_machine("robot"), 1, 4, 500.0, wearing=0.0, sensor_faults=0.0)
    worn = unit.plan.injected("counterbalance.gas_loss", 0.5, -1e6, 1e6)
    plans = iter([unit.plan, unit.plan, worn])
    before, after = record_gapless(unit, 0.0, 2 / 60, lambda: next(plans))
    (begun,) = record_gapless(unit, 0.0, 1 / 60, lambda: worn)
    (apart,) = record_windows(unit.with_plan(worn), np.array([2.0]), 60)
    names = [sensor.sensor_id for _, sensor in unit.design.sensors]
    mean = [
        np.nanmean(each.values_TS[:, names.index("balance_pressure")])
        for each in (before, after, begun, apart)
    ]
    left = 1 - 0.8 * 0.5**0.8
    for each in mean[1:]:
        assert each / mean[0] == pytest.approx(left, abs=0.1)


def test_files_have_readings_labels_topologies_and_a_manifest(tmp_path):
    reported = []
    manifest = generate_files(order(), tmp_path / "out", lambda *each: reported.append(each))
    out = tmp_path / "out"
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert manifest["simulated"] is True
    assert [done for done, _ in reported] == [1, 2]
    table = pq.read_table(out / "readings" / "cnc-001.parquet")
    assert table.schema.metadata[b"simulated"] == b"true"
    topology = read_equipment((out / "topologies" / "cnc-001.yaml").read_text(), "cnc-001")
    assert table.column_names[2:] == list(topology.sensor_ids)
    assert len(table) == 3 * 60
    labels = pq.read_table(out / "labels.parquet").to_pylist()
    assert len(labels) == 2 * 3 * len(topology.components)
    without_faults = [each for each in labels if each["component_id"] == "turret_line"]
    assert {(each["health"], each["rul_h"]) for each in without_faults} == {(1.0, None)}
    worn = [each for each in labels if each["health"] < 1]
    assert worn
    for each in worn:
        assert each["degradation_rate"] > 0 or each["health"] == 0
        assert each["rul_h"] >= 0
        assert each["fault"]
        assert each["end"] - each["start"] == timedelta(seconds=60)


def test_the_same_order_writes_the_same_readings(tmp_path):
    for name in ("a", "b"):
        generate_files(order(), tmp_path / name, lambda *_: None)
    for part in ("readings/cnc-002", "labels", "faults", "sensor_faults", "maintenance"):
        first, second = (pq.read_table(tmp_path / n / f"{part}.parquet") for n in ("a", "b"))
        assert first.equals(second)


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ReadingError, match="expected an empty folder"):
        generate_files(order(), tmp_path, lambda *_: None)


def test_windows_that_would_overlap_are_refused():
    with pytest.raises(InputError, match="expected at most 1500 windows of 60 s"):
        order()._replace(windows=2_000).checked()


async def test_machines_readings_and_health_labels_go_into_the_store(store):
    await store_histories(store, order(sensor_faults=0.0), lambda _: None)
    record = await store.get_equipment("cnc-002")
    assert record is not None
    assert "(simulated)" in record.equipment.name
    assert record.baseline_id is not None
    baseline = (await store.baselines([record.baseline_id]))[record.baseline_id]
    assert (baseline.recorded_by, baseline.missing_sensors) == ("demo", ())
    assert baseline.end < START
    moments = Baseline.model_validate_json(baseline.moments)
    assert set(moments.sensors) == set(record.equipment.sensor_ids)
    labels = await store.read_labels("cnc-002")
    assert len(labels) == 3 * len(record.equipment.components)
    assert any(label.health is not None and label.health < 1 for label in labels)


async def test_other_readings_at_this_time_are_kept_and_said(store):
    short = order(sensor_faults=0.0)
    await store_histories(store, short, lambda _: None)
    before = await store.read_labels("cnc-002")
    with pytest.raises(InputError, match="no readings of 'cnc-001' at this time, found other"):
        await store_histories(store, short._replace(faults={"pump.leakage": 0.9}), lambda _: None)
    assert await store.read_labels("cnc-002") == before


async def test_baseline_that_somebody_recorded_is_kept(store):
    short = order(sensor_faults=0.0)
    await store_histories(store, short, lambda _: None)
    record = await store.get_equipment("cnc-001")
    (demo,) = (await store.baselines([record.baseline_id])).values()
    await store.put_baseline(
        "cnc-001",
        record.equipment.revision,
        NewBaseline("mine", demo.start, demo.end, 24, (), (), demo.moments),
        "operator",
    )
    await store_histories(store, short, lambda _: None)
    assert (await store.get_equipment("cnc-001")).baseline_id == "mine"


async def test_the_feed_ends_at_the_present_and_sees_injected_faults(tmp_path):
    written: list[int] = []
    clock = {"now": START.timestamp() + 600}
    fault = Injection(fault="filter.clogging", severity=0.9, over_h=0.1, start=START)
    inject(tmp_path, "cnc-001", fault)

    async def write(_, block):
        written.append(max(block.times_us) // 1_000_000)

    async def sleep(seconds):
        clock["now"] += max(seconds, 0.5)

    unit = unit_of(wearing=0.0, sensor_faults=0.0)
    arguments = ([unit], START, 0.2, 60.0, write, tmp_path)
    await feed(*arguments, now=lambda: clock["now"], sleep=sleep)
    assert written == sorted(written)
    assert written[-1] == START.timestamp() + 719
    assert clock["now"] >= START.timestamp() + 719, "not ahead of the clock"
    (found,) = injections_of(tmp_path, "cnc-001")
    plan = plan_with(healthy_plan(unit.plan.modes, 100.0), (found,), START)
    assert plan.condition("filter", 0.1).health == pytest.approx(0.1)


def test_oil_stays_in_a_machine_whose_lines_evaporate_at_times():
    design = read_machine("excavator")
    unit = draw_unit(design, 1, 1, 10_000.0, wearing=0.0, sensor_faults=0.0)
    (recording,) = record_windows(unit, np.array([900.0]), 300, first=2)
    names = [sensor.sensor_id for _, sensor in design.sensors]
    level_T = recording.values_TS[:, names.index("oil_level")]
    assert 68 < level_T.min() < level_T.max() < 82
