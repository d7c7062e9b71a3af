"""Writes `deploy/monitoring/dashboard.json`, Grafana's dashboard of servers and train service.

python deploy/monitoring/dashboard.py [FILE]
"""

import itertools
import string
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh, VariableSort
from panels import ROWS, Panel

PAGE = Path(__file__).with_suffix(".json")
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 8, 8


def text() -> str:
    """The dashboard, as Grafana reads it."""
    page = (
        dashboard.Dashboard("Trapline")
        .uid("trapline")
        .tags(["trapline"])
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(1)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(_SOURCE)
            .query("label_values(trapline_model_error, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    number = itertools.count(1)
    for title, panels in ROWS.items():
        page.with_row(dashboard.Row(title).id(next(number)))
        for each in panels:
            page.with_panel(_built(each).id(next(number)))
    return JSONEncoder(sort_keys=True, indent=2).encode(page.build()) + "\n"


def _built(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .span(_WIDTH)
        .height(_HEIGHT)
        .min(0)
        .legend(common.VizLegendOptions().show_legend(True))
    )
    for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        built.with_target(prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend))
    return built


if __name__ == "__main__":
    Path(*sys.argv[1:] or [PAGE]).write_text(text(), encoding="utf-8")
