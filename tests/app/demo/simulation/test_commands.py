"""`hydraulic demo` for the simulated machines, and their plots in the documents."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow.parquet as pq
import pytest

from app.cli.main import main
from app.core.errors import HydraulicDiagnosticsError
from app.demo.simulation.history import draw_unit
from app.demo.simulation.injections import injections_of
from app.demo.simulation.live import feed_http
from app.demo.simulation.machine import machine_files, read_machine
from app.demo.simulation.plots import plot_cycle
from tests.app.demo.simulation.circuits import machine
from tests.system import PROJECT_DIR


def test_list_and_describe_show_the_machines(capsys):
    assert main(["demo", "list"]) == 0
    listed = capsys.readouterr().out
    for name in machine_files():
        assert name in listed
    assert main(["demo", "describe", "robot", "--form", "mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart LR\n")
    assert main(["demo", "describe", "dredger"]) == 1
    assert "expected a machine, one of cnc, excavator" in capsys.readouterr().err


def test_generate_writes_a_marked_folder(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["demo", "generate", "cnc", "--hours", "50", "--sample", "1", "--window-s", "20"]
    assert main([*command, "--out", str(out)]) == 0
    assert "simulated readings" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["machines"] == ["cnc-001"]
    assert manifest["simulated"] is True


def test_generate_lets_a_named_fault_grow_and_refuses_one_that_is_none(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["demo", "generate", "cnc", "--hours", "50", "--sample", "2", "--window-s", "20"]
    quiet = ["--wearing", "0", "--sensor-faults", "0", "--out", str(out)]
    for text, message in (
        ("pump.leakage", "expected a fault as component.fault=SEVERITY, found 'pump.leakage'"),
        ("pump.thirst=0.5", "found 'pump.thirst': name one of"),
        ("pump.leakage=2", "expected a severity above 0 and at most 1, found 2"),
    ):
        assert main([*command, *quiet, "--fault", text]) == 1
        assert message in capsys.readouterr().err
    for texts, message in (
        (("pump.leakage=0.6", "pump.leakage=0.2"), "found 'pump.leakage' twice"),
        (("pump.leakage=0.6", "pump.bearing_wear=0.2"), "found several of pump"),
    ):
        faults = [word for text in texts for word in ("--fault", text)]
        assert main([*command, *quiet, *faults]) == 1
        assert message in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, *quiet, "--fault", "pump.leakage=0.6"]) == 0
    labels = pq.read_table(out / "labels.parquet").to_pylist()
    found = [each for each in labels if each["health"] < 1]
    assert {(each["component_id"], each["fault"]) for each in found} == {("pump", "leakage")}
    assert 0.3 < 1 - found[-1]["health"] < 0.6
    assert json.loads((out / "manifest.json").read_text())["faults"] == {"pump.leakage": 0.6}


def test_generate_needs_one_place_to_write_to(capsys):
    assert main(["demo", "generate", "cnc"]) == 1
    assert "expected either --out or --store" in capsys.readouterr().err


def test_inject_is_kept_for_the_feed_and_a_wrong_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))
    command = ["demo", "inject", "pump.leakage", "--equipment", "injection-moulding-002"]
    assert main([*command, "--severity", "0.7", "--over", "2"]) == 0
    (found,) = injections_of(tmp_path, "injection-moulding-002")
    assert (found.fault, found.severity, found.over_h) == ("pump.leakage", 0.7, 2.0)
    assert main([*command, "--severity", "7"]) == 1
    assert "expected a severity above 0 and at most 1, found 7" in capsys.readouterr().err


async def test_the_feed_registers_machines_and_posts_readings_over_http(tmp_path):
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={})

    unit = draw_unit(read_machine("cnc"), 1, 0, 24.0, wearing=0.0, sensor_faults=0.0)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    service = ("http://service", "key", tmp_path, httpx.MockTransport(answer))
    await feed_http([unit], start, 0.01, 1e6, *service)
    put, *posts = requests
    assert (put.method, put.url.path) == ("PUT", "/v1/equipment/cnc-001")
    assert {(post.method, post.url.path) for post in posts} == {("POST", "/v1/readings")}
    assert posts[0].headers["Authorization"] == "Bearer key"
    lines = [line for post in posts for line in post.content.decode().splitlines()[1:]]
    assert len(lines) == 36 * len(read_machine("cnc").sensors)


async def test_a_refusing_service_ends_the_feed_with_its_answer(tmp_path):
    unit = draw_unit(read_machine("cnc"), 1, 0, 24.0, wearing=0.0, sensor_faults=0.0)
    refusing = httpx.MockTransport(lambda _: httpx.Response(403, text="no key"))
    with pytest.raises(HydraulicDiagnosticsError, match="found 403 no key"):
        await feed_http(
            [unit], datetime.now(UTC), 0.01, 1.0, "http://service", None, tmp_path, refusing
        )


@pytest.mark.parametrize("name", machine_files())
def test_the_documents_have_a_small_plot_of_every_machine(name):
    path = PROJECT_DIR / "docs" / "explanation" / "simulation" / f"{name}.svg"
    text = path.read_text(encoding="utf-8")
    assert len(text) < 150_000
    for component in read_machine(name).components:
        for fault in component.faults:
            assert f"{component.component_id}: {fault}" in text


def test_a_plot_is_written_for_a_machine_of_ones_own(tmp_path):
    tank = {
        "id": "reservoir", "kind": "tank", "faults": {"aeration": {"life_h": 100}},
        "sensors": [{"id": "reservoir_level", "measures": "level", "range": [0, 100]}],
    }  # fmt: skip
    design = machine(tank)
    plot_cycle(design, tmp_path / "small.svg")
    assert "reservoir: aeration" in (tmp_path / "small.svg").read_text(encoding="utf-8")
