"""The rules for a watching Prometheus: shorter durations, the same thresholds."""

import re

import yaml

import tests.chaos.faults  # noqa: F401 - registers the faults
from tests.chaos.alerts import LEAST_S, faster
from tests.chaos.harness import FAULTS
from tests.prometheus import RULES

RULE = """
groups:
  - name: service
    interval: 30s
    rules:
      - alert: Slow
        expr: max_over_time(wait_seconds[10m]) > 900 and rate(errors_total[1m]) > 0.1
        for: 2m
        labels: {severity: page}
"""


def test_durations_are_divided_and_thresholds_stay():
    (group,) = yaml.safe_load(faster(RULE))["groups"]
    (rule,) = group["rules"]
    assert "interval" not in group
    assert rule["for"] == "12s"
    assert "wait_seconds[60s]) > 900" in rule["expr"]
    assert "errors_total[17s]" in rule["expr"]
    assert rule["labels"] == {"severity": "page"}
    assert f"[{LEAST_S}s]" in faster(RULE.replace("[1m]", "[10s]"))


def test_shipped_rules_have_no_duration_that_stays():
    text = RULES.read_text()
    # a duration outside of brackets and `for` would stay as it is
    assert re.findall(r"offset|\[[^\]]*:", text) == []
    rules = [each for group in yaml.safe_load(faster(text))["groups"] for each in group["rules"]]
    assert {each["for"][-1] for each in rules if "for" in each} == {"s"}
    assert not re.search(r"\[\d+[mhd]\]", "".join(each["expr"] for each in rules))


def test_alerts_that_faults_name_are_shipped():
    shipped = {
        rule.get("alert")
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }
    named = {fault.alert for fault in FAULTS.values()} - {""}
    assert named
    assert named <= shipped
