"""Panels, rows and variables in the one style that all dashboards have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import stat, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from manifests.observability.dashboards.descriptions import DESCRIPTIONS

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
"""Columns of Grafana's grid."""

Query = tuple[str, str]
"""PromQL, and the legend for its series."""
Column = tuple[str, str, str]
"""PromQL, the column's name and its unit."""
TAG: Final = "ambient-mesh"


def dashboard(title: str, uid: str, since: str = "now-30m") -> Dashboard:
    """An empty dashboard with the choice of a Prometheus."""
    return (
        Dashboard(title)
        .uid(uid)
        .tags([TAG])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            DashboardLink("Ambient")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
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
        Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(_letter(index))
        for index, (expr, legend) in enumerate(queries)
    ]


def lines(title: str, unit: str, *queries: Query, span: int = 12) -> timeseries.Panel:
    """How something developed."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(DESCRIPTIONS[title])
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


def number(title: str, unit: str, expr: str, span: int = 6) -> stat.Panel:
    """What something is now."""
    return (
        stat.Panel()
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .title(title)
        .description(DESCRIPTIONS[title])
        .unit(unit)
        .datasource(SOURCE)
        .height(4)
        .span(span)
        .with_target(Dataquery().datasource(SOURCE).expr(expr).legend_format("").ref_id("A"))
    )


def rows_of(title: str, *columns: Column, span: int = WIDTH) -> table.Panel:
    """A table: one line a set of labels, one column a query."""
    names = {f"Value #{_letter(index)}": name for index, (_, name, _) in enumerate(columns)}
    panel = (
        table.Panel()
        .title(title)
        .description(DESCRIPTIONS[title])
        .datasource(SOURCE)
        .height(9)
        .span(span)
        .show_header(True)
        .with_transformation(DataTransformerConfig("merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                "organize", options={"excludeByName": {"Time": True}, "renameByName": names}
            )
        )
    )
    for index, (expr, name, unit) in enumerate(columns):
        panel = panel.override_by_name(name, [DynamicConfigValue("unit", unit)]).with_target(
            Dataquery()
            .datasource(SOURCE)
            .expr(expr)
            .format(PromQueryFormat.TABLE)
            .instant()
            .ref_id(_letter(index))
        )
    return panel


def _letter(index: int) -> str:
    return chr(ord("A") + index)


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
