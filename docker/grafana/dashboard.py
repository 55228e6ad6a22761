"""The Grafana dashboard as code: `python docker/grafana/dashboard.py` writes dashboards/hbridge.json.

It is no part of the product, so it is in no package; it lies beside its output, which Grafana's container
mounts.
"""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

OUTPUT = Path(__file__).parent / "dashboards/hbridge.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
COLORS = ("green", "orange", "red")
SHARE, SECONDS, BYTES, EACH_SECOND, COUNT = "percentunit", "s", "bytes", "ops", "short"
BUDGET = 0.005
"""Share of requests that may fail, as in prometheus/rules/alerts.yml."""


def series(name: str, *matchers: str) -> str:
    """Select a metric of the chosen servers."""
    chosen = ", ".join(('job="$job"', 'instance=~"$instance"', *matchers))
    return f"{name}{{{chosen}}}"


def rate(name: str, *matchers: str, by: str = "") -> str:
    """Sum how fast a counter grows over the chosen servers."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({series(name, *matchers)}[$__rate_interval]))"


def quantile(q: float, name: str, by: str = "") -> str:
    """Estimate a quantile of a histogram over the chosen servers."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', by=labels)})"


def mean(name: str) -> str:
    """Return a histogram's mean over the chosen servers."""
    return f"{rate(f'{name}_sum')} / {rate(f'{name}_count')}"


def query(expr: str, legend: str) -> Dataquery:
    """Ask Prometheus."""
    return Dataquery().datasource(SOURCE).expr(expr).legend_format(legend)


def stat(title: str, unit: str, expr: str, text: str, limits: tuple[float, ...] = ()) -> Stat:
    """Show one number, in colours from the given limits on."""
    steps = [
        Threshold(value=limit, color=color) for limit, color in zip((None, *limits), COLORS, strict=False)
    ]
    return (
        Stat()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .with_target(query(expr, "").ref_id("A"))
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(4)
    )


