import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputError
from cluster.capacity import (
    MEASURED,
    MONTH_S,
    PAGE,
    SCENARIOS,
    Assumptions,
    Constants,
    demand,
    page,
    read_measured,
    record,
    table,
)

ONES = Constants(**{field.name: 1.0 for field in fields(Constants)})


def test_page_has_the_generated_tables():
    text = PAGE.read_text(encoding="utf-8")

    assert page(text) == text, "run `python -m cluster.capacity --write`"


def test_small_fleet_has_the_hand_computed_demand():
    given_ = Assumptions(
        sensors=2,
        reading_hz=0.5,
        diagnosis_interval_s=10,
        keep_months=3,
        utilisation=0.5,
        core_hour_usd=0,
        gb_month_usd=1,
    )

    need = demand(1_000_000, replace(ONES, ingress_ms=10.0, database_ingest_us=2.0), given_)

    assert need.readings_s == 1_000_000
    assert need.diagnoses_s == 100_000
    assert need.ingress_cores == pytest.approx(1.0 + 1000.0)
    assert need.ingress_replicas == 2002
    assert need.connections == 2002 * 8
    assert need.model_cores == pytest.approx(100.0)
    assert need.database_cores == pytest.approx(2.0 + 200.0)
    # bytes: a million of readings, 500,000 ticks of a tenth (2 of 20 sensors), 100,000 of diagnoses
    assert need.kept_tb == pytest.approx(3 * MONTH_S * 1_150_000 / 1e12)
    assert need.month_usd == pytest.approx(need.kept_tb * 1000)
    assert need.loads["cores of a primary"] == pytest.approx(202 / 32 / 0.5)
    assert need.beyond[0] == "core of an ingress"


def test_newest_month_is_not_compressed():
    constants = replace(ONES, grid_row_bytes=1e-9, diagnosis_bytes=1e-9, narrow_compression=10.0)
    plain = Assumptions(keep_months=11)

    assert demand(1000, constants, replace(plain, timescale=1)).kept_tb == pytest.approx(
        demand(1000, constants, plain).kept_tb / 11 * 2
    )


def test_post_for_each_second_has_its_measured_cost():
    constants = replace(
        ONES, database_ingest_tick_us=7.0, database_window_ms=1e-9, database_diagnosis_ms=1e-9
    )

    per_tick = demand(50_000, constants, Assumptions(posts_of_a_tick=1)).database_cores

    assert per_tick == pytest.approx(7.0)
    assert demand(50_000, constants, Assumptions()).database_cores == pytest.approx(1.0)


@given(st.integers(1, 10**6), st.integers(2, 50), st.sampled_from(sorted(SCENARIOS)))
def test_more_machines_never_need_less(machines: int, times: int, scenario: str):
    few = demand(machines, read_measured(), SCENARIOS[scenario])
    many = demand(machines * times, read_measured(), SCENARIOS[scenario])

    assert many.primaries >= few.primaries
    assert many.ingress_replicas >= few.ingress_replicas
    assert many.month_usd == pytest.approx(few.month_usd * times)
    assert all(many.loads[name] >= load for name, load in few.loads.items())


def test_table_names_the_first_bottleneck_of_each_fleet():
    lines = table(read_measured(), Assumptions(), [1, 10**6]).splitlines()

    assert lines[0] == "| machines | 1 | 1,000,000 |"
    assert {line.count("|") for line in lines} == {4}
    assert "**disk of a primary**" in lines[-2]


def test_recorded_constant_has_its_origin(tmp_path: Path):
    path = tmp_path / "measured.json"
    path.write_text(MEASURED.read_text(encoding="utf-8"))

    record({"model_ms": 1.23456}, "by hand", path)

    assert read_measured(path).model_ms == 1.235
    assert json.loads(path.read_text())["model_ms"]["how"] == "by hand"
    assert read_measured(path).builder_ms == read_measured().builder_ms
    with pytest.raises(InputError, match="found \\['speed'\\]"):
        record({"speed": 1.0}, "by hand", path)


def test_missing_or_impossible_constants_are_refused(tmp_path: Path):
    path = tmp_path / "measured.json"
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    path.write_text(json.dumps(found | {"model_ms": {"value": 0, "how": "", "when": ""}}))
    with pytest.raises(InputError, match="positive number for model_ms"):
        read_measured(path)
    path.write_text(
        json.dumps({name: entry for name, entry in found.items() if name != "model_ms"})
    )
    with pytest.raises(InputError, match="found \\['model_ms'\\]"):
        read_measured(path)


def test_page_without_its_markers_is_refused():
    with pytest.raises(InputError, match="markers of 'defaults'"):
        page("# Capacity\n")
