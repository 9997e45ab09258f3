"""Dashboards as data: boards, rows and panels, and the queries that many panels share.

The modules of `boards` define the dashboards; `dashboards` turns them into Grafana's JSON.
"""

from typing import Literal, NamedTuple

RATE = "$__rate_interval"
"""Grafana's variable for the range of `rate`."""

Kind = Literal["timeseries", "stat"]


class Query(NamedTuple):
    """One query and its legend."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel.

    Args:
        title: of it.
        unit: Grafana's id of the unit, such as `s`, `bytes`, `percentunit` or `reqps`.
        queries: that it shows.
        description: what to read from it.
        kind: of drawing.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    kind: Kind = "timeseries"


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


class Board(NamedTuple):
    """One dashboard; `name` is that of its file and its id in Grafana."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the rate of a counter, summed over the processes, by labels if given."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{where}}}[{RATE}]))"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """Return a quantile of a histogram; `q` is within [0, 1]."""
    grouped = f"le, {by}" if by else "le"
    inner = f"sum by ({grouped}) (rate({metric}_bucket{{{where}}}[{RATE}]))"
    return f"histogram_quantile({q:g}, {inner})"


def mean(metric: str, by: str = "") -> str:
    """Return the mean of a histogram."""
    return f"{rate(metric + '_sum', by)} / {rate(metric + '_count', by)}"


def share(part: str, whole: str) -> str:
    """Return a share that is 0 where nothing is counted yet."""
    return f"({part} or vector(0)) / {whole}"


def chart(title: str, unit: str, query: str, legend: str = "", description: str = "") -> Panel:
    """Return a time series of one query."""
    return Panel(title, unit, (Query(query, legend),), description)


def stat(title: str, unit: str, query: str, legend: str = "", description: str = "") -> Panel:
    """Return the newest values of one query."""
    return Panel(title, unit, (Query(query, legend),), description, "stat")
