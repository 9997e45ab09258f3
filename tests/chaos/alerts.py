"""Which of the shipped alerts a fault fires: a real Prometheus, for which time runs faster.

Faults of the suite last for seconds, alerts wait for minutes: durations of the rules are divided by
`FASTER`, so a fault of 30 s is one of five minutes. Thresholds in seconds stay as they are.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.prometheus import RULES, scraping
from tests.waiting import wait_until

FASTER = 10
SCRAPE_S = 8
"""Longer than a scrape takes when a replica does not answer: it waits for the probe of readiness,
then for the replicas (`app/serving/ingress/metrics_gatherer.py`)."""
LEAST_S = 2 * SCRAPE_S + 1
"""Shortest range of a rate, which needs two scrapes."""
SEEN_S = SCRAPE_S + 2.0
"""After the last moment of interest, for the scrape and the evaluation of it."""
OBJECTIVES = "ErrorBudgetBurn"
"""Alerts of the objectives say that requests failed, whatever the cause."""
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+)([smhd])")


class Alert(NamedTuple):
    """An alert that fired."""

    name: str
    severity: str


def faster(rules: str) -> str:
    """Return a file of rules with all durations divided by `FASTER`.

    Args:
        rules: the YAML; durations stand behind `for` and `interval`, and in brackets.
    """

    def shorter(duration: re.Match[str], least_s: int = 1) -> str:
        seconds = int(duration[1]) * _SECONDS[duration[2]]
        return f"{max(least_s, round(seconds / FASTER))}s"

    def ranges(found: re.Match[str]) -> str:
        return _DURATION.sub(lambda duration: shorter(duration, LEAST_S), found[0])

    document = yaml.safe_load(rules)
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[[^\]]*\]", ranges, rule["expr"])
            if "for" in rule:
                rule["for"] = _DURATION.sub(shorter, rule["for"])
    return yaml.safe_dump(document)


class Alerts:
    """The alerts of a service.

    Args:
        prometheus: a client of the Prometheus that scrapes it.
    """

    def __init__(self, prometheus: httpx.Client) -> None:
        self._prometheus = prometheus

    def fired(self, began: float) -> tuple[Alert, ...]:
        """Return the alerts that began to fire since a time, by name.

        Args:
            began: seconds since 1970-01-01T00:00Z.
        """
        time.sleep(SEEN_S)
        before = self._firing("query", time=began)
        since = self._firing("query_range", start=began, end=time.time(), step=1.0)
        return tuple(sorted(since - before))

    def _firing(self, path: str, **parameters: float) -> set[Alert]:
        query = 'count by (alertname, severity) (ALERTS{alertstate="firing"})'
        answer = self._prometheus.get(f"/api/v1/{path}", params={"query": query} | parameters)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return {Alert(each["metric"]["alertname"], each["metric"]["severity"]) for each in found}


@contextmanager
def alerts_of(url: str, directory: Path) -> Iterator[Alerts]:
    """Watch a service with the shipped rules, faster; see `FASTER`.

    Args:
        url: of the service.
        directory: for Prometheus.
    """
    rules = directory / "alerts.yaml"
    rules.write_text(faster(RULES.read_text()))
    with scraping(url, rules, directory, SCRAPE_S) as prometheus:
        wait_until(lambda: _is_scraped(prometheus), "a first scrape of the service", 60)
        yield Alerts(prometheus)


def _is_scraped(prometheus: httpx.Client) -> bool:
    """Return whether the service was scraped; until then it counts as down."""
    answer = prometheus.get("/api/v1/query", params={"query": 'up{job="hydraulic"} == 1'})
    return bool(answer.raise_for_status().json()["data"]["result"])
