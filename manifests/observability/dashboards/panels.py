"""Panels, rows and variables in the one style that all dashboards have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import stat, table, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
"""Columns of Grafana's grid."""

Query = tuple[str, str]
"""PromQL, and the legend for its series."""


def dashboard(title: str, uid: str, since: str = "now-30m") -> Dashboard:
    """An empty dashboard with the choice of a Prometheus."""
    return (
        Dashboard(title)
        .uid(uid)
        .tags(["ambient-mesh"])
        .refresh("15s")
        .time(since, "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )


def variable(name: str, label: str, metric: str, of: str) -> QueryVariable:
    """Values of the label ``of`` in series of ``metric`` (a selector); all of them by default."""
    return (
        QueryVariable(name)
        .label(label)
        .query(f"label_values({metric}, {of})")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def row(title: str) -> Row:
    """A heading."""
    return Row(title)


def _targets(queries: Sequence[Query]) -> list[Dataquery]:
    return [
        Dataquery()
        .datasource(SOURCE)
        .expr(expr)
        .legend_format(legend)
        .ref_id(chr(ord("A") + index))
        for index, (expr, legend) in enumerate(queries)
    ]


def lines(
    title: str, unit: str, *queries: Query, text: str = "", span: int = 12
) -> timeseries.Panel:
    """How something developed."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .height(8)
        .span(span)
        .min(0)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def number(title: str, unit: str, expr: str, text: str = "", span: int = 6) -> stat.Panel:
    """What something is now."""
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .height(4)
        .span(span)
        .with_target(Dataquery().datasource(SOURCE).expr(expr).legend_format("").ref_id("A"))
    )


def rows_of(title: str, *queries: Query, text: str = "", span: int = WIDTH) -> table.Panel:
    """A table: one line a set of labels, one column a query."""
    panel = table.Panel().title(title).description(text).datasource(SOURCE).height(9).span(span)
    for index, (expr, name) in enumerate(queries):
        panel = panel.with_target(
            Dataquery()
            .datasource(SOURCE)
            .expr(expr)
            .legend_format(name)
            .format(PromQueryFormat.TABLE)
            .instant()
            .ref_id(chr(ord("A") + index))
        )
    return panel


def quantiles(histogram: str, selector: str, by: str = "") -> list[Query]:
    """p50, p90 and p99 of a histogram of Prometheus; ``by`` are labels to keep."""
    keep = f"le, {by}" if by else "le"
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else ""
    return [
        (
            f"histogram_quantile({share}, sum by ({keep}) "
            f"(rate({histogram}_bucket{{{selector}}}[$__rate_interval])))",
            f"{legend} {name}".strip(),
        )
        for share, name in (("0.50", "p50"), ("0.90", "p90"), ("0.99", "p99"))
    ]


def rate(metric: str, selector: str, by: str = "") -> str:
    """A second, summed by labels."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{selector}}}[$__rate_interval]))"


def process(app: str) -> list[timeseries.Panel]:
    """What the processes of a component use, by pod."""
    return [
        lines(
            "Memory", "bytes", (f'process_resident_memory_bytes{{app="{app}"}}', "{{pod}}"), span=8
        ),
        lines(
            "CPU",
            "short",
            (f'rate(process_cpu_seconds_total{{app="{app}"}}[$__rate_interval])', "{{pod}}"),
            span=8,
        ),
        lines("Open files", "short", (f'process_open_fds{{app="{app}"}}', "{{pod}}"), span=8),
    ]
