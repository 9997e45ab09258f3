"""How releases stand, for people."""

from pathlib import Path
from typing import Any

from app.release.config.file import ConfigFile
from app.release.view import difference, status_lines
from app.store.store import Store
from tests.app.release.stage import Stage, serve_api, service_api


async def test_status_tells_file_force_application_and_history(
    path: Path, stage: Stage, store: Store
):
    file = ConfigFile(path)
    data: Any = file.read().data
    stage.put(data)
    await store.record_release("1", "split", {"1": 100.0, "2": 0.0}, actor="ann", reason="first")
    lines = await status_lines(file, serve_api(stage), service_api(stage), store)
    assert lines[0].startswith(
        "version 1: weight 100 in the file, 100 in force; application 'model-1' RUNNING, 1 replica"
    )
    assert lines[0].endswith("checkpoint app/weights/1")
    assert lines[-1].endswith("split 1 by ann -> 1=100: first")


async def test_difference_names_what_was_added_changed_and_removed(path: Path, stage: Stage):
    file = ConfigFile(path)
    data: Any = file.read().data
    stage.put(data)
    running = await serve_api(stage).applications()
    for application in running.values():
        # Serve hands the whole's logging down
        assert application.deployed_app_config is not None
        application.deployed_app_config["logging_config"] = data["logging_config"]  # type: ignore[index]
    assert difference(file.read(), running) == []
    removed = running.pop("model-2")
    path.write_text(
        path.read_text().replace("weight: 100", "weight: 70").replace("weight: 0", "weight: 30")
    )
    found = difference(file.read(), running | {"model-7": removed})
    assert [line for line in found if line.startswith("application")] == [
        "application 'diagnostics' differs",
        "application 'model-2' is in the file and does not run",
        "application 'model-7' runs and is not in the file",
    ]
    assert "-        weight: 100" in found
    assert "+        weight: 70" in found
