import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.quality import Cell, Suite, page, plot, report


def cell(suite: Suite, steps: int, guidance: float, right: int, size: str = "") -> Cell:
    return Cell(
        table="sizes" if size else "sampling",
        suite=suite,
        size=size or "64x64",
        num_inference_steps=steps,
        guidance_scale=guidance,
        right=right,
        count=20,
        seconds=0.5,
    )


@pytest.fixture
def cells() -> Sequence[Cell]:
    grid = [
        cell(suite, steps, guidance, steps - int(guidance))
        for suite in ("generate", "edit")
        for steps in (10, 20)
        for guidance in (1.0, 3.0)
    ]
    sizes = [cell("generate", 20, 3.0, right, size) for size, right in (("64x64", 17), ("96x64", 10))]
    return [*grid, *sizes]


def test_the_page_has_every_score_with_its_interval(cells: Sequence[Cell], tmp_path: Path) -> None:
    text = page(cells, "quality")
    assert "| 20 | 0.95 (0.76 to 0.99) | 0.85 (0.64 to 0.95) | 0.50 |" in text
    assert text.count("| 10 | 0.45 (0.26 to 0.66) |") == 2
    assert "| 96x64 | 0.50 (0.30 to 0.70) | 0.59 | 0.50 |" in text
    plot(cells, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 10_000
    assert report(cells)[0] == {
        "table": "sampling",
        "suite": "generate",
        "size": "64x64",
        "num_inference_steps": 10,
        "guidance_scale": 1.0,
        "right": 9,
        "count": 20,
        "share": 0.45,
        "interval": [0.2582, 0.6579],
        "seconds": 0.5,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shipped_model_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.quality.GUIDANCE", {"generate": (1.0, 3.0), "edit": (2.0,)})
    path = tmp_path / "quality.json"
    done = CliRunner().invoke(app, ["quality", "--per-kind", "1", "--steps", "2", "--output", str(path)])
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())
    assert {each["suite"] for each in record["cells"]} == {"generate", "edit"}
    assert {each["count"] for each in record["cells"]} == {6}
    assert {each["size"] for each in record["cells"]} >= {"64x64", "96x64", "64x96"}
    assert path.with_suffix(".md").exists()
    assert path.with_suffix(".png").exists()
