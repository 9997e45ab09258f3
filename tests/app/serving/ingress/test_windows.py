"""Which window a request means, and where inline readings fall in it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import WindowError
from app.schemas.equipment import Equipment
from app.schemas.readings import InlineReadings
from app.schemas.topology import parse_equipment
from app.serving.ingress.windows import EPOCH, Bins, inline_window, interval_of, window_before

NOW = datetime(2026, 1, 31, 12, 0, 30, 500_000, tzinfo=UTC)


def machine(**changes: object) -> Equipment:
    sensors = [
        {"sensor_id": name, "quantity": "pressure", "unit": "bar", "range": [0, 400]}
        for name in ("first", "second")
    ]
    data = {
        "equipment_id": "press",
        "components": [{"component_id": "pump", "type": "pump", "sensors": sensors}],
        "grid_s": 1,
        "window_s": 60,
        "steps": 12,
    }
    return parse_equipment(data | changes, "test")


def readings(
    start: datetime = NOW - timedelta(minutes=5), step_s: float = 1.0, **values: list[float | None]
) -> InlineReadings:
    return InlineReadings(start=start, step_s=step_s, values=values or {"first": [1.0] * 60})


def test_window_ends_at_the_last_whole_bin_before_at():
    window = interval_of(
        window_before(machine(), datetime(2026, 1, 31, 11, 0, 0, 900_000, tzinfo=UTC), NOW),
        machine(),
    )
    assert (window.start, window.end) == (
        datetime(2026, 1, 31, 10, 59, tzinfo=UTC),
        datetime(2026, 1, 31, 11, tzinfo=UTC),
    )


def test_without_at_the_window_ends_now():
    assert interval_of(window_before(machine(), None, NOW), machine()).end == NOW.replace(
        microsecond=0
    )


def test_machine_with_a_cycle_is_looked_at_from_one_cycle_border_to_another():
    cyclic = machine(cycle_s=60)
    assert interval_of(window_before(cyclic, None, NOW), cyclic).end == datetime(
        2026, 1, 31, 12, tzinfo=UTC
    )


def test_at_is_taken_as_it_is_also_inside_a_cycle():
    cyclic = machine(cycle_s=60)
    at = datetime(2026, 1, 31, 11, 0, 17, tzinfo=UTC)
    assert interval_of(window_before(cyclic, at, NOW), cyclic).end == at


def test_window_in_the_future_is_refused_beyond_a_small_clock_skew():
    window_before(machine(), NOW + timedelta(seconds=4), NOW)
    with pytest.raises(WindowError, match="expected a time up to now") as caught:
        window_before(machine(), NOW + timedelta(seconds=6), NOW)
    assert caught.value.field == "at"


def test_window_before_the_epoch_is_refused():
    with pytest.raises(WindowError, match="expected a time after 1970"):
        window_before(machine(), EPOCH + timedelta(seconds=59), NOW)


def test_inline_values_fall_into_their_bins_and_the_rest_is_missing():
    values = [float(second) for second in range(60)]
    bins, values_SN = inline_window(machine(), readings(second=values), NOW)
    assert bins == Bins(round((NOW - timedelta(minutes=5)).timestamp() - 0.5), 60)
    np.testing.assert_array_equal(values_SN[1], np.arange(60, dtype=np.float32))
    assert np.isnan(values_SN[0]).all()


def test_null_is_missing():
    _, values_SN = inline_window(machine(), readings(first=[None, *([2.0] * 59)]), NOW)
    assert np.isnan(values_SN[0, 0])
    assert np.isfinite(values_SN[0, 1:]).all()


def test_values_at_ten_hertz_are_averaged_by_bin():
    start = NOW.replace(microsecond=0) - timedelta(minutes=5)
    values = [float(i % 10) for i in range(600)]
    _, values_SN = inline_window(machine(), readings(start=start, step_s=0.1, first=values), NOW)
    np.testing.assert_array_equal(values_SN[0], np.full(60, 4.5, np.float32))


def test_values_every_ten_seconds_leave_bins_empty():
    _, values_SN = inline_window(machine(), readings(step_s=10.0, first=[7.0] * 6), NOW)
    assert np.isfinite(values_SN[0]).sum() == 6


@pytest.mark.parametrize("length", [0, 1, 59, 61, 600])
def test_wrong_length_says_how_many_are_expected(length: int):
    with pytest.raises(WindowError, match=rf"expected 60 values .* found {length}") as caught:
        inline_window(machine(), readings(first=[1.0] * length), NOW)
    assert caught.value.field == "readings.values.first"


def test_unknown_sensor_lists_the_known_ones():
    with pytest.raises(WindowError, match="found 'third': there are first, second") as caught:
        inline_window(machine(), readings(third=[1.0] * 60), NOW)
    assert caught.value.field == "readings.values.third"


def test_step_that_does_not_divide_the_window_is_refused():
    with pytest.raises(WindowError, match="expected a step that divides the window"):
        inline_window(machine(), readings(step_s=7.0, first=[1.0] * 9), NOW)


def test_window_of_nulls_is_refused():
    with pytest.raises(WindowError, match="expected at least one reading"):
        inline_window(machine(), readings(first=[None] * 60), NOW)


def test_inline_readings_from_the_future_are_refused():
    with pytest.raises(WindowError, match="expected readings that begin by now") as caught:
        inline_window(machine(), readings(start=NOW + timedelta(minutes=1)), NOW)
    assert caught.value.field == "readings.start"


@given(st.integers(0, 10**9), st.sampled_from([0.5, 1.0, 2.0, 60.0]))
def test_inline_window_is_always_whole(offset_us: int, step_s: float):
    start = NOW - timedelta(hours=1) + timedelta(microseconds=offset_us)
    count = round(60 / step_s)
    bins, values_SN = inline_window(
        machine(), readings(start=start, step_s=step_s, first=[1.0] * count), NOW
    )
    assert bins.length == 60
    assert np.isfinite(values_SN[0]).sum() == min(count, 60)
    assert interval_of(bins, machine()).start <= start


def test_window_that_has_begun_is_taken_while_it_is_measured():
    begun = [1.0] * 10 + [None] * 50
    bins, values_SN = inline_window(
        machine(), readings(start=NOW - timedelta(seconds=10), first=begun), NOW
    )
    assert interval_of(bins, machine()).end > NOW
    assert np.isfinite(values_SN[0]).sum() == 10
