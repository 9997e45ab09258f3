"""A real Prometheus scrapes the running service: every panel has data, every rule evaluates."""

import contextlib
import math
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.gpus import GpuFigures
from app.core.text_metrics import SUFFIX, TEXT_FILES, write_text_file
from app.serving.observability.model_metrics import ModelMetrics
from cluster.monitoring.dashboards import BOARDS
from cluster.monitoring.panels import RATE
from tests.cluster.monitoring.debian import installed
from tests.prometheus import RULES, scraping
from tests.rig import inline_readings, rig_cycle
from tests.scrape import families
from tests.system import System
from tests.waiting import wait_until
from train.fitting.progress import EpochRecord, Note
from train.jobs.metrics import TrainingMetrics

pytestmark = pytest.mark.system

GPU = GpuFigures(0, 8e9, 16e9, 0.5, 60.0, 250.0)
PANELS_LIMIT_S = 300.0


@pytest.fixture
def prometheus(system: System, tmp_path: Path) -> Iterator[httpx.Client]:
    """A Prometheus with the shipped rules that scrapes the system each second."""
    with scraping(system.url, RULES, tmp_path) as client:
        yield client


@pytest.fixture
def load(client: httpx.Client) -> Iterator[None]:
    """Callers of every kind, until the test ends."""
    ended = threading.Event()
    thread = threading.Thread(target=_call, args=(client, ended))
    thread.start()
    yield
    ended.set()
    thread.join()


def _call(client: httpx.Client, ended: threading.Event) -> None:
    values, _ = rig_cycle(400)
    number = 0
    while not ended.wait(0.2):
        number += 1
        start = f"2026-03-01T{number // 60 % 24:02d}:{number % 60:02d}:00Z"
        inline = {"equipment_id": "hydraulic-rig", "readings": inline_readings(values, start)}
        reading = {"equipment_id": "hydraulic-rig", "sensor_id": "PS1", "time": start, "value": 9.0}
        unknown = reading | {"sensor_id": "none"}
        with contextlib.suppress(httpx.HTTPError):
            client.post("/v1/diagnoses", json=inline | {"explain": number % 10 == 0})
            client.post("/v1/diagnoses", json={"equipment_id": "hydraulic-rig"})
            client.post("/v1/readings", json=[reading, unknown])


@pytest.fixture
def training(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training on this node, and a model replica on a GPU, as their files of metrics."""
    for module in ("train.jobs.metrics", "app.serving.observability.gpu_metrics"):
        monkeypatch.setattr(f"{module}.read_gpus", lambda: [GPU])
    on_gpu = ModelMetrics("9", "cuda:0", "torch").exposition()
    file = system.var_dir / TEXT_FILES / f"gpu{SUFFIX}"
    write_text_file(file, on_gpu)
    record = EpochRecord(
        epoch=1, loss=0.5, score=0.8, learning_rate=0.01, samples_s=99.0, seconds=3.0, workers=2
    )
    with TrainingMetrics(system.var_dir) as metrics:
        metrics.note(Note(fit="final", epochs=4, done=1.0, loss=0.5, samples_s=99.0, record=record))
        yield
    file.unlink()
    metrics.path.unlink()


def test_every_panel_has_data_and_every_rule_evaluates(
    prometheus: httpx.Client, load: None, training: None
):
    queries = {
        (board.name, panel.title, query.expression)
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in panel.queries
    }
    give_up = time.monotonic() + PANELS_LIMIT_S
    empty = queries
    while empty and time.monotonic() < give_up:
        empty = {each for each in empty if not has_data(prometheus, each[2])}
        time.sleep(1)
    assert empty == set()
    rules = [
        rule
        for group in prometheus.get("/api/v1/rules").json()["data"]["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) > 50
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []
    firing = [
        rule["name"]
        for rule in rules
        if rule.get("state") == "firing" and rule["labels"]["severity"] == "page"
    ]
    assert firing == []
    (up,) = prometheus.get("/api/v1/query", params={"query": 'up{job="hydraulic"}'}).json()["data"][
        "result"
    ]
    assert up["value"][1] == "1"


def has_data(prometheus: httpx.Client, expression: str) -> bool:
    """Return whether a query has a sample that is a number."""
    answer = prometheus.get(
        "/api/v1/query", params={"query": expression.replace(RATE, "1m")}
    ).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return any(not math.isnan(float(sample["value"][1])) for sample in found)


def test_one_scrape_has_every_replica_of_every_deployment(client: httpx.Client):
    def kinds() -> set[str]:
        lines = client.get("/metrics").text.splitlines()
        infos = [line for line in lines if line.startswith("hydraulic_replica_info{")]
        return {line.split('process="')[1].split('"')[0] for line in infos}

    wait_until(lambda: kinds() == {"ingress", "builder", "model", "feed"}, "all kinds of replicas")
    text = client.get("/metrics").text
    assert families(text)["hydraulic_deployment_scraped_replicas"] >= 5
    # each family once, as Prometheus requires
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))


def test_exposition_passes_promtool(client: httpx.Client):
    checked = subprocess.run(
        [installed("promtool"), "check", "metrics"],
        input=client.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    findings = [line for line in checked.stderr.splitlines() if not line.startswith("process_")]
    assert (checked.stdout, findings) == ("", [])
