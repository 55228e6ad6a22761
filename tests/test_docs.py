import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.omnigen2.names import OMNIGEN2
from service.checkpoints import size_table
from service.settings import Settings
from tests.promtool import needs_promtool, run_promtool
from tests.service.test_metrics import API

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
WATCHING = (ROOT / "docs/watching.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```promql\n(.*?)```", WATCHING, re.DOTALL)


ROW = re.compile(r"^\| `(\S+)` \| `(\S+)` \|$", re.MULTILINE)


def test_the_sizes_are_those_that_the_command_prints() -> None:
    text = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
    for name in ("omnigen2", "hbridge"):
        assert f"`hbridge size {name}`:\n\n{size_table(name)}\n" in text


def test_the_names_are_those_of_the_tables() -> None:
    text = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
    rows = ROW.findall(text.partition("## Published names")[2])
    assert len(rows) >= 7
    assert all(OMNIGEN2.ours(published) == ours for published, ours in rows)


def test_the_examples_of_the_model_api_run(
    drawing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(drawing_folder, tmp_path / "checkpoint")
    shutil.copytree(ROOT / "tests/goldens/hbridge", tmp_path / "goldens")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "docs/model-api.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 9
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/model-api.md, example {number}", "exec"), names)


def test_the_operators_page_explains_every_metric_and_uses_no_other() -> None:
    assert {f"hbridge_{name}" for name in API} == set(
        re.findall(r"^\| `(hbridge_\w+)`", WATCHING, re.MULTILINE)
    )
    used = re.findall(r"hbridge_\w+", "".join(QUERIES))
    names = {re.sub(r"_(bucket|sum|count)$", "", name).removeprefix("hbridge_") for name in used}
    assert len(names) >= 5
    assert names <= API


def test_the_operators_page_names_settings_that_there_are() -> None:
    named = set(re.findall(r"HBRIDGE_(\w+)", WATCHING))
    assert len(named) >= 5
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


@pytest.mark.slow
@needs_promtool
def test_the_queries_of_the_operators_page_are_promql(tmp_path: Path) -> None:
    queries = [query for block in QUERIES for query in re.sub(r"(?m)^#.*\n", "", block).strip().split("\n\n")]
    assert len(queries) == 4
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    groups = [{"name": "queries", "rules": recorded}]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": groups}))
    assert f"{len(queries)} rules found" in run_promtool("check", "rules", tmp_path / "rules.json")


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    tests = [row.split(" | ")[2] for row in rows if row.count(" | ") == 2]
    named = {name for cell in tests for name in re.findall(r"`([^`]+)`", cell)}
    files = [path for folder in ("tests", "service") for path in (ROOT / folder).rglob("*.py")]
    words = "".join(path.name + path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    assert len(named) > 30
    assert not [name for name in named if name not in words]
