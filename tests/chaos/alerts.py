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

FASTER = 10
LEAST_S = 3
"""A rate needs two scrapes, which come each second."""
SEEN_S = 3.0
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

    def shorter(duration: re.Match[str]) -> str:
        seconds = int(duration[1]) * _SECONDS[duration[2]]
        return f"{max(LEAST_S, round(seconds / FASTER))}s"

    document = yaml.safe_load(rules)
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(
                r"\[[^\]]*\]", lambda found: _DURATION.sub(shorter, found[0]), rule["expr"]
            )
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
        """Return the alerts that fired since a time, by name.

        Args:
            began: seconds since 1970-01-01T00:00Z.
        """
        time.sleep(SEEN_S)
        found: dict[str, Any] = (
            self._prometheus.get(
                "/api/v1/query_range",
                params={
                    "query": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
                    "start": began,
                    "end": time.time(),
                    "step": 1,
                },
            )
            .raise_for_status()
            .json()
        )
        series = [each["metric"] for each in found["data"]["result"]]
        return tuple(sorted(Alert(each["alertname"], each["severity"]) for each in series))


@contextmanager
def alerts_of(url: str, directory: Path) -> Iterator[Alerts]:
    """Watch a service with the shipped rules, faster; see `FASTER`.

    Args:
        url: of the service.
        directory: for Prometheus.
    """
    rules = directory / "alerts.yaml"
    rules.write_text(faster(RULES.read_text()))
    with scraping(url, rules, directory) as prometheus:
        yield Alerts(prometheus)
