import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


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


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    tests = [row.split(" | ")[2] for row in rows if row.count(" | ") == 2]
    named = {name for cell in tests for name in re.findall(r"`([^`]+)`", cell)}
    files = [path for folder in ("tests", "service") for path in (ROOT / folder).rglob("*.py")]
    words = "".join(path.name + path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    assert len(named) > 30
    assert not [name for name in named if name not in words]
