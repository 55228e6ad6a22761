"""What is watched: rules, panels and runbooks, and the selectors of their PromQL."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker/prometheus"
DASHBOARD = ROOT / "docker/grafana/dashboards/hbridge.json"
RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
OURS = r"(?:(?:hbridge|process)_\w+|(?:job|instance):hbridge\w+:\w+|up\b|ALERTS\b)"
SELECTOR = re.compile(rf"(?<![\w:]){OURS}(?:\{{[^}}]*\}})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
QUERIES = re.compile(r"```promql\n(.*?)```", re.DOTALL)


def read_rules(kind: str) -> list[dict[str, Any]]:
    """Return all rules of a kind: "alert" or "record"."""
    files = sorted((PROMETHEUS / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


ALERTS = {rule["alert"]: rule for rule in read_rules("alert")}
RECORDS = {rule["record"]: rule["expr"] for rule in read_rules("record")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An expression of a panel, and where it is drawn."""

    panel: str
    legend: str
    expr: str


def read_panels() -> list[Drawn]:
    """Return every expression of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [
        Drawn(panel=panel["title"], legend=target["legendFormat"], expr=target["expr"])
        for panel in panels
        for target in panel.get("targets", ())
    ]


def read_queries(page: Path) -> list[str]:
    """Return a page's queries: those of a block are apart by an empty line, and may begin with comments."""
    blocks = QUERIES.findall(page.read_text(encoding="utf-8"))
    return [query for block in blocks for query in re.sub(r"(?m)^#.*\n", "", block).strip().split("\n\n")]


def selectors(expr: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Take the selectors out of an expression: names, and labels with each value that is asked for."""
    for text in SELECTOR.findall(expr):
        name = re.split(r"\{", text)[0]
        asked = [(label, value) for label, _, values in MATCHER.findall(text) for value in values.split("|")]
        yield name, asked