def graph(title: str, unit: str, exprs: Mapping[str, str], text: str, *, is_stacked: bool = False) -> Graph:
    """Draw lines over time, by legend and expression."""
    panel = (
        Graph()
        .title(title)
        .description(text)
        .unit(unit)
        .min(0)
        .datasource(SOURCE)
        .show_points(VisibilityMode.NEVER)
        .legend(
            VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .height(8)
        .span(8)
    )
    if is_stacked:
        panel = panel.fill_opacity(40).stacking(StackingConfig().mode(StackingMode.NORMAL))
    for place, (legend, expr) in enumerate(exprs.items()):
        panel = panel.with_target(query(expr, legend).ref_id(chr(ord("A") + place)))
    return panel


def overview() -> list[Stat]:
    """Say whether all is well."""
    firing = 'ALERTS{alertname=~"HBridge.*", alertstate="firing"}'
    latency = f"histogram_quantile(0.95, {rate('hbridge_request_seconds_bucket', by='le')})"
    return [
        stat("Servers up", COUNT, f"sum({series('up')})", "Servers that answered the last scrape."),
        stat(
            "Alerts firing",
            COUNT,
            f"count({firing}) or vector(0)",
            "docs/runbooks has a page for each.",
            (1,),
        ),
        stat(
            "Failing, last hour",
            SHARE,
            'job:hbridge_requests_bad:ratio_rate1h{job="$job"}',
            "Requests that ended in 500 or 503, of these and the good ones. The budget is 0.5%.",
            (BUDGET, 14.4 * BUDGET),
        ),
        stat(
            "Requests",
            EACH_SECOND,
            rate("hbridge_requests_total"),
            "Requests for work, whatever came of them.",
        ),
        stat("95% answered within", SECONDS, latency, "From arrival to the last byte, all tasks together."),
        stat(
            "Work that is in",
            SECONDS,
            f"sum({series('hbridge_queued_device_seconds')})",
            "What all jobs still need on the device, as far as costs are known.",
            (60,),
        ),
    ]


def requests() -> list[Graph]:
    """Say what is asked and what comes of it."""
    seconds = "hbridge_request_seconds"
    windows = ("5m", "30m", "1h", "6h", "3d")
    return [
        graph(
            "Requests by outcome",
            EACH_SECOND,
            {"{{task}} {{outcome}}": rate("hbridge_requests_total", by="task, outcome")},
            "rejected: 4xx, 503, 504, 507; cancelled: the client left; failed: 500.",
            is_stacked=True,
        ),
        graph(
            "Refused, by code",
            EACH_SECOND,
            {"{{reason}}": rate("hbridge_requests_rejected_total", by="reason")},
            "docs/errors.md says what each code means.",
            is_stacked=True,
        ),
        graph(
            "Failing, by window",
            SHARE,
            {w: f'job:hbridge_requests_bad:ratio_rate{w}{{job="$job"}}' for w in windows},
            "HBridgeErrorBudgetFast and -Slow compare pairs of these with the budget, 0.5%.",
        ),
        graph(
            "Time to the answer",
            SECONDS,
            {
                "{{task}} 50%": quantile(0.5, seconds, "task"),
                "{{task}} 95%": quantile(0.95, seconds, "task"),
                "{{task}} 99%": quantile(0.99, seconds, "task"),
            },
            "From arrival to the last byte, whatever the outcome.",
        ),
        graph(
            "Time to the first sight",
            SECONDS,
            {
                "first token 95%": quantile(0.95, "hbridge_time_to_first_token_seconds"),
                "first preview 95%": quantile(0.95, "hbridge_time_to_first_preview_seconds"),
            },
            "From admission to an answer's first token, or a drawing's first preview.",
        ),
        graph(
            "Cut off, by stage",
            EACH_SECOND,
            {
                "{{stage}}": rate("hbridge_cancellations_total", by="stage"),
                "at the deadline": rate("hbridge_deadline_missed_total"),
            },
            "Where jobs were whose client left or whose deadline passed; the last line is a part of them.",
        ),
    ]


def queue() -> list[Graph]:
    """Say who waits, and how long."""
    return [
        graph(
            "Jobs that are in",
            COUNT,
            {
                "running": f"sum({series('hbridge_requests_running')})",
                "waiting, {{priority}}": f"sum by (priority) ({series('hbridge_requests_waiting')})",
            },
            "Jobs on the device, and those that have not begun.",
            is_stacked=True,
        ),
        graph(
            "Time in the queue",
            SECONDS,
            {
                "{{priority}} 50%": quantile(0.5, "hbridge_queue_seconds", "priority"),
                "{{priority}} 95%": quantile(0.95, "hbridge_queue_seconds", "priority"),
            },
            "From admission until a job begins. HBridgeQueueLong watches 95% of the interactive ones.",
        ),
        graph(
            "Work that is in, by server",
            SECONDS,
            {"{{instance}}": series("hbridge_queued_device_seconds")},
            "What the jobs still need on the device; what replicas are scaled on.",
        ),
    ]


def device() -> list[Graph]:
    """Say what the device does with its time."""
    return [
        graph(
            "Device busy, by stage",
            SHARE,
            {"{{stage}}": rate("hbridge_device_busy_seconds_total", by="stage")},
            "Share of time; of several servers the sum, so that each counts for 100%.",
            is_stacked=True,
        ),
        graph(
            "For whom the device works",
            SHARE,
            {
                "{{task}}": rate("hbridge_device_seconds_total", by="task"),
                "cut off": rate("hbridge_wasted_device_seconds_total"),
            },
            "Entered when a job ends, so that long jobs come in bumps.",
            is_stacked=True,
        ),
        graph(
            "Packed steps, 95%",
            SECONDS,
            {
                "prefill": quantile(0.95, "hbridge_prefill_seconds"),
                "flow step": quantile(0.95, "hbridge_step_seconds"),
                "decode": quantile(0.95, "hbridge_decode_seconds"),
            },
            "One packed call, over all jobs in it.",
        ),
        graph(
            "Rows of a flow step",
            COUNT,
            {"mean": mean("hbridge_step_rows")},
            "A row is a picture and a guidance branch; more rows, better packing.",
        ),
        graph(
            "Image tokens of a flow step",
            COUNT,
            {"mean": mean("hbridge_step_tokens")},
            "References included.",
        ),
        graph(
            "FLOP/s",
            COUNT,
            {"computed": rate("hbridge_model_flops_total")},
            "Counted from shapes; idle time included.",
        ),
        graph(
            "Flow steps",
            EACH_SECOND,
            {"{{mode}}": rate("hbridge_steps_total", by="mode")},
            "Computed, or skipped by acceleration.",
        ),
        graph(
            "Model FLOPs utilisation",
            SHARE,
            {"{{instance}}": series("hbridge_mfu_ratio")},
            "Of about the last hundred steps; empty unless HBRIDGE_PEAK_FLOPS is set.",
        ),
    ]


def cache() -> list[Graph]:
    """Say what need not be read twice."""
    hits, asked = rate("hbridge_prefix_cache_hits_total"), rate("hbridge_prefix_cache_queries_total")
    return [
        graph(
            "Prompts found in the cache",
            SHARE,
            {
                "now": f"{hits} / {asked}",
                "30 minutes": 'job:hbridge_prefix_cache_hits:ratio_rate30m{job="$job"}',
            },
            "HBridgeCacheCollapsed compares the half hour with the day before.",
        ),
        graph(
            "Prompts and tokens",
            EACH_SECOND,
            {"prompts asked for": asked, "tokens read": rate("hbridge_prefilled_tokens_total")},
            "Tokens of jobs that went well.",
        ),
        graph(
            "Kept",
            BYTES,
            {"{{instance}}": series("hbridge_prefix_cache_bytes")},
            "Contexts and encoded references.",
        ),
    ]


def processes() -> list[Graph]:
    """Say how the processes do."""
    return [
        graph(
            "Restarts within 15 minutes",
            COUNT,
            {
                "engine, {{instance}}": f"increase({series('hbridge_engine_restarts_total')}[15m])",
                "server, {{instance}}": f"changes({series('process_start_time_seconds')}[15m])",
            },
            "The engine's process ended or hung and was started again; or the whole server was.",
        ),
        graph(
            "Memory of the server",
            BYTES,
            {"{{instance}}": series("process_resident_memory_bytes")},
            "Without its engine's process.",
        ),
        graph(
            "Processor time of the server",
            SHARE,
            {"{{instance}}": f"rate({series('process_cpu_seconds_total')}[$__rate_interval])"},
            "Of one core, without its engine's process.",
        ),
    ]


def outside() -> list[Graph]:
    """Say how asynchronous jobs end, and what goes out."""
    return [
        graph(
            "Jobs by end",
            EACH_SECOND,
            {"{{task}} {{state}}": rate("hbridge_jobs_total", by="task, state")},
            "Of /v1/jobs, and of idempotency keys.",
            is_stacked=True,
        ),
        graph(
            "Tries to deliver a webhook",
            EACH_SECOND,
            {"{{outcome}}": rate("hbridge_webhooks_total", by="outcome")},
            "failed: given up.",
            is_stacked=True,
        ),
        graph(
            "Images not fetched",
            EACH_SECOND,
            {"{{reason}}": rate("hbridge_fetch_blocked_total", by="reason")},
            "Why images at remote addresses were not fetched.",
            is_stacked=True,
        ),
    ]


ROWS = {
    "Requests": requests,
    "Queue": queue,
    "Device": device,
    "Cache": cache,
    "Processes": processes,
    "Jobs, webhooks, fetches": outside,
}


def dashboard() -> Dashboard:
    """Put all rows together."""
    build_info = 'hbridge_build_info{job="$job"}'
    board = (
        Dashboard("hbridge")
        .uid("hbridge")
        .description("Written by docker/grafana/dashboard.py; docs/watching.md explains it.")
        .tags(["hbridge"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Pool", "hbridge_build_info"))
        .with_variable(
            variable("instance", "Server", build_info).multi(True).include_all(True).all_value(".*")
        )
        .annotation(
            AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr('ALERTS{alertname=~"HBridge.*", alertstate="firing"}')
        )
    )
    ids = count(1)
    for number in overview():
        board = board.with_panel(number.id(next(ids)))
    for title, graphs in ROWS.items():
        board = board.with_row(Row(title).id(next(ids)))
        for lines in graphs():
            board = board.with_panel(lines.id(next(ids)))
    return board


def variable(name: str, label: str, metric: str) -> QueryVariable:
    """Let a label's value be chosen, of those that a metric has now."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def render() -> str:
    """Return the dashboard as Grafana reads it."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(render(), encoding="utf-8")
