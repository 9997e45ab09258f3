"""The command line: output, exit status, and the discovery of machine folders."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import app.demo
from app.cli.main import main
from app.demo.rig.archive import open_archive
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import survey
from app.store.store import Store
from app.store.windows import decode_window

WriteRig = Callable[..., Path]


def test_import_reports_its_progress_and_a_second_one_adds_nothing(
    database_dsn: str, write_rig: WriteRig, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["demo", "import-rig", str(write_rig(cycles=50)), "--dsn", database_dsn]
    command += ["--equipment-id", "rig-cli"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("as rig-cli")
    assert lines[0].startswith("importing 50 cycles from ")
    assert re.fullmatch(r"49/50 cycles, 49980 readings, [\d,]+ readings/s", lines[1])
    assert re.fullmatch(r"50/50 cycles, 51000 readings, [\d,]+ readings/s", lines[2])
    assert re.fullmatch(r"imported 51000 new readings, 0 known before, in [\d.]+ s", lines[3])
    assert main(command) == 0
    assert "imported 0 new readings, 51000 known before" in capsys.readouterr().out


def test_import_begins_at_the_given_start(database_dsn: str, write_rig: WriteRig) -> None:
    directory = write_rig(cycles=1, index=False)
    command = [
        "demo",
        "import-rig",
        str(directory),
        "--dsn",
        database_dsn,
        "--equipment-id",
        "rig-start",
    ]
    assert main([*command, "--start", "2024-05-01T00:00+02:00"]) == 0

    async def newest() -> str:
        store = Store(database_dsn)
        found = await store.data_range("rig-start")
        await store.close()
        assert found is not None
        return datetime.fromtimestamp(found.end - 1, UTC).isoformat()

    assert asyncio.run(newest()) == "2024-04-30T22:00:59+00:00"


PRESS_COMMANDS = """
from pathlib import Path
import typer
from app.demo.machine import read_topology

commands = typer.Typer()

@commands.command("show-press")
def show():
    equipment = read_topology(Path(__file__).parent / "press.yaml", ["P1"], "in its simulation")
    print(equipment.design, *equipment.sensor_ids)
"""


def test_new_machine_is_a_folder_of_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "press_of_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""A press."""')
    (folder / "commands.py").write_text(PRESS_COMMANDS)
    (folder / "press.yaml").write_text(
        "{equipment_id: press, grid_s: 1, window_s: 60, steps: 12, components: "
        "[{component_id: pump, type: pump, sensors: "
        "[{sensor_id: P1, quantity: pressure, unit: bar, range: [0, 9]}]}]}"
    )
    monkeypatch.setattr(app.demo, "__path__", [*app.demo.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "app.demo.commands", raising=False)
    assert main(["demo", "show-press"]) == 0
    assert capsys.readouterr().out == "press P1\n"


def test_packed_archive_holds_the_directory(
    write_rig: WriteRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rig.tar.xz"
    assert main(["demo", "pack-rig", str(write_rig(cycles=4)), str(out)]) == 0
    assert capsys.readouterr().out == (
        f"packed 4 cycles, 4080 readings, into {out}: {out.stat().st_size} bytes\n"
    )
    assert survey(open_archive(out)).cycles == 4


def test_invalid_input_is_one_line_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "demo",
                "import-rig",
                str(tmp_path / "nowhere"),
                "--dsn",
                "postgresql://127.0.0.1:1/none",
            ]
        )
        == 1
    )
    captured = capsys.readouterr()
    assert captured.err == (
        "error: expected a directory in the rig's published layout, found none at "
        f"{tmp_path / 'nowhere'}\n"
    )


def test_unreachable_database_is_one_line_without_the_password(
    write_rig: WriteRig, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = "postgresql://rig:hunter2@127.0.0.1:1/none"
    command = ["demo", "import-rig", str(write_rig(cycles=1)), "--dsn", dsn]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "hunter2" not in captured.err + captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: hydraulic demo"),
        (["import"], "No such command 'import'"),
        (
            ["import-rig", "--start", "2025-01-01"],
            "expected a time with its zone, found '2025-01-01': add Z for UTC",
        ),
        (
            ["import-rig", "--start", "noon"],
            "expected an ISO 8601 time such as 2025-01-01T00:00Z, found 'noon'",
        ),
    ],
)
def test_wrong_usage_exits_with_2_and_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


def test_feed_writes_the_last_hour_and_now_until_it_is_interrupted(database_dsn: str) -> None:
    command = [sys.executable, "-m", "app.cli.main", "demo", "live", "--dsn", database_dsn]
    command += ["--equipment-id", "rig-feed"]
    started = time.time()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        values, newest = asyncio.run(_fed(database_dsn, started, process))
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "feeding the rig's readings as measured now; Ctrl-C ends it\n"
    assert err == "interrupted; run the same command again to continue\n"
    assert values >= 3_590 * 17
    assert newest > started


async def _fed(dsn: str, started: float, process: "subprocess.Popen[str]") -> tuple[int, float]:
    """Wait until the feed wrote seconds after its start; return its values and newest time."""
    store, equipment = Store(dsn), rig_equipment("rig-feed")
    deadline = time.monotonic() + 120
    newest = 0.0
    while newest <= started + 1:
        assert time.monotonic() < deadline
        assert process.poll() is None
        await asyncio.sleep(0.2)
        if await store.get_equipment("rig-feed") is not None:
            found = await store.data_range("rig-feed")
            newest = 0.0 if found is None else found.end - 1.0
    (window,) = await store.read_windows([("rig-feed", int(newest) - 3_599, 3_600)])
    await store.close()
    values_SN = decode_window(window, equipment)
    return int((values_SN == values_SN).sum()), newest
