"""Rules, dashboard and runbooks: do they agree with each other, and with what the service tells?"""

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.engine.job import IDLE
from service.metrics import Metrics
from tests.docker.watched import (
    ALERTS,
    DASHBOARD,
    PROMETHEUS,
    RECORDS,
    ROOT,
    RUNBOOKS,
    read_panels,
    read_queries,
    selectors,
)
from tests.promtool import needs_promtool, run_promtool

GIVEN = {"job", "instance", "namespace", "alertname", "alertstate", "severity"}
"""Labels that Prometheus adds."""
PROMETHEUS_OWN = {"up", "ALERTS"}
EXPRESSIONS = [
    *((name, rule["expr"]) for name, rule in ALERTS.items()),
    *RECORDS.items(),
    *((drawn.panel, drawn.expr) for drawn in read_panels()),
    *((page.stem, query) for page in RUNBOOKS for query in read_queries(page)),
]
HEADINGS = ["What it means", "Who is hurt", "How to look", "What to do", "When it is a false alarm"]


@pytest.fixture(scope="module")
def told() -> dict[str, list[dict[str, str]]]:
    """Return what a server tells before it has done anything: labels by series."""
    metrics = Metrics()
    metrics.describe(model="m", num_running=lambda: 0, status=lambda: IDLE, peak_flops=1.0)
    series: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(dict(sample.labels))
    return series


@pytest.mark.parametrize(("place", "expr"), EXPRESSIONS, ids=lambda value: str(value)[:60])
def test_every_series_that_is_asked_for_is_told_or_recorded(
    place: str, expr: str, told: dict[str, list[dict[str, str]]]
) -> None:
    asked = list(selectors(expr))
    assert asked, f"{place} asks for nothing of ours"
    for name, matchers in asked:
        assert name in told or name in RECORDS or name in PROMETHEUS_OWN, f"{place}: {name}"
        for label, value in matchers:
            if name in told and label not in GIVEN:
                found = [labels.get(label, "") for labels in told[name]]
                assert any(re.fullmatch(value, each) for each in found), (
                    f'{place}: {name}{{{label}="{value}"}}'
                )


def test_every_metric_that_a_runbook_names_is_there(told: dict[str, list[dict[str, str]]]) -> None:
    for page in RUNBOOKS:
        named = set(re.findall(r"\bhbridge_[a-z_]+\b", page.read_text(encoding="utf-8")))
        histograms = {name.removesuffix("_bucket") for name in told if name.endswith("_bucket")}
        recorded = {part for name in RECORDS for part in name.split(":")}
        assert named <= told.keys() | histograms | recorded, page.name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(ALERTS) == [page.stem for page in RUNBOOKS if page.stem != "README"]
    index = (ROOT / "docs/runbooks/README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", index, re.MULTILINE) == [
        (name, rule["labels"]["severity"]) for name, rule in ALERTS.items()
    ]


def test_the_operators_page_lists_every_alert() -> None:
    page = (ROOT / "docs/watching.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| .* \| (\w+) \|$", page, re.MULTILINE)
    assert listed == [(name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]


@pytest.mark.parametrize(
    "page", [page for page in RUNBOOKS if page.stem != "README"], ids=lambda page: page.stem
)
def test_a_runbook_has_all_its_parts_and_a_query(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert read_queries(page)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert (ROOT / rule["annotations"]["runbook_url"]).stem == name
    assert "{{ $" in rule["annotations"]["description"] or rule["expr"].startswith("absent(")
    # What does not look back over a window of its own has to last before it is told.
    assert "for" in rule or re.search(r"\[(10|15|30)m\]", rule["expr"])


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_both_firing_and_silent(name: str) -> None:
    tests = [
        test
        for file in (PROMETHEUS / "tests").glob("*.yml")
        for test in yaml.safe_load(file.read_text())["tests"]
        if test["name"].startswith(f"{name}: ")
    ]
    expected = [rule["exp_alerts"] for test in tests for rule in test["alert_rule_test"]]
    assert all(rule["alertname"] == name for test in tests for rule in test["alert_rule_test"])
    assert any(expected)
    assert not all(expected)


def test_the_dashboard_is_what_its_code_says() -> None:
    assert (
        DASHBOARD.read_text(encoding="utf-8")
        == runpy.run_path(str(ROOT / "docker/grafana/dashboard.py"))["render"]()
    )


def test_no_two_panels_share_an_id_or_a_place() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


@pytest.mark.slow
@needs_promtool
def test_config_rules_and_runbooks_are_what_prometheus_reads(tmp_path: Path) -> None:
    run_promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    words = run_promtool("check", "rules", *(PROMETHEUS / "rules").glob("*.yml"))
    assert f"{len(ALERTS)} rules found" in words
    assert f"{len(RECORDS)} rules found" in words
    queries = [query for page in RUNBOOKS for query in read_queries(page)]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in run_promtool("check", "rules", tmp_path / "queries.yml")


@pytest.mark.slow
@needs_promtool
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_stay_silent_when_they_should_not(file: Path) -> None:
    assert "SUCCESS" in run_promtool("test", "rules", file)
