"""The shipped recordings of the live fleet."""

from datetime import UTC, datetime, timedelta

import numpy as np

from app.demo.simulation.live_files import (
    LIVE_WINDOWS,
    PAST_STEP,
    PAST_WINDOWS,
    WORN,
    past_ends,
    read_live_fleet,
)
from app.features.baseline import check_baseline


def test_two_machines_of_each_design_are_shipped_and_the_worn_one_is_first() -> None:
    machines = read_live_fleet()
    assert [each.equipment.equipment_id for each in machines] == [
        WORN, "cnc-1", "cnc-2", "excavator-1", "injection-moulding-1", "injection-moulding-2",
        "robot-1", "robot-2",
    ]  # fmt: skip
    assert [len(each.past_NTS) for each in machines] == [PAST_WINDOWS] + [0] * 7
    for machine in machines:
        assert machine.live_NTS.shape == (LIVE_WINDOWS, 600, len(machine.equipment.sensors))
        assert "(simulated)" in machine.equipment.name or "simulated" in machine.equipment.design
        check_baseline(machine.baseline, machine.equipment)
        assert len(machine.baseline.sensors) == len(machine.equipment.sensors)
        low_S, high_S = np.array([sensor.range for _, sensor in machine.equipment.sensors]).T
        assert (machine.live_NTS >= low_S - 1e-3).all()
        assert (machine.live_NTS <= high_S + 1e-3).all()


def test_hour_that_is_replayed_has_no_gap() -> None:
    for machine in read_live_fleet():
        oil = machine.equipment.sensor_ids.index("oil_temperature")
        last_N, next_N = machine.live_NTS[:-1, -60:, oil].mean(1), machine.live_NTS[1:, :60, oil]
        # windows with a start of their own each jumped by up to 18 K
        np.testing.assert_allclose(next_N.mean(1), last_N, atol=2.0)


def test_leakage_of_the_worn_pump_grows_in_its_case_drain() -> None:
    worn = read_live_fleet()[0]
    drain = worn.equipment.sensor_ids.index("pump_case_drain")
    level_N = worn.past_NTS[:, :, drain].mean(1)
    assert level_N[-6:].mean() > 1.5 * level_N[:6].mean()


def test_earlier_windows_end_at_the_same_times_all_day() -> None:
    morning = datetime(2026, 3, 4, 0, 0, 1, tzinfo=UTC)
    ends = past_ends(morning)
    assert ends == past_ends(morning + timedelta(hours=23))
    assert ends[-1] == datetime(2026, 3, 4, tzinfo=UTC)
    assert ends[0] == ends[-1] - (PAST_WINDOWS - 1) * PAST_STEP
