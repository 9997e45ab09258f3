"""Dashboards: the stored JSON is that of the code, and queries name metrics that are counted."""

import json
import re

import pytest
import yaml

from cluster.monitoring.dashboards import BOARDS, DIRECTORY, to_json
from cluster.monitoring.panels import Board
from tests.cluster.monitoring.test_alerts import RULES, read_rules, rules_of
from tests.docs.metrics import families
from tests.system import PROJECT_DIR

_NAME = re.compile(r"\b(hydraulic[\w:]+|process_\w+|python_\w+)")
_OF_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")
OTHERS = {"process_cpu_seconds_total", "process_resident_memory_bytes"} | {
    "process_open_fds",
    "process_max_fds",
}
"""Of the Prometheus client."""


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_stored_dashboard_is_that_of_the_code(board: Board):
    stored = (DIRECTORY / f"{board.name}.json").read_text()
    assert stored == to_json(board), "run python -m cluster.monitoring.dashboards"
    dashboard = json.loads(stored)
    assert dashboard["uid"] == f"hydraulic-{board.name}"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert titles == [panel.title for row in board.rows for panel in row.panels]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) == sum(len(panel.queries) for row in board.rows for panel in row.panels)


def test_every_dashboard_is_stored():
    assert {path.stem for path in DIRECTORY.glob("*.json")} == {board.name for board in BOARDS}


def test_queries_and_rules_name_metrics_that_are_counted():
    known = {family.name for family in families()} | OTHERS
    known |= {rule["record"] for rule in rules_of(read_rules()) if "record" in rule}
    queries = [
        query.expression
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in panel.queries
    ]
    expressions = [*queries, *(rule["expr"] for rule in rules_of(read_rules()))]
    named = {name for text in expressions for name in _NAME.findall(text)} - {"process"}
    unknown = {name for name in named if name not in known}
    assert {name for name in unknown if _OF_HISTOGRAM.sub("", name) not in known} == set()


def test_provisioned_paths_are_there():
    directory = PROJECT_DIR / "cluster/monitoring"
    for path in directory.glob("grafana/*/*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    providers = yaml.safe_load((directory / "grafana/dashboards/dashboards.yaml").read_text())
    paths = [each["options"]["path"] for each in providers["providers"]]
    own = paths[0].replace("${PROJECT_HOME}", str(PROJECT_DIR))
    assert [*PROJECT_DIR.glob(f"{own.removeprefix(str(PROJECT_DIR) + '/')}/*.json")]
    assert RULES.name in yaml.safe_load((directory / "prometheus.yaml").read_text())["rule_files"]
