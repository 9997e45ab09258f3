"""Status and difference as text."""

from pathlib import Path
from typing import Any

from app.release.config.file import ConfigFile
from app.release.view import difference, status_lines
from app.store.store import Store
from tests.app.release.fake_cluster import FakeCluster, serve_api, service_api


async def test_status_shows_file_traffic_application_and_history(
    path: Path, cluster: FakeCluster, store: Store
):
    file = ConfigFile(path)
    data: Any = file.read().data
    cluster.put(data)
    await store.record_release("1", "split", {"1": 100.0, "2": 0.0}, actor="ann", reason="first")
    lines = await status_lines(file, serve_api(cluster), service_api(cluster), store)
    assert lines[0].startswith(
        "version 1: weight 100 configured, 100 in force; application 'model-1' RUNNING, 1 replica"
    )
    assert lines[0].endswith("checkpoint app/weights/1")
    assert lines[-1].endswith("split 1 by ann -> 1=100: first")


async def test_difference_names_what_was_added_changed_and_removed(
    path: Path, cluster: FakeCluster
):
    file = ConfigFile(path)
    data: Any = file.read().data
    cluster.put(data)
    running = await serve_api(cluster).applications()
    for application in running.values():
        # Serve copies the file's logging_config
        assert application.deployed_app_config is not None
        deployed: Any = application.deployed_app_config
        deployed["logging_config"] = data["logging_config"]
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
