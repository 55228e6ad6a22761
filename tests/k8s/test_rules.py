"""The PrometheusRules are the rules of docker/prometheus; `python -m tests.k8s.test_rules` writes them."""

from pathlib import Path
from typing import Any

import yaml

from tests.k8s.rendered import K8S, ROOT, of_kind

RULES = sorted((ROOT / "docker/prometheus/rules").glob("*.yml"))
FILE = K8S / "components/monitoring/rules.yaml"
HEAD = "# Made of docker/prometheus/rules by `python -m tests.k8s.test_rules`.\n"


class Text(yaml.SafeDumper):
    """Writes expressions of several lines as they are."""


Text.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def groups_of(path: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return groups


def written() -> str:
    """Return the component's file: one resource for each file of rules."""
    resources = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": f"hbridge-{path.stem}",
                "namespace": "hbridge",
                "labels": {"app.kubernetes.io/name": "hbridge"},
            },
            "spec": {"groups": groups_of(path)},
        }
        for path in RULES
    ]
    return HEAD + yaml.dump_all(resources, Dumper=Text, sort_keys=False, width=1000)


def test_the_rules_are_those_of_the_file() -> None:
    assert RULES
    assert FILE.read_text() == written(), "if it is meant: python -m tests.k8s.test_rules"


def test_no_rule_is_lost_on_the_way() -> None:
    made = {
        each["metadata"]["name"]: each["spec"]["groups"]
        for each in of_kind("h100+monitoring", "PrometheusRule")
    }
    assert made == {f"hbridge-{path.stem}": groups_of(path) for path in RULES}


if __name__ == "__main__":
    FILE.write_text(written())
