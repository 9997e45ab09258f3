"""Grafana's dashboards, made of `boards`: `python -m cluster.monitoring.dashboards` writes them.

It needs the extra `dev`. The JSON files in `dashboards/` are what Grafana reads.
"""

from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from cluster.monitoring.boards.database import DATABASE
from cluster.monitoring.boards.fleet import FLEET
from cluster.monitoring.boards.model import MODEL
from cluster.monitoring.boards.service import SERVICE
from cluster.monitoring.boards.training import TRAINING
from cluster.monitoring.panels import Board, Panel

BOARDS = (SERVICE, FLEET, MODEL, TRAINING, DATABASE)
DIRECTORY = Path(__file__).with_name("dashboards")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
STAT_HEIGHT, HEIGHT = 4, 8
STAT_SPAN, SPAN = 4, 8
"""Widths in Grafana's 24 columns."""


def to_json(board: Board) -> str:
    """Return a dashboard as Grafana's JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"hydraulic-{board.name}")
        .description(board.description)
        .tags(["hydraulic-diagnostics"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    numbers = count(1)
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made = made.with_panel(_panel(panel).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    made: timeseries.Panel | stat.Panel
    if panel.kind == "stat":
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        made = (
            stat.Panel()
            .span(STAT_SPAN)
            .height(STAT_HEIGHT)
            .graph_mode(BigValueGraphMode.NONE)
            .reduce_options(last)
        )
    else:
        made = (
            timeseries.Panel()
            .span(SPAN)
            .height(HEIGHT)
            .fill_opacity(8)
            .legend(common.VizLegendOptions().show_legend(True))  # noqa: FBT003 - Grafana's
        )
    made = made.title(panel.title).unit(panel.unit).datasource(SOURCE)
    if panel.description:
        made = made.description(panel.description)
    for name, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(name).expr(query.expression).datasource(SOURCE)
        made = made.with_target(target.legend_format(query.legend) if query.legend else target)
    return made


def main() -> None:
    """Write all dashboards."""
    for board in BOARDS:
        path = DIRECTORY / f"{board.name}.json"
        path.write_text(to_json(board), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
