"""Alert rules by promtool: each fires where it should, and a changed rule makes a test fail."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.monitoring.alert_cases import BURNS, CASES, Case
from tests.cluster.monitoring.debian import installed
from tests.system import PROJECT_DIR

MONITORING = PROJECT_DIR / "cluster/monitoring"
RULES = MONITORING / "alerts.yaml"
SECTIONS = ("Meaning", "Impact", "Diagnosis", "Mitigation")
_NUMBER = re.compile(r'(?<![\w."\[=~{])(\d+(?:\.\d+)?)(?![\w."\]])')
_COMPARED = re.compile(r"(==|[<>])")
_FLIPPED = {"==": "!=", "<": ">=", ">": "<="}


def read_rules() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return loaded


def rules_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for group in document["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules_of(read_rules()) if "alert" in rule}


@pytest.fixture(scope="session")
def promtool() -> str:
    return installed("promtool")


def run(
    promtool: str, *arguments: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool, *arguments], input=text, capture_output=True, text=True, check=False, timeout=120
    )


def minutes(duration: str) -> int:
    return round(
        sum(
            float(number) * {"s": 1 / 60, "m": 1, "h": 60}[unit]
            for number, unit in re.findall(r"(\d+)([smh])", duration)
        )
    )


def expected(alert: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    rule = ALERTS[alert]
    annotations = {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
        for name, text in rule["annotations"].items()
    }
    return [{"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations}]


def looks_at(case: Case) -> list[dict[str, Any]]:
    """Return promtool's tests: fires after `for` and not before, and never beyond the threshold."""
    due = case.onset_m + minutes(ALERTS[case.alert].get("for", "0m"))

    def test(series: Mapping[str, str], looks: Sequence[tuple[int, bool]]) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{at}m",
                    "alertname": case.alert,
                    "exp_alerts": expected(case.alert, case.labels) if fires else [],
                }
                for at, fires in looks
            ],
        }

    before = [(due - 1, False)] if due > case.onset_m else []
    return [test(case.fires, [*before, (due, True)])] + [
        test(series, [(due, False), (due + 5, False)]) for series in case.silent
    ]


def unit_tests(alert: str) -> list[dict[str, Any]]:
    return [test for case in CASES if case.alert == alert for test in looks_at(case)]


def outcome(
    promtool: str, directory: Path, rules: Mapping[str, Any], tests: list[dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
    written = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "tests.yaml").write_text(yaml.safe_dump(written))
    return run(promtool, "test", "rules", str(directory / "tests.yaml"))


def only(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file of rules with one alert; what is recorded for it comes from the test."""
    return {"groups": [{"name": "one", "rules": [rule]}]}


def mutants(rule: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield changed rules: thresholds, comparisons, durations, and clauses left out."""
    expression = rule["expr"]
    for found in _NUMBER.finditer(expression):
        for factor in (0.8, 1.25):
            number = float(found[1]) * factor
            if number:
                start, end = found.span(1)
                yield {**rule, "expr": f"{expression[:start]}{number:.6g}{expression[end:]}"}
    for found in _COMPARED.finditer(
        re.sub(r'"[^"]*"', lambda text: "_" * len(text[0]), expression)
    ):
        start, end = found.span()
        yield {**rule, "expr": expression[:start] + _FLIPPED[found[0]] + expression[end:]}
    for clause in re.finditer(
        r" (?:unless on \(\)|and on \(\)|and) (\([^()]*\)|[\w:]+ [<>=]+ [\d.]+)", expression
    ):
        yield {**rule, "expr": expression[: clause.start()] + expression[clause.end() :]}
    if "alert" in rule:
        yield {**rule, "labels": {"severity": "other"}}
        yield {**rule, "for": f"{2 * minutes(rule.get('for', '0m')) + 1}m"}
        if "for" in rule:
            yield {key: value for key, value in rule.items() if key != "for"}


def test_rules_and_configuration_pass_promtool(promtool: str, tmp_path: Path):
    checked = run(promtool, "check", "rules", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shutil.copytree(MONITORING, tmp_path / "monitoring")
    checked = run(promtool, "check", "config", str(tmp_path / "monitoring/prometheus.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS" in checked.stdout


def test_every_alert_has_a_case():
    assert {case.alert for case in CASES} == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_fires_and_a_changed_rule_is_noticed(promtool: str, alert: str, tmp_path: Path):
    tests = unit_tests(alert)
    done = outcome(promtool, tmp_path, only(ALERTS[alert]), tests)
    assert done.returncode == 0, done.stdout + done.stderr
    survivors = [
        mutant
        for mutant in mutants(ALERTS[alert])
        if outcome(promtool, tmp_path, only(mutant), tests).returncode == 0
    ]
    assert survivors == []


def test_burn_rates_are_those_of_their_windows(promtool: str, tmp_path: Path):
    rules = read_rules()
    rules["groups"] = [
        {
            "name": group["name"],
            "rules": [rule for rule in group["rules"] if "record" in rule],
        }
        for group in rules["groups"]
        if group["name"] == "objectives"
    ]
    recorded = [*rules_of(rules)]
    assert {rule["labels"]["slo"] for rule in recorded} == BURNS.keys()
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'round({rule["record"]}{{slo="{slo}"}} * 100) / 100',
                    "eval_time": "10m",
                    "exp_samples": [{"labels": f'{{slo="{slo}"}}', "value": burn}],
                }
                for rule in recorded
                if rule["labels"]["slo"] == slo
            ],
        }
        for slo, (series, burn) in BURNS.items()
    ]
    done = outcome(promtool, tmp_path, rules, tests)
    assert done.returncode == 0, done.stdout + done.stderr
    # each of the rules has the same mutants: all rules are changed at once, and each is noticed
    for changed in zip(*(mutants(rule) for rule in recorded), strict=False):
        rules["groups"][0]["rules"] = [*changed]
        done = outcome(promtool, tmp_path, rules, tests)
        for rule in recorded:
            looked = f'{rule["record"]}{{slo="{rule["labels"]["slo"]}"}}'
            assert looked in (done.stdout + done.stderr).replace('\\"', '"'), changed


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook_resolves_and_says_what_to_do(alert: str):
    url = ALERTS[alert]["annotations"]["runbook_url"]
    assert url.endswith(f"/runbooks/{alert}.md")
    text = (PROJECT_DIR / url).read_text()
    assert text.startswith(f"# {alert}\n")
    assert tuple(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == SECTIONS
    for part in re.split(r"^## \w+$", text, flags=re.MULTILINE)[1:]:
        assert len(part.split()) >= 5


def test_no_runbook_is_without_its_alert():
    found = {path.stem for path in (PROJECT_DIR / "docs/how-to/runbooks").glob("*.md")}
    assert found == ALERTS.keys()
